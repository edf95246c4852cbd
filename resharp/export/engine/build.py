"""Builds, stores and checks the engines of one bundle, skipping those that are finished."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from resharp import __version__
from resharp.checks import check_choice, check_int, shown
from resharp.engines import (
    Bundle,
    Engine,
    EngineSpec,
    File,
    Manifest,
    ParityResult,
    Profile,
    file_part,
)
from resharp.engines.reference import FLOOR_DB, Reference, reference_file
from resharp.engines.target import Target, choose_tile
from resharp.errors import BuildError, OptionError, ParityError
from resharp.export.engine.builder import Cancel, build, in_background
from resharp.export.engine.typed_graph import TYPING, compare, make_reference, typed_graph
from resharp.fsutil import sha256_of
from resharp.gpu import tensorrt as variants
from resharp.gpu.cuda import current_gpu
from resharp.models.io import DTYPES
from resharp.models.precision import LARGE, PRECISIONS
from resharp.types import Log

SMALLEST = 16
"""Side in pixels of the smallest input of an engine; smaller images are padded to it."""
PRECISION_FALLBACK = ("fp16", "mixed", "fp32")
"""Precisions to try in turn if none is requested, starting at the one in the manifest."""
USER_ALLOCATION = "user_allocation"
"""Spec option of TensorRT-RTX engines that allocate no memory themselves; see :func:`build`."""
PACKAGES = ("torch", "onnx", "onnxruntime")
"""Packages whose versions are recorded with an engine."""
_OLD = "sm75"  # Turing has no bfloat16
_NO_PRODUCT = "FP32 GEMM is not supported"

Check = Callable[[Bundle, Engine, int], ParityResult]
"""Runs an engine on the GPU of that index and compares it with its reference."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options for building engines."""

    variant: str | None = None
    """``tensorrt`` or ``tensorrt_rtx``; None takes the first that is installed."""
    precision: str | None = None
    """``fp16``, ``mixed``, ``fp32`` or ``bf16``; None takes the first of fp16, mixed and fp32 that
    is close enough to fp32, starting at the manifest's ``engine_precision``."""
    tile: int | None = None
    """Largest side of a tile in pixels; None chooses by the GPU's memory."""
    batch: int = 4
    """Most tiles or images per run."""
    dtypes: tuple[str, ...] = DTYPES
    """One engine for each: ``uint8``, and ``float32`` for 16-bit and float images."""
    optimization_level: int | None = None
    """TensorRT's builder optimization level 0..5; None is its default."""
    image: NDArray[Any] | None = None
    """uint8 BGR photo ``[h, w, 3]`` to check the engines on; None draws one."""
    force: bool = False
    """Rebuild finished engines."""

    def __post_init__(self) -> None:
        if self.precision is not None:
            check_choice("precision", self.precision, PRECISIONS)
        check_int("batch", self.batch, 1, 64)
        if self.tile is not None:
            check_int("tile", self.tile)
        if self.optimization_level is not None:
            check_int("optimization_level", self.optimization_level, 0, 5)
        if not self.dtypes or set(self.dtypes) - set(DTYPES):
            known = ", ".join(DTYPES)
            raise OptionError(f"`dtypes` must be one or more of {known}, got {shown(self.dtypes)}")


@dataclass(frozen=True, kw_only=True)
class Built:
    """Record of one engine."""

    engine: Engine
    seconds: float
    """Time in seconds to build and check it; 0 if it was already finished."""
    skipped: bool
    """Whether it was already finished."""
    parity: ParityResult | None
    """Comparison with FP32 on the GPU; None if there was no GPU to check it on."""


def build_engines(
    bundle: Bundle,
    target: Target,
    options: EngineOptions | None = None,
    *,
    check: Check | None = None,
    log: Log = lambda line: None,
    done: Callable[[Built], object] = lambda built: None,
) -> tuple[Built, ...]:
    """Build the engines of one bundle for one target, keeping those that are finished.

    Args:
        bundle: exported model.
        target: GPU, or kinds of GPUs, to build for.
        options: how to build; None takes the defaults.
        check: runs an engine on its GPU; None leaves the check to the engine's first use there.
        log: called with a line for each step.
        done: called with each engine as it is ready, also before another one fails.

    Returns:
        A record for each engine.

    Raises:
        BuildError: TensorRT could not build an engine.
        ParityError: the requested precision, or every precision, is too far from FP32.
        OutputError: the store cannot be written; nothing was changed.
        MissingExtraError: TensorRT is not installed.
    """
    options = options or EngineOptions()
    bundle.verify()
    work = _Work(bundle, target, options, check, log)
    built = []
    for dtype in options.dtypes:
        if dtype in bundle.manifest.graphs:
            built.append(work.build(dtype))
            done(built[-1])
    return tuple(built)


class _Work:
    """The builds of one bundle for one target."""

    def __init__(
        self,
        bundle: Bundle,
        target: Target,
        options: EngineOptions,
        check: Check | None,
        log: Log,
    ) -> None:
        self._bundle, self._target, self._options = bundle, target, options
        self._check, self._log = check, log
        self._variant = variants.pick(options.variant)
        self._trt = variants.load(self._variant)
        tile = choose_tile(bundle.manifest, target.memory, options.tile)
        least = SMALLEST if bundle.manifest.fixed_size is None else tile
        self._profile = Profile(smallest=least, tile=tile, batch=options.batch)
        self._precisions: tuple[str, ...] = (
            PRECISION_FALLBACK if options.precision is None else (options.precision,)
        )
        begin = bundle.manifest.engine_precision  # None in older manifests
        if options.precision is None and begin in PRECISION_FALLBACK[1:]:
            self._precisions = PRECISION_FALLBACK[PRECISION_FALLBACK.index(begin) :]
            log(f"{bundle.manifest.name}: {_reason(bundle.manifest)}: starting with {begin}")

    def build(self, dtype: str) -> Built:
        """Build in the first precision that is close enough, where the next dtype then starts."""
        while True:
            try:
                return self._one(dtype, self._precisions[0])
            except ParityError as error:
                if len(self._precisions) == 1:
                    raise
                self._precisions = self._precisions[1:]
                self._log(f"{error}; trying {self._precisions[0]}")

    def _one(self, dtype: str, precision: str) -> Built:
        spec = self._spec(dtype, precision)
        newer = _without_old(spec)
        for one in (spec, newer):
            done = None if self._options.force or one is None else self._done(one)
            if done is not None:  # needs no lock, so it works on a read-only store
                return self._skip(done)
        try:
            return self._build(spec)
        except BuildError as error:
            if newer is None or _NO_PRODUCT not in str(error):
                raise
            self._log(
                f"TensorRT-RTX has no fp32 matrix multiplication for {_OLD} (Turing): building for "
                f"{', '.join(newer.targets)}"
            )
            return self._build(newer)

    def _done(self, spec: EngineSpec) -> Engine | None:
        return self._bundle.engine_store.find(spec.key())

    def _build(self, spec: EngineSpec) -> Built:
        key, engine_store = spec.key(), self._bundle.engine_store
        waiting = f"another process is building {self._name(spec)}: waiting for it"
        began = time.monotonic()
        with engine_store.lock_for_build(key, on_wait=lambda: self._log(waiting)) as draft:
            done = None if self._options.force else self._done(spec)  # built while waiting
            if done is not None:
                return self._skip(done)
            data, graph, seconds = self._make(spec, draft.scratch())
            packed = self._reference.packed()
            engine = Engine(
                model=self._bundle.manifest.name,
                spec=spec,
                file=File(name=f"{key}.engine", sha256=sha256_of(data), size=len(data)),
                reference=reference_file(packed),
                graph=graph,
                seconds=round(seconds, 2),
                versions={
                    "resharp": __version__,
                    **{package: version(package) for package in PACKAGES},
                },
            )
            draft.commit(engine, data, packed)
        parity, spent = self._checked(engine), time.monotonic() - began
        return Built(engine=engine, seconds=spent, skipped=False, parity=parity)

    def _skip(self, engine: Engine) -> Built:
        self._log(f"{self._name(engine.spec)} is already built: nothing to do")
        if self._options.image is not None:
            self._log("`image` was not used: add `force` to rebuild and check on that image")
        return Built(engine=engine, seconds=0.0, skipped=True, parity=self._checked(engine))

    def _spec(self, dtype: str, precision: str) -> EngineSpec:
        manifest, target = self._bundle.manifest, self._target
        targets = target.targets
        if precision == "bf16" and _OLD in targets:
            targets = tuple(name for name in targets if name != _OLD)
            if not targets:
                raise OptionError(f"{_OLD} (Turing) has no bf16: use `precision`='fp16' or 'mixed'")
            self._log(f"{_OLD} (Turing) has no bf16: building for {', '.join(targets)}")
        options: dict[str, Any] = {"level": self._options.optimization_level, "typing": TYPING}
        if self._variant == variants.RTX:
            options[USER_ALLOCATION] = True
        return EngineSpec(
            graph=manifest.graphs[dtype].sha256,
            weights=manifest.weights.sha256,
            dtype=dtype,
            precision=precision,
            variant=self._variant,
            version=self._trt.__version__,
            targets=targets,
            gpu=target.gpu,
            capability=target.capability,
            driver=target.driver,
            profile=self._profile,
            options=options,
        )

    def _make(self, spec: EngineSpec, folder: Path) -> tuple[bytes, ParityResult, float]:
        name, reference = self._name(spec), self._reference
        self._log(f"{name}: preparing the graph")
        graph, infer = typed_graph(self._bundle, spec.dtype, spec.precision, folder)
        extra = self._bundle.manifest.extra_values()
        parity = compare(lambda batch: infer(batch, *extra), reference, spec.dtype)
        if not parity.passed:
            raise ParityError(
                f"{name}: the graph reaches only {parity.psnr:.1f} dB against fp32 on the CPU "
                f"(at least {FLOOR_DB:.0f} are required)"
            )
        began, cancel = time.monotonic(), Cancel()
        timing_cache = None  # TensorRT-RTX times no kernels when building
        if self._variant == variants.TENSORRT:
            kind = file_part(f"{spec.gpu}-{spec.version}")
            timing_cache = self._bundle.engine_store.folder / f"timing-{kind}.cache"

        def work() -> bytes:
            with current_gpu(self._target.device):  # per thread, not per process
                return build(
                    self._trt,
                    graph,
                    spec.profile,
                    inputs=1 + len(extra),
                    targets=spec.targets,
                    level=self._options.optimization_level,
                    timing_cache=timing_cache,
                    user_allocation=bool(spec.options.get(USER_ALLOCATION)),
                    log=lambda line: self._log(f"{name}: {line}"),
                    cancel=cancel,
                )

        data = in_background(work, cancel, self._log)
        return data, parity, time.monotonic() - began

    def _checked(self, engine: Engine) -> ParityResult | None:
        if self._check is None or self._target.index is None:
            return None
        parity = self._check(self._bundle, engine, self._target.index)
        if not parity.passed:
            raise ParityError(
                f"{self._name(engine.spec)}: the engine reaches only {parity.psnr:.1f} dB against "
                f"fp32 on {self._target.label} (at least {FLOOR_DB:.0f} are required): it will not "
                "be used"
            )
        return parity

    @cached_property
    def _reference(self) -> Reference:
        self._log("running the fp32 graph on the CPU as the reference")
        return make_reference(self._bundle, self._profile.tile, self._options.image)

    def _name(self, spec: EngineSpec) -> str:
        model = self._bundle.manifest.name
        return f"{model} {spec.dtype} {spec.precision} for {self._target.label}"


def _reason(manifest: Manifest) -> str:
    if manifest.peak is None:
        return "its activations are not finite on the export image"
    return (
        f"its activations reach {manifest.peak:,.0f} on the export image, over {LARGE:,.0f}, and "
        "fp16 ends at 65,504"
    )


def _without_old(spec: EngineSpec) -> EngineSpec | None:
    """Return the spec without Turing; None if Turing is not a target, or is the only one."""
    targets = tuple(name for name in spec.targets if name != _OLD)
    return replace(spec, targets=targets) if targets and targets != spec.targets else None

"""Builds the engines of one bundle: skip what is done, gate the graph, build, store, check."""

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
"""Side of the smallest window that an engine takes; smaller pictures are padded to it."""
PRECISION_FALLBACK = ("fp16", "mixed", "fp32")
"""What is tried in turn where no precision is asked for, from where the manifest says."""
USER_ALLOCATION = "user_allocation"
"""Option of a spec of TensorRT-RTX: see :func:`build`."""
PACKAGES = ("torch", "onnx", "onnxruntime")
"""Whose versions an engine's sidecar names."""
_OLD = "sm75"  # Turing has no bfloat16
_NO_PRODUCT = "FP32 GEMM is not supported"

Check = Callable[[Bundle, Engine, int], ParityResult]
"""Runs an engine on a GPU, by its number, and compares it with its reference."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How to build engines."""

    variant: str | None = None
    """``tensorrt`` or ``tensorrt_rtx``; None takes the first that is installed."""
    precision: str | None = None
    """``fp16``, ``mixed``, ``fp32`` or ``bf16``; None takes the first of fp16, mixed and fp32 that
    is close enough to fp32, and leaves fp16 out where the manifest says so."""
    tile: int | None = None
    """Largest side of a tile; None chooses by the GPU's memory."""
    batch: int = 4
    """Most pictures, or tiles, of one run."""
    dtypes: tuple[str, ...] = DTYPES
    """One engine for each: ``uint8``, and ``float32`` for 16-bit and float pictures."""
    optimization_level: int | None = None
    """Builder optimisation level 0..5; None is TensorRT's own."""
    image: NDArray[Any] | None = None
    """uint8 BGR photo to check on; None draws one."""
    force: bool = False
    """Build again what is done."""

    def __post_init__(self) -> None:
        if self.precision is not None and self.precision not in PRECISIONS:
            raise OptionError(f"precision {self.precision!r} is not one of {', '.join(PRECISIONS)}")
        if not (isinstance(self.batch, int) and 1 <= self.batch <= 64):
            raise OptionError(f"batch is {self.batch!r}; it must be in 1..64")
        if self.optimization_level is not None and self.optimization_level not in range(6):
            raise OptionError(
                f"optimization_level is {self.optimization_level!r}; it must be in 0..5"
            )
        if not self.dtypes or set(self.dtypes) - set(DTYPES):
            raise OptionError(f"dtypes {self.dtypes!r} are not some of {', '.join(DTYPES)}")


@dataclass(frozen=True, kw_only=True)
class Built:
    """What became of one engine."""

    engine: Engine
    seconds: float
    """That it took now; 0 where it was done."""
    skipped: bool
    """Whether it was there already."""
    parity: ParityResult | None
    """Against FP32 on the GPU; None where none was at hand."""


def build_engines(
    bundle: Bundle,
    target: Target,
    options: EngineOptions | None = None,
    *,
    check: Check | None = None,
    log: Log = lambda line: None,
    done: Callable[[Built], object] = lambda built: None,
) -> tuple[Built, ...]:
    """Build the engines of one bundle for one target, or find them done.

    Args:
        bundle: an exported model.
        target: what to build for.
        options: how.
        check: runs an engine on its GPU; None: there is none, and the first run will check.
        log: told the steps.
        done: told each engine as it is ready; those before a failure too.

    Raises:
        BuildError: TensorRT refused.
        ParityError: the precision asked for, or every one, is too far from fp32.
        OutputError: the store cannot be written; nothing was changed.
        MissingExtraError: no TensorRT is installed.
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
        begin = bundle.manifest.engine_precision  # older manifests do not say
        if options.precision is None and begin in PRECISION_FALLBACK[1:]:
            self._precisions = PRECISION_FALLBACK[PRECISION_FALLBACK.index(begin) :]
            log(f"{bundle.manifest.name}: {_reason(bundle.manifest)}: beginning with {begin}")

    def build(self, dtype: str) -> Built:
        """One engine, in the first precision that is close enough; the next dtype begins there."""
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
                f"TensorRT-RTX has no fp32 matrix product for {_OLD} (Turing): building for "
                f"{', '.join(newer.targets)}"
            )
            return self._build(newer)

    def _done(self, spec: EngineSpec) -> Engine | None:
        return self._bundle.engine_store.find(spec.key())

    def _build(self, spec: EngineSpec) -> Built:
        key, engine_store = spec.key(), self._bundle.engine_store
        waiting = f"another process builds {self._name(spec)}: waiting for it"
        began = time.monotonic()
        with engine_store.lock_for_build(key, on_wait=lambda: self._log(waiting)) as draft:
            done = None if self._options.force else self._done(spec)  # while we waited
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
        self._log(f"{self._name(engine.spec)} is built already: nothing to do")
        if self._options.image is not None:
            self._log("the picture was not used: --force builds again and checks on it")
        return Built(engine=engine, seconds=0.0, skipped=True, parity=self._checked(engine))

    def _spec(self, dtype: str, precision: str) -> EngineSpec:
        manifest, target = self._bundle.manifest, self._target
        targets = target.targets
        if precision == "bf16" and _OLD in targets:
            targets = tuple(name for name in targets if name != _OLD)
            if not targets:
                raise OptionError(f"{_OLD} (Turing) has no bf16: use --precision fp16 or mixed")
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
        self._log(f"{name}: typing the graph")
        graph, infer = typed_graph(self._bundle, spec.dtype, spec.precision, folder)
        extra = self._bundle.manifest.extra_values()
        parity = compare(lambda batch: infer(batch, *extra), reference, spec.dtype)
        if not parity.passed:
            raise ParityError(
                f"{name}: the graph is {parity.psnr:.1f} dB from fp32 on the CPU, under "
                f"{FLOOR_DB:.0f}"
            )
        began, cancel = time.monotonic(), Cancel()
        timing_cache = None  # TensorRT-RTX measures nothing at build time
        if self._variant == variants.TENSORRT:
            kind = file_part(f"{spec.gpu}-{spec.version}")
            timing_cache = self._bundle.engine_store.folder / f"timing-{kind}.cache"

        def work() -> bytes:
            with current_gpu(self._target.device):  # current for a thread, not for the process
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
                f"{self._name(engine.spec)}: the engine is {parity.psnr:.1f} dB from fp32 on "
                f"{self._target.label}, under {FLOOR_DB:.0f}: it will not be used"
            )
        return parity

    @cached_property
    def _reference(self) -> Reference:
        self._log("running the fp32 graph on the CPU, to compare with")
        return make_reference(self._bundle, self._profile.tile, self._options.image)

    def _name(self, spec: EngineSpec) -> str:
        model = self._bundle.manifest.name
        return f"{model} {spec.dtype} {spec.precision} for {self._target.label}"


def _reason(manifest: Manifest) -> str:
    if manifest.peak is None:
        return "its activations are not finite on the export picture"
    return (
        f"its activations reach {manifest.peak:,.0f} on the export picture, over {LARGE:,.0f}, and "
        "fp16 ends at 65,504"
    )


def _without_old(spec: EngineSpec) -> EngineSpec | None:
    """The same for newer GPUs than Turing; None where that is no other spec, or none at all."""
    targets = tuple(name for name in spec.targets if name != _OLD)
    return replace(spec, targets=targets) if targets and targets != spec.targets else None

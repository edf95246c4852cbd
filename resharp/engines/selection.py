"""Which engines of a bundle are for this machine, and why the others are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resharp.engines.bundle import Bundle
from resharp.engines.engine import Engine, Environment
from resharp.engines.engine_store import precision_rank
from resharp.errors import BackendError, MissingExtraError
from resharp.gpu import tensorrt as variants
from resharp.gpu.devices import Gpu


@dataclass(frozen=True)
class EngineCandidate:
    """An engine that fits, and what it fits."""

    engine: Engine
    here: Environment

    def __str__(self) -> str:
        spec = self.engine.spec
        return f"{spec.variant} engine {self.engine.key[:12]} ({spec.precision})"


def current_environments(gpu: Gpu, driver: str) -> tuple[Environment, ...]:
    """The machine, once for each variant of TensorRT that can be imported and serves the GPU.

    Raises:
        MissingExtraError: none can be imported.
        BackendError: the only one here is TensorRT-RTX, and it has no engines for the GPU.
    """
    found, errors = [], []
    refusal = variants.rtx_refusal(gpu.name, gpu.capability)
    for variant in variants.installed():
        if variant == variants.RTX and refusal:  # said before its libraries are loaded
            continue
        try:
            version = str(variants.load(variant).__version__)
        except MissingExtraError as error:
            errors.append(str(error))
            continue
        found.append(
            Environment(
                variant=variant,
                version=version,
                gpu=gpu.name,
                capability=gpu.capability,
                driver=driver,
            )
        )
    if not found:
        if errors:
            raise MissingExtraError("; ".join(errors))
        if variants.installed() and refusal:
            raise BackendError(refusal)
        raise variants.absent(gpu.capability)
    return tuple(found)


def fitting_engines(
    bundle: Bundle,
    environments: Sequence[Environment],
    dtype: str,
    *,
    least: int,
    prefer: str | None = None,
) -> tuple[list[EngineCandidate], list[str]]:
    """Engines that fit, the best first, and a line for each that does not.

    Args:
        bundle: the model.
        environments: see :func:`current_environments`.
        dtype: ``uint8`` or ``float32``.
        least: the smallest tile that leaves something between the bundle's overlaps.
        prefer: a precision to put first.
    """
    fitting: list[EngineCandidate] = []
    reasons: dict[str, None] = {}
    for here in environments:
        found = bundle.engine_store.lookup(bundle.manifest, here, dtype)
        for engine in found.engines:
            tile = engine.spec.profile.tile
            if tile >= least:
                fitting.append(EngineCandidate(engine, here))
            else:
                reasons[
                    f"{engine.key[:12]} ({engine.spec.precision}): its tile of {tile} leaves "
                    f"nothing between overlaps; {least} is the smallest"
                ] = None
        reasons.update(dict.fromkeys(found.reasons))
    good = {candidate.engine.key[:12] for candidate in fitting}
    # Stable: the store's order stays.
    fitting.sort(
        key=lambda item: (item.engine.spec.precision != prefer, precision_rank(item.engine))
    )
    # With two variants, each engine is a near miss for the other one.
    return fitting, [reason for reason in reasons if reason[:12] not in good]


def no_engine_error(
    bundle: Bundle, environments: Sequence[Environment], dtype: str, reasons: list[str]
) -> BackendError:
    """What to say where no engine can be used."""
    places = " or ".join(f"{_TITLES[here.variant]} {here.version}" for here in environments)
    kind = "engine" if dtype == "uint8" else f"{dtype} engine"
    text = (
        f"no {kind} for {environments[0].gpu}, {places}: run export-engines {bundle.manifest.name}"
    )
    return BackendError(f"{text} ({'; '.join(reasons)})" if reasons else text)


_TITLES = {variants.TENSORRT: "TensorRT", variants.RTX: "TensorRT-RTX"}

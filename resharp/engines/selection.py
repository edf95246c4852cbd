"""Selection of the engines that fit this machine, with reasons for those that do not."""

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
    """An engine that fits, and the environment that it fits."""

    engine: Engine
    here: Environment

    def __str__(self) -> str:
        spec = self.engine.spec
        return f"{spec.variant} engine {self.engine.key[:12]} ({spec.precision})"


def current_environments(gpu: Gpu, driver: str) -> tuple[Environment, ...]:
    """Return one environment per TensorRT variant that can be imported and supports the GPU.

    Raises:
        MissingExtraError: no variant can be imported.
        BackendError: only TensorRT-RTX is installed, and it does not support the GPU.
    """
    found, errors = [], []
    refusal = variants.rtx_refusal(gpu.name, gpu.capability)
    for variant in variants.installed():
        if variant == variants.RTX and refusal:  # no need to load its libraries
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
    """Return the engines that fit, best first, and one line per engine that does not.

    Args:
        bundle: bundle of the model.
        environments: the result of :func:`current_environments`.
        dtype: ``uint8`` or ``float32``.
        least: smallest tile that leaves pixels between the bundle's overlaps.
        prefer: precision to rank first.
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
                    f"no pixels between overlaps; the smallest is {least}"
                ] = None
        reasons.update(dict.fromkeys(found.reasons))
    good = {candidate.engine.key[:12] for candidate in fitting}
    # The sort is stable, so the store's order is otherwise kept.
    fitting.sort(
        key=lambda item: (item.engine.spec.precision != prefer, precision_rank(item.engine))
    )
    # With two variants, each engine is reported as a mismatch for the other one.
    return fitting, [reason for reason in reasons if reason[:12] not in good]


def no_engine_error(
    bundle: Bundle, environments: Sequence[Environment], dtype: str, reasons: list[str]
) -> BackendError:
    """Return the error for a machine on which no engine can be used."""
    places = " or ".join(f"{_TITLES[here.variant]} {here.version}" for here in environments)
    kind = "engine" if dtype == "uint8" else f"{dtype} engine"
    text = f"no {kind} for {environments[0].gpu}, {places}"
    text = f"{text}: run 'export-engines {bundle.manifest.name}'"
    return BackendError(f"{text} ({'; '.join(reasons)})" if reasons else text)


_TITLES = {variants.TENSORRT: "TensorRT", variants.RTX: "TensorRT-RTX"}

"""``--gpu``: which GPUs to build engines for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resharp.engines import PORTABLE, target_name
from resharp.errors import BackendError, OptionError
from resharp.runtime.devices import CudaError, Gpu, driver_version, gpus
from resharp.trt import RTX

if TYPE_CHECKING:
    from resharp.export.engine import Target


def choose_targets(asked: str | None, flavour: str) -> list[Target]:
    """What to build for.

    TensorRT builds for GPUs of this machine alone (``0``, ``1``, ``all``; the first unless told).
    TensorRT-RTX needs none: unless told, one engine serves every kind that it can name; a GPU that
    it cannot name gets a portable one.

    Args:
        asked: ``None``, ``all``, numbers of GPUs, or names like ``sm86,sm89``.
        flavour: of TensorRT.

    Raises:
        OptionError: the choice makes no sense for the flavour.
        BackendError: TensorRT, and no usable GPU or driver.
    """
    here, reason = _here()
    if flavour == RTX:
        return _ahead(asked, here, reason)
    if not here:
        raise BackendError(
            f"TensorRT builds on the GPU that the engine is for, and there is none here ({reason}):"
            " run export-engines on that machine, or use --flavour tensorrt_rtx"
        )
    chosen = _distinct(here) if asked == "all" else _numbered(asked or "0", here)
    return [_own(gpu) for gpu in chosen]


def _ahead(asked: str | None, here: tuple[Gpu, ...], reason: str) -> list[Target]:
    from resharp.export.engine import NAMED, Target

    if asked is None:
        names = {_rtx_name(gpu) for gpu in here}
        targets = [Target(targets=NAMED, index=_index(NAMED, here))]
        if PORTABLE in names:
            targets.append(Target(targets=(PORTABLE,), index=_index((PORTABLE,), here)))
        return targets
    if asked == "all":
        if not here:
            raise OptionError(
                f"--gpu all is for the GPUs of this machine, and there is none ({reason}): name "
                "kinds instead, --gpu sm86,sm89"
            )
        chosen = _distinct(here)
    elif all(part.strip().isdecimal() for part in asked.split(",")):
        if not here:
            raise OptionError(f"there is no GPU {asked} here ({reason}): name kinds, --gpu sm86")
        chosen = _numbered(asked, here)
    else:
        names_asked = tuple(dict.fromkeys(part.strip().lower() for part in asked.split(",")))
        return [Target(targets=names_asked, index=_index(names_asked, here))]
    found = dict.fromkeys(_rtx_name(gpu) for gpu in chosen)
    return [
        Target(targets=(name,), index=_index((name,), here), memory=min(g.memory for g in chosen))
        for name in found
    ]


def _own(gpu: Gpu) -> Target:
    from resharp.export.engine import Target

    return Target(
        gpu=gpu.name,
        capability=gpu.capability,
        driver=driver_version(),
        index=gpu.index,
        memory=gpu.memory,
    )


def _here() -> tuple[tuple[Gpu, ...], str]:
    try:
        found = gpus()
    except CudaError as error:
        return (), str(error)
    return found, "the NVIDIA driver shows no GPU"


def _distinct(here: tuple[Gpu, ...]) -> list[Gpu]:
    """The first GPU of each kind."""
    kinds: dict[tuple[str, str], Gpu] = {}
    for gpu in here:
        kinds.setdefault((gpu.name, gpu.capability), gpu)
    return list(kinds.values())


def _numbered(asked: str, here: tuple[Gpu, ...]) -> list[Gpu]:
    try:
        numbers = [int(part) for part in asked.split(",")]
        if min(numbers) < 0:
            raise ValueError
        return _distinct(tuple(here[number] for number in numbers))
    except ValueError as error:
        raise OptionError(
            f"--gpu {asked}: TensorRT builds for GPUs of this machine, 'all' or their numbers; "
            "names like sm86 are for --flavour tensorrt_rtx"
        ) from error
    except IndexError as error:
        names = ", ".join(f"{gpu.index} {gpu.name}" for gpu in here)
        raise OptionError(f"--gpu {asked}: this machine has {names}") from error


def _rtx_name(gpu: Gpu) -> str:
    from resharp.export.engine.target import NAMEABLE

    name = target_name(gpu.capability)
    return name if name in NAMEABLE else PORTABLE


def _index(targets: tuple[str, ...], here: tuple[Gpu, ...]) -> int | None:
    """Number of the first GPU here that can run such an engine."""
    return next((gpu.index for gpu in here if _rtx_name(gpu) in targets), None)

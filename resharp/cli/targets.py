"""``--gpu``: which GPUs to build engines for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from resharp.engines import CURRENT, PORTABLE, target_name
from resharp.errors import BackendError, OptionError
from resharp.gpu.devices import CudaError, Gpu, driver_version, gpus
from resharp.gpu.tensorrt import RTX, RTX_NAMED, rtx_refusal

if TYPE_CHECKING:
    from resharp.export.engine import Target

log = logging.getLogger(__name__)


def choose_targets(asked: str | None, flavour: str) -> list[Target]:
    """What to build for.

    TensorRT builds for GPUs of this machine alone (``0``, ``1``, ``all``; the first unless told).
    TensorRT-RTX needs none: unless told, one engine serves every kind that it can name; a later GPU
    gets a portable one. GPUs that it refuses are left out with a warning, as long as others remain
    and their numbers were not given.

    Args:
        asked: ``None``, ``all``, numbers of GPUs, names like ``sm86,sm89``, or ``current``:
            TensorRT-RTX builds on the first GPU for itself, as TensorRT does.
        flavour: of TensorRT.

    Raises:
        OptionError: the choice makes no sense for the flavour, or TensorRT-RTX refuses every GPU
            that is here or was chosen.
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
    from resharp.export.engine import NAMED

    if asked is None:
        others = dict.fromkeys(map(_rtx_name, _served(here)))
        further = [name for name in others if name not in NAMED]
        return [_ahead_for(NAMED, here), *(_ahead_for((name,), here) for name in further)]
    if asked in ("all", CURRENT):
        if not here:
            raise OptionError(
                f"--gpu {asked} is for the GPUs of this machine, and there is none ({reason}): "
                "name kinds instead, --gpu sm86,sm89"
            )
        if asked == CURRENT:
            return [replace(_own(_served(here[:1])[0]), targets=(CURRENT,))]
        chosen = _served(_distinct(here))
    elif any(part.strip().isdecimal() for part in asked.split(",")):
        if not here:
            raise OptionError(f"there is no GPU {asked} here ({reason}): name kinds, --gpu sm86")
        chosen = _numbered(asked, here)
        for gpu in chosen:
            _served([gpu])
    else:
        parts = {part.strip().lower() for part in asked.split(",")} - {""}
        if not parts:
            raise OptionError(f"--gpu {asked!r} names no GPU")
        return [_ahead_for(tuple(sorted(parts, key=_by_number)), here)]
    return [_ahead_for((name,), here) for name in dict.fromkeys(map(_rtx_name, chosen))]


def check_gpus(asked: str | None, flavour: str) -> None:
    """Say at once where there is nothing to build for; :func:`choose_targets` loads PyTorch.

    Raises:
        OptionError: TensorRT-RTX refuses every GPU that is asked for.
    """
    here = _here()[0]
    if flavour != RTX or not here:
        return
    if asked in (None, "all"):
        _sorted(here)
    elif asked == CURRENT:
        _sorted(here[:1])
    elif any(part.strip().isdecimal() for part in asked.split(",")):
        for gpu in _numbered(asked, here):
            _sorted([gpu])


def _served(found: Sequence[Gpu]) -> list[Gpu]:
    """Those that TensorRT-RTX has engines for; the others are told."""
    served, told = _sorted(found)
    for refusal in told:
        log.warning("%s", refusal)
    return served


def _sorted(found: Sequence[Gpu]) -> tuple[list[Gpu], list[str]]:
    """Those that TensorRT-RTX has engines for, and why it has none for the others.

    Raises:
        OptionError: there are GPUs, and it has engines for none of them.
    """
    refusals = {gpu: rtx_refusal(gpu.name, gpu.capability) for gpu in found}
    served = [gpu for gpu, refusal in refusals.items() if refusal is None]
    told = list(dict.fromkeys(filter(None, refusals.values())))
    if told and not served:
        raise OptionError("; ".join([*told, "to build for other GPUs, name them: --gpu sm86,sm89"]))
    return served, told


def _by_number(name: str) -> tuple[int, str]:
    digits = name.removeprefix("sm")
    return (int(digits) if digits.isdecimal() else 0), name


def _ahead_for(names: tuple[str, ...], here: tuple[Gpu, ...]) -> Target:
    """An engine for kinds of GPU; those of them that are here say how large its tile may be."""
    from resharp.export.engine import Target

    able = [gpu for gpu in here if not rtx_refusal(gpu.name, gpu.capability)]
    able = [gpu for gpu in able if _rtx_name(gpu) in names]
    if not able:
        return Target(targets=names)
    return Target(targets=names, index=able[0].index, memory=min(gpu.memory for gpu in able))


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
    """What TensorRT-RTX calls a GPU that it does not refuse."""
    return target_name(gpu.capability) if gpu.capability in RTX_NAMED else PORTABLE

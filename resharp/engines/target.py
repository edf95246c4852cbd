"""Choice of the GPUs and of the tile that engines are built for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from resharp.checks import shortened, shown
from resharp.engines.engine import CURRENT, PORTABLE, target_name
from resharp.engines.manifest import Manifest
from resharp.errors import BackendError, OptionError
from resharp.gpu.devices import CudaError, Gpu, driver_version, gpus
from resharp.gpu.tensorrt import RTX, RTX_NAMED, rtx_refusal

logger = logging.getLogger(__name__)

NAMED = ("sm75", "sm80", "sm86", "sm89", "sm120")
"""Default targets of a TensorRT-RTX engine: an engine for all is no larger than for one."""
NAMEABLE = (*NAMED, "sm121")
"""All targets that TensorRT-RTX 1.7 knows by name."""
LARGEST = 4096
TILES = (1024, 768, 512, 384, 256, 192, 128)
UNKNOWN_MEMORY = 8 << 30
"""Assumed memory of a GPU that is not in this machine, in bytes."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One GPU of this machine, or the named targets of an engine built ahead of time."""

    targets: tuple[str, ...] = ()
    """TensorRT-RTX targets: ``sm86``, ..., or ``portable``, or ``current``."""
    gpu: str = ""
    """For TensorRT and ``current``: name of the GPU, which must be the current device."""
    capability: str = ""
    driver: str = ""
    index: int | None = None
    """Index of a GPU of this machine that can run the engine; None if there is none."""
    memory: int = UNKNOWN_MEMORY
    """Memory of the smallest GPU that the engine is for, in bytes."""

    def __post_init__(self) -> None:
        unknown = set(self.targets) - {*NAMEABLE, PORTABLE, CURRENT}
        if unknown:
            raise OptionError(
                f"TensorRT-RTX cannot build for {shortened(', '.join(sorted(unknown)))}: use "
                f"{', '.join(NAMEABLE)}, '{PORTABLE}' for sm80, sm86, sm89, sm120 and later, or "
                f"'{CURRENT}' for the GPU of this machine"
            )
        alone = {PORTABLE, CURRENT} & set(self.targets)
        if alone and len(self.targets) > 1:
            raise OptionError(
                f"'{alone.pop()}' cannot be combined with others, got {', '.join(self.targets)}"
            )

    @property
    def device(self) -> int | None:
        """Index of the GPU that must be the current device during the build; None: no GPU."""
        return self.index if self.gpu else None

    @property
    def label(self) -> str:
        """Display name of the target."""
        return self.gpu or "+".join(self.targets)


def choose_tile(manifest: Manifest, memory: int, asked: int | None = None) -> int:
    """Choose the tile that an engine is built for.

    Args:
        manifest: manifest of the bundle.
        memory: memory of the GPU in bytes; two lanes may use half of it.
        asked: requested tile, which is validated and rounded down to the model's multiple.

    Raises:
        OptionError: the requested tile is too large, leaves no pixels between the overlaps, or is
            not the only size that the model accepts.
    """
    if manifest.fixed_size is not None:
        if asked not in (None, manifest.fixed_size):
            raise OptionError(
                f"`tile` must be {manifest.fixed_size} for {manifest.name}, which accepts no other "
                f"size, got {asked}: leave it out"
            )
        return manifest.fixed_size
    multiple = manifest.size_multiple
    up = -(-manifest.overlap // multiple) * multiple
    least = max(2 * up + max(16, multiple), 64)
    if asked is not None:
        if asked > LARGEST:
            raise OptionError(f"`tile` must be at most {LARGEST} to fit any GPU, got {asked}")
        if asked < least:
            raise OptionError(
                f"`tile` must be at least {least} for {manifest.name}, got {asked}: smaller tiles "
                f"leave too little between overlaps of {manifest.overlap} pixels"
            )
        return asked - asked % multiple
    per_pixel = (manifest.activation_bytes or 16_384.0) / 2  # measured in fp32
    fitting = [tile for tile in TILES if per_pixel * tile * tile <= memory / 4 and tile >= least]
    return fitting[0] if fitting else max(TILES[-1], least)


def choose_targets(asked: str | None, variant: str) -> list[Target]:
    """Choose the targets of an engine build.

    TensorRT only builds for GPUs of this machine (``0``, ``1``, ``all``; by default the first).
    TensorRT-RTX needs no GPU: by default, one engine serves :data:`NAMED`, and GPUs of this
    machine beyond these get engines of their own. GPUs that it refuses are skipped with a warning,
    as long as others remain and the GPUs were not chosen by index.

    Args:
        asked: ``None``, ``all``, indices of GPUs, names like ``sm86,sm89``, or ``current``, with
            which TensorRT-RTX builds on the first GPU for that GPU only, as TensorRT does.
        variant: TensorRT variant.

    Raises:
        OptionError: the choice is not valid for the variant, or TensorRT-RTX refuses every GPU
            that is present or was chosen.
        BackendError: the variant is TensorRT and there is no usable GPU or driver.
    """
    here, reason = _here()
    if variant == RTX:
        return _ahead(asked, here, reason)
    if not here:
        raise BackendError(
            "TensorRT builds on the GPU that the engine is for, but this machine has none "
            f"({reason}): run 'export-engines' on that machine, or use `variant`='tensorrt_rtx'"
        )
    chosen = _distinct(here) if asked == "all" else _numbered(asked or "0", here)
    return [_own(gpu) for gpu in chosen]


def _ahead(asked: str | None, here: tuple[Gpu, ...], reason: str) -> list[Target]:
    if asked is None:
        others = dict.fromkeys(map(_rtx_name, _served(here)))
        further = [name for name in others if name not in NAMED]
        return [_ahead_for(NAMED, here), *(_ahead_for((name,), here) for name in further)]
    if asked in ("all", CURRENT):
        if not here:
            raise OptionError(
                f"`gpu`={shown(asked)} requires a GPU in this machine ({reason}): name the targets "
                "instead, e.g. `gpu`='sm86,sm89'"
            )
        if asked == CURRENT:
            return [replace(_own(_served(here[:1])[0]), targets=(CURRENT,))]
        chosen = _served(_distinct(here))
    elif any(part.strip().isdecimal() for part in asked.split(",")):
        if not here:
            raise OptionError(
                f"`gpu`={shown(asked)} requires a GPU in this machine ({reason}): name the targets "
                "instead, e.g. `gpu`='sm86'"
            )
        chosen = _numbered(asked, here)
        for gpu in chosen:
            _served([gpu])
    else:
        parts = {part.strip().lower() for part in asked.split(",")} - {""}
        if not parts:
            raise OptionError(f"`gpu` must name a GPU, e.g. 'sm86', got {shown(asked)}")
        return [_ahead_for(tuple(sorted(parts, key=lambda name: (len(name), name))), here)]
    return [_ahead_for((name,), here) for name in dict.fromkeys(map(_rtx_name, chosen))]


def _served(found: Sequence[Gpu]) -> list[Gpu]:
    """Return the GPUs that TensorRT-RTX supports, and log a warning for each other kind.

    Raises:
        OptionError: there are GPUs, but none of them is supported.
    """
    refusals = {gpu: rtx_refusal(gpu.name, gpu.capability) for gpu in found}
    served = [gpu for gpu, refusal in refusals.items() if refusal is None]
    reasons = list(dict.fromkeys(filter(None, refusals.values())))
    if reasons and not served:
        advice = "to build for other GPUs, name them, e.g. `gpu`='sm86,sm89'"
        raise OptionError("; ".join([*reasons, advice]))
    for refusal in reasons:
        logger.warning("%s", refusal)
    return served


def _ahead_for(names: tuple[str, ...], here: tuple[Gpu, ...]) -> Target:
    """Return the target for named GPUs; matching GPUs of this machine limit its memory."""
    able = [gpu for gpu in here if not rtx_refusal(gpu.name, gpu.capability)]
    able = [gpu for gpu in able if _rtx_name(gpu) in names]
    if not able:
        return Target(targets=names)
    return Target(targets=names, index=able[0].index, memory=min(gpu.memory for gpu in able))


def _own(gpu: Gpu) -> Target:
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
    """Return the first GPU of each name and compute capability."""
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
            f"`gpu` must be 'all' or indices of GPUs of this machine, got {shown(asked)}: names "
            "like 'sm86' require `variant`='tensorrt_rtx'"
        ) from error
    except IndexError as error:
        names = ", ".join(f"{gpu.index} {gpu.name}" for gpu in here)
        raise OptionError(
            f"`gpu`={shown(asked)} is out of range: this machine has {names}"
        ) from error


def _rtx_name(gpu: Gpu) -> str:
    """Return the TensorRT-RTX target of a GPU that it does not refuse."""
    return target_name(gpu.capability) if gpu.capability in RTX_NAMED else PORTABLE

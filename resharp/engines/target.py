"""Which GPUs engines are built for, and the tile that they are built for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from resharp.engines.engine import CURRENT, PORTABLE, target_name
from resharp.engines.manifest import Manifest
from resharp.errors import BackendError, OptionError
from resharp.gpu.devices import CudaError, Gpu, driver_version, gpus
from resharp.gpu.tensorrt import RTX, RTX_NAMED, rtx_refusal

logger = logging.getLogger(__name__)

NAMED = ("sm75", "sm80", "sm86", "sm89", "sm120")
"""What a TensorRT-RTX engine is built for unless it is told: one engine for all is as small."""
NAMEABLE = (*NAMED, "sm121")
"""What TensorRT-RTX 1.7 can be told."""
LARGEST = 4096
TILES = (1024, 768, 512, 384, 256, 192, 128)
UNKNOWN_MEMORY = 8 << 30
"""Of a GPU that is not here."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One GPU of this machine, or the named kinds of an engine that is built ahead of time."""

    targets: tuple[str, ...] = ()
    """TensorRT-RTX: ``sm86``, ..., or ``portable``, or ``current``."""
    gpu: str = ""
    """TensorRT, and ``current``: name of the GPU, which must be the current device."""
    capability: str = ""
    driver: str = ""
    index: int | None = None
    """Number of a GPU of this machine that can run the engine; None: there is none."""
    memory: int = UNKNOWN_MEMORY
    """Bytes of the smallest GPU it is for."""

    def __post_init__(self) -> None:
        unknown = set(self.targets) - {*NAMEABLE, PORTABLE, CURRENT}
        if unknown:
            raise OptionError(
                f"TensorRT-RTX cannot build for {', '.join(sorted(unknown))}; it knows "
                f"{', '.join(NAMEABLE)}, '{PORTABLE}' for sm80, sm86, sm89, sm120 and later, and "
                f"'{CURRENT}' for the GPU that is here"
            )
        alone = {PORTABLE, CURRENT} & set(self.targets)
        if alone and len(self.targets) > 1:
            raise OptionError(f"'{alone.pop()}' stands alone, not in {', '.join(self.targets)}")

    @property
    def device(self) -> int | None:
        """Number of the GPU that must be the current device while it is built; None: no GPU."""
        return self.index if self.gpu else None

    @property
    def label(self) -> str:
        """For people."""
        return self.gpu or "+".join(self.targets)


def choose_tile(manifest: Manifest, memory: int, asked: int | None = None) -> int:
    """The tile that an engine is built for.

    Args:
        manifest: of the bundle.
        memory: bytes of the GPU; two lanes may take half of it.
        asked: a user's choice, which is only checked.

    Raises:
        OptionError: the choice leaves nothing between the overlaps, or is not the one size that
            the model takes.
    """
    if manifest.fixed_size is not None:
        if asked not in (None, manifest.fixed_size):
            raise OptionError(
                f"{manifest.name} takes {manifest.fixed_size}x{manifest.fixed_size} pixels and no "
                f"other size: leave the tile of {asked} out"
            )
        return manifest.fixed_size
    multiple = manifest.size_multiple
    up = -(-manifest.overlap // multiple) * multiple
    least = max(2 * up + max(16, multiple), 64)
    if asked is not None:
        if asked > LARGEST:
            raise OptionError(f"a tile of {asked} is more than any GPU holds: at most {LARGEST}")
        if asked < least:
            raise OptionError(
                f"a tile of {asked} leaves nothing between the overlaps of {manifest.overlap} "
                f"pixels of {manifest.name}: use at least {least}"
            )
        return asked - asked % multiple
    per_pixel = (manifest.activation_bytes or 16_384.0) / 2  # measured in fp32
    fitting = [tile for tile in TILES if per_pixel * tile * tile <= memory / 4 and tile >= least]
    return fitting[0] if fitting else max(TILES[-1], least)


def choose_targets(asked: str | None, variant: str) -> list[Target]:
    """What to build for.

    TensorRT builds for GPUs of this machine alone (``0``, ``1``, ``all``; the first unless told).
    TensorRT-RTX needs none: unless told, one engine serves every kind that it can name; a later GPU
    gets a portable one. GPUs that it refuses are left out with a warning, as long as others remain
    and their numbers were not given.

    Args:
        asked: ``None``, ``all``, numbers of GPUs, names like ``sm86,sm89``, or ``current``:
            TensorRT-RTX builds on the first GPU for itself, as TensorRT does.
        variant: of TensorRT.

    Raises:
        OptionError: the choice makes no sense for the variant, or TensorRT-RTX refuses every GPU
            that is here or was chosen.
        BackendError: TensorRT, and no usable GPU or driver.
    """
    here, reason = _here()
    if variant == RTX:
        return _ahead(asked, here, reason)
    if not here:
        raise BackendError(
            f"TensorRT builds on the GPU that the engine is for, and there is none here ({reason}):"
            " run export-engines on that machine, or use --variant tensorrt_rtx"
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
        return [_ahead_for(tuple(sorted(parts, key=lambda name: (len(name), name))), here)]
    return [_ahead_for((name,), here) for name in dict.fromkeys(map(_rtx_name, chosen))]


def _served(found: Sequence[Gpu]) -> list[Gpu]:
    """Those that TensorRT-RTX has engines for; a warning says why it has none for the others.

    Raises:
        OptionError: there are GPUs, and it has engines for none of them.
    """
    refusals = {gpu: rtx_refusal(gpu.name, gpu.capability) for gpu in found}
    served = [gpu for gpu, refusal in refusals.items() if refusal is None]
    told = list(dict.fromkeys(filter(None, refusals.values())))
    if told and not served:
        raise OptionError("; ".join([*told, "to build for other GPUs, name them: --gpu sm86,sm89"]))
    for refusal in told:
        logger.warning("%s", refusal)
    return served


def _ahead_for(names: tuple[str, ...], here: tuple[Gpu, ...]) -> Target:
    """An engine for kinds of GPU; those of them that are here say how large its tile may be."""
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
            "names like sm86 are for --variant tensorrt_rtx"
        ) from error
    except IndexError as error:
        names = ", ".join(f"{gpu.index} {gpu.name}" for gpu in here)
        raise OptionError(f"--gpu {asked}: this machine has {names}") from error


def _rtx_name(gpu: Gpu) -> str:
    """What TensorRT-RTX calls a GPU that it does not refuse."""
    return target_name(gpu.capability) if gpu.capability in RTX_NAMED else PORTABLE

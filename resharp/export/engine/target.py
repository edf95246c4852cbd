"""What an engine is built for, and the tile that it is built for."""

from __future__ import annotations

from dataclasses import dataclass

from resharp.engines import CURRENT, PORTABLE, Manifest
from resharp.errors import OptionError

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

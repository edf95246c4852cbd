"""Contents of an image file after it was read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy.typing as npt

if TYPE_CHECKING:
    from resharp.images.color_signal import ColorSignal

Pixels = npt.NDArray[Any]
"""Gray [h,w], BGR [h,w,3] or BGRA [h,w,4]; uint8, uint16 or float32 (0..1)."""


METER, CENTIMETER = 0.0254, 2.54
"""What a number of dots per unit is multiplied by to be dots per inch."""


class Density(NamedTuple):
    """Resolution at which an image is meant to be printed or shown."""

    x: float
    y: float
    inches: bool = True
    """Whether ``x`` and ``y`` are pixels per inch; otherwise only their ratio has a meaning."""

    def turned(self, orientation: int) -> Density:
        """Return the resolution of an image that was turned upright from an EXIF orientation."""
        return self._replace(x=self.y, y=self.x) if orientation >= 5 else self

    def ratio(self, top: int) -> tuple[int, int]:
        """Return ``x`` and ``y`` as whole numbers from 1 to ``top`` in the same ratio, nearly."""
        whole = self.x == round(self.x) and self.y == round(self.y) and max(self.x, self.y) <= top
        scale = 1.0 if whole else min(top, 60_000) / max(self.x, self.y)
        return max(round(self.x * scale), 1), max(round(self.y * scale), 1)


def stated(sides: tuple[float, ...], unit: float | None) -> Density | None:
    """Return a resolution as files state it, in whole dots per inch where the rest is rounding.

    Args:
        sides: horizontal and vertical.
        unit: :data:`METER`, :data:`CENTIMETER`, 1 for an inch; None if only the ratio counts.
    """
    x, y = (side * (unit or 1) for side in sides)
    if min(x, y) <= 0 or (unit is None and x == y):
        return None
    if unit not in (None, 1):
        x, y = (round(side) if abs(side - round(side)) <= METER / 2 else side for side in (x, y))
    return Density(x, y, inches=unit is not None)


def per_meter(inches: float) -> int:
    """Return pixels per inch as whole pixels per meter, at least 1."""
    return min(max(round(inches / METER), 1), 2**31 - 1)


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Metadata that belong to the pixels, in a form that does not depend on the container."""

    exif: bytes | None = None
    """A TIFF structure that starts with II or MM (without the ``Exif\\0\\0`` prefix)."""

    icc: bytes | None = None
    """An ICC profile."""

    xmp: bytes | None = None
    """An XMP packet, UTF-8."""

    photoshop: bytes | None = None
    """Photoshop image resource blocks (``8BIM...``); number 0x0404 is the IPTC record."""

    text: tuple[tuple[str, str], ...] = ()
    """Comments and texts as (keyword, text); the keyword of a comment is ``Comment``."""

    density: Density | None = None
    """Resolution. It is the same in the result, which is therefore larger in print."""

    color: ColorSignal | None = None
    """Colors that the file states by other means than an ICC profile, which has precedence."""

    gain_map: bytes | None = None
    """The JPEG file behind an Ultra HDR JPEG that holds its gain map."""

    own: tuple[tuple[str, bytes, bytes], ...] = ()
    """Blocks that only a file of the same format can hold: its name, name of the block, content."""

    lost: tuple[str, ...] = ()
    """One sentence for each thing in the file that is not in this object."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image as stored in its file, but upright."""

    pixels: Pixels
    """Gray [h,w], BGR [h,w,3] or BGRA [h,w,4]; uint8, uint16 or float32."""

    metadata: Metadata = field(default_factory=Metadata)
    """Metadata of the file, with the orientation set to 1."""

    format: str
    """Name of the format, detected from the content: png, jpeg, webp, ..."""

"""What a picture file holds, once it is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

Pixels = npt.NDArray[Any]
"""Gray [h,w], BGR [h,w,3] or BGRA [h,w,4]; uint8, uint16 or float32 (0..1)."""


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The blocks that travel with the pixels, without the headers that each container adds."""

    exif: bytes | None = None
    """A TIFF structure that begins with II or MM (no ``Exif\\0\\0`` in front)."""

    icc: bytes | None = None
    """An ICC profile."""

    xmp: bytes | None = None
    """An XMP packet, UTF-8."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture as its file has it, upright."""

    pixels: Pixels
    """Gray [h,w], BGR [h,w,3] or BGRA [h,w,4]; uint8, uint16 or float32."""

    metadata: Metadata = field(default_factory=Metadata)
    """EXIF (its orientation set to 1), ICC and XMP of the file."""

    format: str
    """Name of the format that the content has, whatever the suffix says: png, jpeg, webp ..."""

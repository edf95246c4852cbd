"""Contents of an image file after it was read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

Pixels = npt.NDArray[Any]
"""Gray [h,w], BGR [h,w,3] or BGRA [h,w,4]; uint8, uint16 or float32 (0..1)."""


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Metadata blocks that belong to the pixels, without the headers that containers add."""

    exif: bytes | None = None
    """A TIFF structure that starts with II or MM (without the ``Exif\\0\\0`` prefix)."""

    icc: bytes | None = None
    """An ICC profile."""

    xmp: bytes | None = None
    """An XMP packet, UTF-8."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image as stored in its file, but upright."""

    pixels: Pixels
    """Gray [h,w], BGR [h,w,3] or BGRA [h,w,4]; uint8, uint16 or float32."""

    metadata: Metadata = field(default_factory=Metadata)
    """EXIF (with orientation set to 1), ICC and XMP of the file."""

    format: str
    """Name of the format, detected from the content: png, jpeg, webp, ..."""

"""Read and write image files with OpenCV: complete, upright, at full depth, with metadata.

docs/how-to/images.md lists what each format keeps.
"""

from __future__ import annotations

from resharp.images.codec import (
    decode,
    encode,
    metadata_in,
    read,
    turned,
    write,
)
from resharp.images.formats import check_result, suffixes, writable
from resharp.images.header import Header, header
from resharp.images.limits import PixelLimit, load, load_stream, pixel_limit
from resharp.images.picture import Density, Metadata, Picture, Pixels

__all__ = [
    "Density",
    "Header",
    "Metadata",
    "Picture",
    "PixelLimit",
    "Pixels",
    "check_result",
    "decode",
    "encode",
    "header",
    "load",
    "load_stream",
    "metadata_in",
    "pixel_limit",
    "read",
    "suffixes",
    "turned",
    "writable",
    "write",
]

"""Read and write image files with OpenCV: complete, upright, at full depth, with metadata.

docs/how-to/images.md lists what each format keeps.
"""

from __future__ import annotations

from resharp.images.codec import (
    decode,
    encode,
    load,
    metadata_in,
    read,
    turned,
    write,
)
from resharp.images.formats import suffixes, writable
from resharp.images.picture import Density, Metadata, Picture, Pixels

__all__ = [
    "Density",
    "Metadata",
    "Picture",
    "Pixels",
    "decode",
    "encode",
    "load",
    "metadata_in",
    "read",
    "suffixes",
    "turned",
    "writable",
    "write",
]

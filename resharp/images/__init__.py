"""Read and write image files with OpenCV: complete, upright, at full depth, with their metadata.

docs/how-to/images.md lists what each format keeps.
"""

from __future__ import annotations

from resharp.images.codec import decode, encode, load, read, turned, write
from resharp.images.formats import suffixes, writable
from resharp.images.picture import Metadata, Picture, Pixels

__all__ = [
    "Metadata",
    "Picture",
    "Pixels",
    "decode",
    "encode",
    "load",
    "read",
    "suffixes",
    "turned",
    "writable",
    "write",
]

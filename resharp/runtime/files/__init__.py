"""Read and write picture files through OpenCV: whole, upright, at full depth, with their metadata.

docs/files.md says what each format keeps.
"""

from __future__ import annotations

from resharp.runtime.files.atomic import remove_leftovers, take_name, write_whole
from resharp.runtime.files.formats import suffixes, writable
from resharp.runtime.files.picture import Metadata, Picture, Pixels
from resharp.runtime.files.reading import decode, load, read, turned
from resharp.runtime.files.writing import encode, write

__all__ = [
    "Metadata",
    "Picture",
    "Pixels",
    "decode",
    "encode",
    "load",
    "read",
    "remove_leftovers",
    "suffixes",
    "take_name",
    "turned",
    "writable",
    "write",
    "write_whole",
]

"""Transfer of descriptive tags from a TIFF file to an EXIF block, and back.

Both have the same structure, but positions differ, so values are extracted and placed again. Maker
notes contain private positions that only their maker can correct, so they are left out.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Collection
from typing import Literal

import numpy as np

from resharp.images import tiff_ifd as ifd

Value = tuple[int, int, bytes]
"""Type, count and bytes of a tag."""

Tags = dict[int, "Value | Tags"]
"""Tag number to its value, or to the tags of the directory that it points to."""

Order = Literal["<", ">"]

logger = logging.getLogger(__name__)

# Description, maker, model, software, date, artist, rating, copyright: not the shape of the pixels.
_DESCRIPTIVE = (270, 271, 272, 305, 306, 315, 18246, 33432)
_EXIF, _GPS = 0x8769, 0x8825
_MAKER_NOTE = 0x927C
_UNMOVABLE = (_MAKER_NOTE, 0xA005)  # 0xA005: interoperability directory, of no use elsewhere
_WIDTHS = {3: 2, 8: 2, 4: 4, 5: 4, 9: 4, 10: 4, 11: 4, 12: 8}


def from_tiff(data: bytes) -> bytes | None:
    """Return the descriptive tags of a TIFF file as an EXIF block in the file's byte order."""
    form = ifd.layout(data)
    tags = _lift(data, form, form.order)
    if not tags:
        return None
    out = bytearray(struct.pack(form.order + "2sHI", b"II" if form.order == "<" else b"MM", 42, 0))
    entries = {tag: place(out, form.order, tag, value) for tag, value in tags.items()}
    struct.pack_into(form.order + "I", out, 4, append_directory(out, form.order, entries))
    return bytes(out)


def for_tiff(block: bytes, order: Order, skip: Collection[int]) -> Tags:
    """Return the tags of an EXIF block that a TIFF file can store, in this byte order."""
    tags = _lift(block, ifd.layout(block), order)
    return {tag: value for tag, value in tags.items() if tag not in skip}


def left_behind(block: bytes) -> bool:
    """Return whether an EXIF block has maker notes, which cannot be moved into a TIFF file."""
    form = ifd.layout(block)
    root = ifd.directory(block, form, form.first)
    pointers = ifd.integers(block, form, root.entries.get(_EXIF))[:1]
    return any(_MAKER_NOTE in ifd.directory(block, form, at).entries for at in pointers)


def place(out: bytearray, order: Order, tag: int, value: Value | Tags) -> bytes:
    """Append data that does not fit into an entry to ``out``; return the 12-byte entry."""
    if isinstance(value, dict):
        inner = {number: place(out, order, number, part) for number, part in value.items()}
        return struct.pack(order + "HHII", tag, ifd.LONG, 1, append_directory(out, order, inner))
    kind, count, raw = value
    if len(raw) > 4:
        out.extend(bytes(len(out) % 2))
        at = len(out)
        out.extend(raw)
        raw = struct.pack(order + "I", at)
    return struct.pack(order + "HHI4s", tag, kind, count, raw)


def append_directory(out: bytearray, order: Order, entries: dict[int, bytes]) -> int:
    """Append a directory of 12-byte entries, the last one of its chain; return its position."""
    out.extend(bytes(len(out) % 2))
    at = len(out)
    out.extend(struct.pack(order + "H", len(entries)))
    out.extend(b"".join(entries[tag] for tag in sorted(entries)))
    out.extend(bytes(4))
    return at


def _lift(data: bytes, form: ifd.IfdLayout, order: Order) -> Tags:
    root = ifd.directory(data, form, form.first)
    tags = _values(data, form, root, order, _DESCRIPTIVE)
    for pointer in (_EXIF, _GPS):
        for at in ifd.integers(data, form, root.entries.get(pointer))[:1]:
            try:
                inner = ifd.directory(data, form, at)
            except ifd.MalformedError as exc:
                logger.warning("A directory of EXIF tags is damaged and was ignored: %s", exc)
                continue
            movable = [tag for tag in inner.entries if tag not in _UNMOVABLE]
            if values := _values(data, form, inner, order, movable):
                tags[pointer] = values
    return tags


def _values(
    data: bytes, form: ifd.IfdLayout, where: ifd.Directory, order: Order, wanted: Collection[int]
) -> Tags:
    found: Tags = {}
    for tag in wanted:
        entry = where.entries.get(tag)
        # Types above 12 are for BigTIFF and sub-directories, which EXIF does not have.
        if entry is not None and entry.kind <= 12:
            raw = data[entry.value : entry.value + entry.size]
            width = _WIDTHS.get(entry.kind, 1)
            if width > 1 and order != form.order:
                raw = np.frombuffer(raw, f"u{width}").byteswap().tobytes()
            found[tag] = (entry.kind, entry.count, raw)
    return found

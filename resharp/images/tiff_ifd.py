"""The tag directories (IFDs) that TIFF files and EXIF blocks consist of.

Only requested data is read, no directory is followed twice, and every position is checked, so a
damaged or hostile block can only cause an exception. Layout: TIFF 6.0 section 2, and the BigTIFF
variant with its 8-byte offsets.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

SHORT, LONG, UNDEFINED, BYTE, IFD = 3, 4, 7, 1, 13
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}
_MOST = 4096
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}


class MalformedError(ValueError):
    """A structure that contradicts itself or points outside its block."""


@dataclass(frozen=True)
class IfdLayout:
    """Byte order and offset width of one block."""

    order: Literal["<", ">"]
    big: bool
    first: int
    """Position of the first directory."""


@dataclass(frozen=True)
class TagEntry:
    """One tag: the positions of its 12 bytes (20 in BigTIFF) and of its value."""

    at: int
    kind: int
    count: int
    value: int
    size: int


@dataclass(frozen=True)
class Directory:
    """The tags of one directory, and the pointer to the next one."""

    entries: dict[int, TagEntry]
    next_at: int
    following: int


def unpack(data: bytes, code: str, at: int) -> tuple[int, ...]:
    """Call ``struct.unpack_from``, raising MalformedError if the data is too short."""
    try:
        return struct.unpack_from(code, data, at)
    except struct.error:
        raise MalformedError(f"it ends before position {at + struct.calcsize(code)}") from None


def layout(data: bytes) -> IfdLayout:
    """Read the header of a TIFF file or an EXIF block."""
    order: Literal["<", ">"] = "<" if data[:2] == b"II" else ">"
    magic = data[2:4] if order == ">" else data[3:1:-1]
    if data[:2] not in (b"II", b"MM") or magic not in (b"\0*", b"\0+"):
        raise MalformedError("it does not begin with a TIFF header")
    big = magic == b"\0+"
    return IfdLayout(order, big, unpack(data, order + ("Q" if big else "I"), 8 if big else 4)[0])


def directory(data: bytes, form: IfdLayout, at: int) -> Directory:
    """Read the directory at position ``at``; tags whose value is outside the block are skipped."""
    head, step, wide = ("Q", 20, "Q") if form.big else ("H", 12, "I")
    (total,) = unpack(data, form.order + head, at)
    start = at + struct.calcsize(head)
    next_at = start + total * step
    # Many cameras omit the last pointer, so its absence means the end, not damage.
    following = unpack(data, form.order + wide, next_at)[0] if next_at + 4 <= len(data) else 0
    if total == 0 or next_at > len(data):
        raise MalformedError(f"its directory at {at} claims {total} tags")
    entries: dict[int, TagEntry] = {}
    for position in range(start, next_at, step):
        tag, kind, count = unpack(data, f"{form.order}HH{wide}", position)
        field = position + step - struct.calcsize(wide)
        size = _SIZES.get(kind, 0) * count
        value = field
        if size > struct.calcsize(wide):
            (value,) = unpack(data, form.order + wide, field)
        if size and value + size <= len(data):
            entries.setdefault(tag, TagEntry(position, kind, count, value, size))
    return Directory(entries, next_at, following)


def integers(data: bytes, form: IfdLayout, entry: TagEntry | None) -> tuple[int, ...]:
    """The values of an integer tag; empty if it is absent, of another type or absurdly long."""
    if entry is None or entry.kind not in _INTEGERS or entry.count > _MOST:
        return ()
    return unpack(data, f"{form.order}{entry.count}{_INTEGERS[entry.kind]}", entry.value)


def put(data: bytearray, form: IfdLayout, entry: TagEntry, value: int) -> None:
    """Overwrite a tag in place with one integer, as a LONG if a SHORT is too small."""
    kind = SHORT if value < 1 << 16 else LONG
    code, pad = ("HH", "2x") if kind == SHORT else ("HI", "")
    if form.big:
        struct.pack_into(f"{form.order}HQ", data, entry.at + 2, kind, 1)
        struct.pack_into(f"{form.order}{code[1]}{pad}4x", data, entry.at + 12, value)
    else:
        struct.pack_into(f"{form.order}HI", data, entry.at + 2, kind, 1)
        struct.pack_into(f"{form.order}{code[1]}{pad}", data, entry.at + 8, value)

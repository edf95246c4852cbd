"""Tag directories (IFDs), of which TIFF files, EXIF blocks and MPF indexes consist.

Values are moved as bytes. Pillow's ``ImageFileDirectory_v2`` would decode and encode them: text
outside ASCII comes out as question marks, and types change. Every position is checked, so a damaged
or hostile block can only raise MalformedError. Layout: TIFF 6.0 section 2, and BigTIFF.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import Literal

import numpy as np

from resharp.reading import Data


class MalformedError(ValueError):
    """A structure that contradicts itself or points outside its block."""


SHORT, LONG, UNDEFINED, BYTE, ASCII, RATIONAL = 3, 4, 7, 1, 2, 5
DESCRIPTION = 270
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}
_UNITS = {3: 2, 8: 2, 4: 4, 5: 4, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4}
_NUMBERS = {1: "B", 3: "H", 4: "I", 5: "II", 13: "I", 16: "Q", 18: "Q"}
_MOST = 4096

Order = Literal["<", ">"]
Value = tuple[int, int, bytes]
"""Type, count and bytes of a tag."""
Tags = dict[int, "Value | bytes | Tags"]
"""Tag number to its value, its entry as it is, or the tags of the directory that it points to."""


class Page:
    """One directory: its values, the positions of these and of their entries, and what follows.

    ``damaged`` is whether tags were skipped because their values are not within the data.
    """

    def __init__(
        self, data: Data, at: int | None = None, only: Collection[int] | None = None
    ) -> None:
        """Read the directory at ``at``, or the first one; optionally only some tags."""
        self.order: Order = "<" if data[:2] == b"II" else ">"
        mark = _take(data, self.order + "H", 2)
        if data[:2] not in (b"II", b"MM") or mark not in (42, 43):
            raise MalformedError("it does not begin with a TIFF header")
        self.big = mark == 43
        wide, step, start = ("Q", 20, 8) if self.big else ("I", 12, 4)
        self.start = at = _take(data, self.order + wide, start) if at is None else at
        total = _take(data, self.order + ("Q" if self.big else "H"), at)
        at += 8 if self.big else 2
        self.stop = end = at + total * step
        if not 0 < total < 1 << 16 or end > len(data):
            raise MalformedError(f"its directory at {self.start} claims {total} tags")
        # Many cameras omit the last pointer, so its absence means the end, not damage.
        self.following = _take(data, self.order + wide, end) if end + 4 <= len(data) else 0
        self.values: dict[int, Value] = {}
        self.damaged = False
        table = data[at:end]
        room = 2 * len(data)  # values that overlap could fill a memory from a small file
        self.entries: dict[int, int] = {}
        self.positions: dict[int, int] = {}
        for entry in range(at, end, step):
            tag, kind, count = struct.unpack_from(f"{self.order}HH{wide}", table, entry - at)
            if tag in self.entries:
                continue
            self.entries[tag] = entry
            if only is not None and tag not in only:
                continue
            size, where = _SIZES.get(kind, 0) * count, entry + step - struct.calcsize(wide)
            if size > struct.calcsize(wide):
                where = _take(data, self.order + wide, where)
            if 0 < size <= min(len(data) - where, room):
                room -= size
                self.values[tag] = kind, count, data[where : where + size]
                self.positions[tag] = where
            else:
                self.damaged |= size > 0

    def integers(self, tag: int) -> tuple[int, ...]:
        """Return the integers of a tag, two for a ratio; empty if it is absent or has none."""
        kind, count, raw = self.values.get(tag, (0, 0, b""))
        if kind not in _NUMBERS or count > _MOST:
            return ()
        return struct.unpack(self.order + count * _NUMBERS[kind], raw)

    def numbers(self, tag: int) -> tuple[int, ...]:
        """Return the integers of a tag, however many they are."""
        kind, _, raw = self.values.get(tag, (0, 0, b""))
        size = {1: 1, 3: 2, 4: 4, 13: 4, 16: 8, 18: 8}.get(kind)
        return tuple(np.frombuffer(raw, f"{self.order}u{size}").tolist()) if size else ()

    def movable(self) -> set[int]:
        """Return the tags of types that an EXIF block has; others are of BigTIFF or positions."""
        return {tag for tag, (kind, _, _) in self.values.items() if kind <= 12}

    def raw(self, tag: int) -> bytes | None:
        """Return the bytes of a tag."""
        return self.values[tag][2] if tag in self.values else None

    def value(self, tag: int, order: Order) -> Value:
        """Return a value in this byte order."""
        kind, count, raw = self.values[tag]
        unit = _UNITS.get(kind, 1)
        if order == self.order or unit == 1:
            return kind, count, raw
        return kind, count, np.frombuffer(raw, f"u{unit}").byteswap().tobytes()

    def put(self, copy: bytearray, tag: int, *values: int) -> bool:
        """Overwrite a tag in a copy of the data with numbers; return whether they fit.

        One number becomes a LONG, or a SHORT if it is small; several keep their type.
        """
        kind = self.values.get(tag, (0, 0, b""))[0]
        try:
            if len(values) > 1:
                code = self.order + _NUMBERS[kind][0] * len(values)
                struct.pack_into(code, copy, self.positions[tag], *values)
            elif self.big:
                struct.pack_into(self.order + "HQQ", copy, self.entries[tag] + 2, 16, 1, *values)
            else:
                kind, code = (SHORT, "H2x") if values[0] < 1 << 16 else (LONG, "I")
                place = self.entries[tag] + 2
                struct.pack_into(f"{self.order}HI{code}", copy, place, kind, 1, *values)
        except struct.error:
            return False
        return True


def packed(order: Order, tags: Tags, at: int) -> bytes:
    """Return a directory, followed by its values, for the even position ``at``."""
    head, body = struct.pack(order + "H", len(tags)), bytearray()
    for tag in sorted(tags):
        value = tags[tag]
        where = at + 12 * len(tags) + 6 + len(body)
        if isinstance(value, bytes):
            head += value
            continue
        if isinstance(value, dict):
            body += packed(order, value, where)
            value = LONG, 1, struct.pack(order + "I", where)
        kind, count, raw = value
        if len(raw) > 4:
            body += raw + bytes(len(raw) % 2)
            raw = struct.pack(order + "I", where)
        head += struct.pack(order + "HHI4s", tag, kind, count, raw)
    return head + bytes(4) + body


def extended(data: bytes, tags: Tags, without: tuple[int, ...] = ()) -> bytes:
    """Return a classic TIFF structure with tags added, replaced and removed; no other value moves.

    The first directory is written again at the end, as are inner ones that get tags. Others do not
    follow it any more.
    """
    page, out = Page(data), data + bytes(len(data) % 2)
    merged: Tags = {**_entries(data, page), **tags}
    for tag, value in tags.items():
        if isinstance(value, dict) and (inner := page.integers(tag)):
            merged[tag] = {**_entries(data, Page(data, inner[0])), **value}
    for tag in without:
        merged.pop(tag, None)
    head = out[:4] + struct.pack(page.order + "I", len(out))
    return head + out[8:] + packed(page.order, merged, len(out))


def _entries(data: bytes, page: Page) -> dict[int, bytes]:
    return {tag: data[at : at + 12] for tag, at in page.entries.items()}


def block(order: Order, tags: Tags) -> bytes:
    """Return a block of its own: a TIFF header and one directory."""
    return struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8) + packed(
        order, tags, 8
    )


def _take(data: Data, code: str, at: int) -> int:
    try:
        return int(struct.unpack(code, data[at : at + struct.calcsize(code)])[0])
    except struct.error:
        raise MalformedError(f"it ends before position {at + struct.calcsize(code)}") from None

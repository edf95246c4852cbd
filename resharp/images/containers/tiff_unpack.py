"""LZW and PackBits of TIFF, decompressed by libtiff with an exact check of their length.

libtiff reports errors in 16-bit gray images, so all strips are decoded as such images. A mark is
appended to each: if it comes out at the right place, the strip has neither too few bytes nor too
many. Almost any damage changes their number.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt

from resharp.images import ifd
from resharp.opencv import cv2

LZW, PACK_BITS = 5, 32773
_GROUP = 4 << 20
_MOST_STRIPS = 4096
_WIDEST = 1 << 16
_CLEAR, _END = 256, 257
_ROUND = 128
"""Literal codes of 9 bits that fit between two Clear codes."""
_LAST = f"{_END:09b}"
_RATIOS = {LZW: 2731, PACK_BITS: 64}
"""Most bytes that one byte can become."""


def unpacked(
    strips: Iterable[bytes], sizes: Sequence[int], full: int, compression: int
) -> Iterator[bytes | None]:
    """Yield the decompressed bytes of each strip; None for one that is damaged.

    If the end of a strip's data cannot be recognized, only that it has enough bytes is known, and
    a few bytes at its end are not returned.

    Args:
        strips: compressed bytes of each strip.
        sizes: bytes of each strip's pixels.
        full: bytes that the last strip may have instead.
        compression: :data:`LZW` or :data:`PACK_BITS`.
    """
    pairs = zip(strips, sizes, strict=True)
    for size, group in groupby(pairs, key=lambda pair: pair[1]):
        limit = max(1, min(_GROUP // size, _MOST_STRIPS))
        part: list[bytes] = []
        for strip, _ in group:
            part.append(strip)
            if len(part) == limit:
                yield from _group(part, size, full, compression)
                part = []
        yield from _group(part, size, full, compression)


def has(strip: bytes, size: int, compression: int) -> bool:
    """Return whether the beginning of a strip holds this many bytes, or one less."""
    return _plain(strip, size, compression) is not None


def _group(strips: list[bytes], size: int, full: int, compression: int) -> Iterator[bytes | None]:
    if not strips:
        return
    if any(size > _RATIOS[compression] * len(strip) for strip in strips):
        yield from (None for _ in strips)
        return
    rows, width = _shape(size + 2)
    mark = _mark(2 * rows * width - size)
    marked = [next(_marked(strip, mark, compression), None) for strip in strips]
    whole = [strip for strip in marked if strip is not None]
    found = _decode(whole, rows, width, compression) if len(whole) == len(marked) else None
    if found is not None and all(row[size:].tobytes() == mark for row in found):
        yield from (bytes(row[:size]) for row in found)
    else:
        yield from (_single(strip, size, full, compression) for strip in strips)


def _single(strip: bytes, size: int, full: int, compression: int) -> bytes | None:
    """Decompress one strip, with allowances for what writers do that is not damage."""
    known = False
    most = _RATIOS[compression] * len(strip)
    for wanted in dict.fromkeys((size, min(full, most))):
        rows, width = _shape(wanted + 2)
        mark = _mark(2 * rows * width - wanted)
        for marked in _marked(strip, mark, compression):
            known = True
            found = _decode([marked], rows, width, compression)
            if found is not None and found[0][wanted:].tobytes() == mark:
                return bytes(found[0][:size])
    return None if known else _plain(strip, size, compression)


def _plain(strip: bytes, size: int, compression: int) -> bytes | None:
    if size < 2:
        return strip[:0]
    rows, width = _shape(size - 1)
    width -= 2 * rows * width > size
    found = _decode([strip], rows, width, compression) if width else None
    return None if found is None else bytes(found[0])


def _shape(size: int) -> tuple[int, int]:
    """Return rows and width of 16-bit pixels for at least this many bytes."""
    pairs = -(-size // 2)
    rows = -(-pairs // _WIDEST)
    return rows, -(-pairs // rows)


def _mark(size: int) -> bytes:
    return bytes((73 * place + 29) & 255 for place in range(size))


def _marked(strip: bytes, mark: bytes, compression: int) -> Iterator[bytes]:
    """Yield the strip with the mark behind its data, for each place where these may end."""
    if compression == PACK_BITS:
        runs = [mark[at : at + 128] for at in range(0, len(mark), 128)]
        added = b"".join(bytes((len(run) - 1,)) + run for run in runs)
        yield strip + added
        for _ in range(3):  # padding
            if strip[-1:] == b"\0":
                strip = strip[:-1]
                yield strip + added
        return
    end = strip.rstrip(b"\0")
    at = max(len(end) - 4, 0)
    bits = "".join(f"{byte:08b}" for byte in end[at:]).rstrip("0")
    if len(strip) - len(end) > 2 or not bits.endswith(_LAST):
        return
    # The end code becomes a Clear code of the same width. Some writers take the
    # width of the end code from the entry before or after.
    bits = bits[:-9]
    codes: list[int] = []
    for place in range(0, len(mark), _ROUND):
        codes += [*mark[place : place + _ROUND], _CLEAR]
    tail = "".join(f"{code:09b}" for code in (_CLEAR, *codes[:-1], _END))
    for start in (bits, bits + "0", bits[:-1]):
        whole = start + tail
        whole += "0" * (-len(whole) % 8)
        yield end[:at] + int(whole, 2).to_bytes(len(whole) // 8, "big")


def _decode(
    strips: list[bytes], rows: int, width: int, compression: int
) -> npt.NDArray[np.uint8] | None:
    """Return strips [n,bytes] decoded as 16-bit gray images below each other; None if one fails."""
    order: ifd.Order = "<" if sys.byteorder == "little" else ">"
    out = bytearray(b"II*\0" if order == "<" else b"MM\0*") + bytes(4)
    offsets: list[int] = []
    for strip in strips:
        offsets.append(len(out))
        out += strip
    out += bytes(len(out) % 2)
    struct.pack_into(order + "I", out, 4, len(out))
    values = {256: [width], 257: [rows * len(strips)], 258: [16], 259: [compression], 262: [1]}
    values |= {273: offsets, 277: [1], 278: [rows], 279: [*map(len, strips)]}
    tags: ifd.Tags = {
        tag: (ifd.LONG, len(found), struct.pack(f"{order}{len(found)}I", *found))
        for tag, found in values.items()
    }
    out += ifd.packed(order, tags, len(out))
    pixels = cv2.imdecode(np.frombuffer(out, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        return None
    return pixels.reshape(len(strips), -1).view(np.uint8)

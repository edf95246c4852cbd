"""Where the numbers and blocks of each file format are, and how its checksums are mended.

These walk a file that other changes may have damaged already, so they stop where it makes no sense.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator

from tests.fuzz.mutators import Layout, LayoutOf, Mend

Block = tuple[int, int]
MOST = 400
"""Blocks to list; a garbled file may seem to have more."""


def _number(data: bytes, at: int, form: str) -> int:
    if at < 0 or at + struct.calcsize(form) > len(data):
        return 0
    return int(struct.unpack_from(form, data, at)[0])


def _layout(
    data: bytes,
    numbers: list[tuple[int, str]],
    blocks: list[Block],
    sizes: list[tuple[int, str]] | None = None,
) -> Layout:
    """Keep what is inside the file."""

    def inside(found: list[tuple[int, str]]) -> list[tuple[int, str]]:
        return [(at, form) for at, form in found if 0 <= at <= len(data) - struct.calcsize(form)]

    sizes = inside(sizes or [])
    kept = [(start, min(end, len(data))) for start, end in blocks[:MOST] if start < len(data)]
    return Layout(inside(numbers) + sizes, [one for one in kept if one[0] < one[1]], sizes)


def png(data: bytes) -> Layout:
    """Chunks: length, type, payload, CRC."""
    blocks: list[Block] = []
    sizes, at = [(16, ">I"), (20, ">I")], 8
    numbers = [(24, ">B"), (25, ">B"), (26, ">B"), (27, ">B"), (28, ">B")]
    while at + 12 <= len(data) and len(blocks) < MOST:
        length = _number(data, at, ">I")
        numbers.append((at, ">I"))
        blocks.append((at, at + 12 + length))
        if data[at + 4 : at + 8] in (b"fcTL", b"pHYs", b"acTL", b"cICP", b"gAMA", b"cHRM"):
            numbers += [(at + 8 + n, ">I") for n in range(0, min(length, 64) - 3, 4)]
        at += 12 + length
    return _layout(data, numbers, blocks, sizes)


def png_mend(data: bytes) -> bytes:
    """Correct the CRC of every whole chunk."""
    changed, at = bytearray(data), 8
    while at + 12 <= len(data):
        end = at + 8 + _number(data, at, ">I")
        if end + 4 > len(data):
            break
        struct.pack_into(">I", changed, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(changed)


def jpeg(data: bytes) -> Layout:
    """Segments up to the end, the entropy-coded data as part of their scan."""
    numbers: list[tuple[int, str]] = []
    blocks: list[Block] = []
    sizes: list[tuple[int, str]] = []
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and len(blocks) < MOST:
        marker, length = data[at + 1], _number(data, at + 2, ">H")
        end = at + 2 + length
        numbers.append((at + 2, ">H"))
        if marker in (0xC0, 0xC1, 0xC2):
            sizes += [(at + 5, ">H"), (at + 7, ">H")]
            numbers += [
                (at + n, ">B") for n in range(4, 2 + min(length, 20)) if n not in range(5, 9)
            ]
        elif marker in (0xDA, 0xDD, 0xDB, 0xC4):
            numbers += [(at + n, ">B") for n in range(4, 2 + min(length, 24))]
        if marker == 0xDA:
            while end < len(data) - 1 and (
                data[end] != 0xFF or data[end + 1] in (0, *range(0xD0, 0xD8))
            ):
                end += 1
        blocks.append((at, end))
        at = end
    return _layout(data, numbers, blocks, sizes)


def riff(data: bytes) -> Layout:
    """Chunks of WebP and AVI, the lists among them opened."""
    numbers: list[tuple[int, str]] = [(4, "<I")]
    blocks: list[Block] = []
    sizes: list[tuple[int, str]] = []

    def walk(at: int, end: int) -> None:
        while at + 8 <= end and len(blocks) < MOST:
            kind, length = data[at : at + 4], _number(data, at + 4, "<I")
            numbers.append((at + 4, "<I"))
            blocks.append((at, at + 8 + length + length % 2))
            if kind == b"LIST":
                walk(at + 12, min(end, at + 8 + length))
            elif kind == b"VP8 ":
                sizes.extend([(at + 14, "<H"), (at + 16, "<H")])
            elif kind == b"VP8L":
                sizes.append((at + 9, "<I"))
            elif kind in (b"VP8X", b"ANMF"):
                sizes.extend([(at + 12, "<I"), (at + 15, "<I")])
                numbers.append((at + 8, "<B"))
            elif kind in (b"avih", b"strh", b"strf"):
                numbers.extend((at + 8 + n, "<I") for n in range(0, min(length, 64), 4))
            at += 8 + length + length % 2

    walk(12, len(data))
    return _layout(data, numbers, blocks, sizes)


def riff_mend(data: bytes) -> bytes:
    """Correct the length of the whole file."""
    return data[:4] + struct.pack("<I", max(len(data) - 8, 0)) + data[8:]


def tiff(data: bytes) -> Layout:
    """Every entry of every directory: tag, type, count and value."""
    order = "<" if data[:2] == b"II" else ">"
    numbers = [(4, f"{order}I")]
    blocks: list[Block] = []
    sizes = []
    at, seen = _number(data, 4, f"{order}I"), set[int]()
    while at and at not in seen and at + 2 <= len(data) and len(seen) < 8:
        seen.add(at)
        count = min(_number(data, at, f"{order}H"), 60)
        numbers.append((at, f"{order}H"))
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, form = _number(data, entry, f"{order}H"), _number(data, entry + 2, f"{order}H")
            value = (entry + 8, f"{order}H" if form == 3 else f"{order}I")
            blocks.append((entry, entry + 12))
            numbers += [(entry + 2, f"{order}H"), (entry + 4, f"{order}I"), value]
            if tag in (256, 257, 258, 259, 262, 277, 278, 279, 273, 284, 317, 322, 323, 339):
                sizes.append(value)
            if _number(data, entry + 4, f"{order}I") > 1:  # an array somewhere else
                there = _number(data, entry + 8, f"{order}I")
                numbers += [(there + n, f"{order}H") for n in (0, 2, 4)]
        numbers.append((at + 2 + 12 * count, f"{order}I"))
        at = _number(data, at + 2 + 12 * count, f"{order}I")
    return _layout(data, numbers, blocks, sizes)


CONTAINERS = {
    b"moov",
    b"trak",
    b"mdia",
    b"minf",
    b"stbl",
    b"iprp",
    b"ipco",
    b"edts",
    b"udta",
    b"meta",
}
CONTAINERS |= {b"moof", b"traf", b"mvex", b"dinf", b"iinf", b"stsd"}
SKIPPED = {b"meta": 4, b"iinf": 6, b"stsd": 8}
"""Bytes before the first box of a container."""


def boxes(data: bytes) -> Layout:
    """Boxes of AVIF and MP4, containers opened."""
    numbers: list[tuple[int, str]] = []
    blocks: list[Block] = []
    sizes: list[tuple[int, str]] = []

    def walk(at: int, end: int) -> None:
        while at + 8 <= end and len(blocks) < MOST:
            length, kind = _number(data, at, ">I"), data[at + 4 : at + 8]
            last = min(end, at + max(length, 8))
            numbers.append((at, ">I"))
            blocks.append((at, last))
            if kind in CONTAINERS:
                walk(at + 8 + SKIPPED.get(kind, 0), last)
            elif kind == b"ispe":
                sizes.extend([(at + 12, ">I"), (at + 16, ">I")])
            elif kind in (b"avc1", b"mp4v", b"av01", b"hvc1"):
                sizes.extend([(at + 32, ">H"), (at + 34, ">H")])
            elif kind != b"mdat":
                numbers.extend((n, ">I") for n in range(at + 8, min(last, at + 120), 4))
            at = last

    walk(0, len(data))
    return _layout(data, numbers, blocks, sizes)


def gif(data: bytes) -> Layout:
    """The screen, extensions and frames with their sub-blocks."""
    blocks: list[Block] = []
    numbers = [(10, "<B"), (11, "<B"), (12, "<B")]
    sizes = [(6, "<H"), (8, "<H")]
    at = 13 + (3 << (data[10] & 7) + 1 if len(data) > 13 and data[10] & 0x80 else 0)
    while at + 2 < len(data) and data[at] in (0x21, 0x2C) and len(blocks) < MOST:
        start = at
        if data[at] == 0x2C:
            sizes += [(at + n, "<H") for n in (1, 3, 5, 7)]
            flags = _number(data, at + 9, "<B")
            at += 10 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
            numbers += [(start + 9, "<B"), (at, "<B")]
            at += 1
        else:
            at += 2
        while at < len(data) and data[at]:
            numbers.append((at, "<B"))
            at += 1 + data[at]
        at += 1
        blocks.append((start, at))
    return _layout(data, numbers, blocks, sizes)


def bmp(data: bytes) -> Layout:
    """The two headers."""
    numbers = [(2, "<I"), (10, "<I"), (14, "<I"), (26, "<H"), (28, "<H")]
    numbers += [(30 + n, "<I") for n in range(0, 24, 4)]
    return _layout(data, numbers, [(14, 54), (54, 1078)], [(18, "<i"), (22, "<i")])


def bmp_mend(data: bytes) -> bytes:
    """Correct the length of the whole file."""
    return data[:2] + struct.pack("<I", len(data)) + data[6:]


def ebml(data: bytes) -> Layout:
    """Elements of Matroska and WebM, masters opened; the lengths are bytes, as their marks are."""
    numbers: list[tuple[int, str]] = []
    blocks: list[Block] = []
    masters = {0x18538067, 0x1549A966, 0x1654AE6B, 0xAE, 0xE0, 0x1F43B675, 0x1C53BB6B, 0xBB, 0xA0}

    def vint(at: int, keep: bool) -> tuple[int, int]:
        first = _number(data, at, ">B")
        width = 9 - first.bit_length() if first else 8
        value = int.from_bytes(data[at : at + width], "big")
        return (value if keep else value & (1 << 7 * width) - 1), at + width

    def walk(at: int, end: int) -> None:
        while at + 2 <= end and len(blocks) < MOST:
            name, next_ = vint(at, True)
            length, body = vint(next_, False)
            last = min(end, body + length)
            numbers.extend([(next_, ">B"), *((n, ">B") for n in range(body, min(last, body + 8)))])
            blocks.append((at, last))
            if name in masters:
                walk(body, last)
            at = max(last, at + 2)

    walk(0, len(data))
    return _layout(data, numbers, blocks)


def archive(data: bytes) -> Layout:
    """Local headers, central directory and end of a zip file."""
    numbers: list[tuple[int, str]] = []
    blocks: list[Block] = []
    for mark, forms in _ZIP.items():
        at = data.find(mark)
        while at >= 0 and len(blocks) < MOST:
            numbers += [(at + offset, form) for offset, form in forms]
            following = data.find(b"PK", at + 4)
            blocks.append((at, following if following > 0 else len(data)))
            at = data.find(mark, at + 4)
    return _layout(data, numbers, blocks)


_ZIP = {
    b"PK\x03\x04": [
        (6, "<H"),
        (8, "<H"),
        (14, "<I"),
        (18, "<I"),
        (22, "<I"),
        (26, "<H"),
        (28, "<H"),
    ],
    b"PK\x01\x02": [
        *((8, "<H"), (10, "<H"), (16, "<I"), (20, "<I"), (24, "<I"), (28, "<H"), (30, "<H")),
        *((32, "<H"), (38, "<I"), (42, "<I")),
    ],
    b"PK\x05\x06": [(8, "<H"), (10, "<H"), (12, "<I"), (16, "<I"), (20, "<H")],
    b"PK\x06\x06": [(4, "<Q"), (24, "<Q"), (32, "<Q"), (40, "<Q"), (48, "<Q")],
}


def archive_mend(data: bytes) -> bytes:
    """Correct the CRC of every stored member, in its header and in the directory."""
    changed = bytearray(data)
    at = data.find(b"PK\x01\x02")
    while 0 <= at <= len(data) - 46:
        size, local = _number(data, at + 20, "<I"), _number(data, at + 42, "<I")
        start = local + 30 + _number(data, local + 26, "<H") + _number(data, local + 28, "<H")
        if data[local : local + 4] == b"PK\x03\x04" and start + size <= len(data):
            crc = zlib.crc32(data[start : start + size])
            struct.pack_into("<I", changed, at + 16, crc)
            struct.pack_into("<I", changed, local + 14, crc)
        at = data.find(b"PK\x01\x02", at + 4)
    return bytes(changed)


def _signatures() -> Iterator[tuple[Callable[[bytes], bool], LayoutOf, Mend | None]]:
    yield lambda d: d[:4] == b"\x89PNG", png, png_mend
    yield lambda d: d[:2] == b"\xff\xd8", jpeg, None
    yield lambda d: d[:4] == b"RIFF", riff, riff_mend
    yield lambda d: d[:4] in (b"II*\0", b"MM\0*"), tiff, None
    yield lambda d: d[4:8] == b"ftyp", boxes, None
    yield lambda d: d[:3] == b"GIF", gif, None
    yield lambda d: d[:2] == b"BM", bmp, bmp_mend
    yield lambda d: d[:4] == b"\x1aE\xdf\xa3", ebml, None
    yield lambda d: d[:2] == b"PK", archive, archive_mend


def structure(data: bytes) -> tuple[LayoutOf | None, Mend | None]:
    """Return how to take a valid file apart, by its first bytes."""
    for matches, layout_of, mend in _signatures():
        if matches(data):
            return layout_of, mend
    return None, None

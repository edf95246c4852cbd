"""AVIF: ISO media boxes (ISO/IEC 14496-12 and 23008-12, AV1 Image File Format 1.2).

OpenCV returns the coded image as it is: not rotated or mirrored, 10 and 12 bits in the low bits of
uint16, and without ICC and XMP. All of these are in the properties and items of the primary image.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial

import numpy as np

from resharp.images.containers.info import ContainerInfo, DamagedContainerError
from resharp.images.exif import payload
from resharp.images.picture import Metadata, Pixels

Span = tuple[int, int]

# irot quarter turns (counter-clockwise), then imir axis (0: top and bottom are swapped, 1: left and
# right), as an EXIF orientation.
_TURNS = {
    (0, None): 1, (1, None): 8, (2, None): 3, (3, None): 6,
    (0, 0): 4, (1, 0): 5, (2, 0): 2, (3, 0): 7,
    (0, 1): 2, (1, 1): 7, (2, 1): 4, (3, 1): 5,
}  # fmt: skip


def inspect(data: bytes) -> ContainerInfo:
    """Check that all boxes are complete; read orientation, depth, metadata and frame count."""
    try:
        return _inspect(data)
    except (struct.error, IndexError):
        raise DamagedContainerError("its boxes are inconsistent") from None


def _inspect(data: bytes) -> ContainerInfo:
    top = dict(reversed(list(_boxes(data, (0, len(data))))))
    if b"meta" not in top:
        raise DamagedContainerError("it has no meta box, which describes the image")
    meta = dict(_boxes(data, (top[b"meta"][0] + 4, top[b"meta"][1])))
    items = _items(data, meta)
    turn, mirror, depth, icc = 0, None, 8, None
    for name, (start, end) in _properties(data, meta):
        if name == b"irot":
            turn = data[start] & 3
        elif name == b"imir":
            mirror = data[start] & 1
        elif name == b"av1C":
            depth = (8, 8, 10, 12)[data[start + 2] >> 5 & 3]  # high_bitdepth, twelve_bit
        elif name == b"colr" and data[start : start + 4] in (b"prof", b"rICC"):
            icc = data[start + 4 : end]
    exif = items.get(b"Exif", b"")[4:]
    return ContainerInfo(
        metadata=Metadata(exif=payload(exif) or None, icc=icc, xmp=items.get(b"mime") or None),
        frames=_frames(data, top.get(b"moov")),
        orientation=_TURNS[turn, mirror],
        finish=(partial(_widen, depth=depth),) if depth > 8 else (),
    )


def _boxes(data: bytes, span: Span) -> Iterator[tuple[bytes, Span]]:
    at, end = span
    while at + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, at)
        body = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        stop = at + size if size else end
        if stop > end or stop < body:
            raise DamagedContainerError(f"it ends after {len(data)} bytes, inside a box")
        yield name, (body, stop)
        at = stop


def _properties(data: bytes, meta: dict[bytes, Span]) -> Iterator[tuple[bytes, Span]]:
    """Yield the properties of the primary image, in order."""
    parts = dict(_boxes(data, meta[b"iprp"])) if b"iprp" in meta else {}
    if not {b"ipco", b"ipma"} <= parts.keys() or b"pitm" not in meta:
        return
    shelf = list(_boxes(data, parts[b"ipco"]))
    start = meta[b"pitm"][0]
    (primary,) = struct.unpack_from(">I" if data[start] else ">H", data, start + 4)
    at = parts[b"ipma"][0]
    id_code = ">I" if data[at] else ">H"
    index_code, mask = (">H", 0x7FFF) if data[at + 3] & 1 else (">B", 0x7F)
    (count,) = struct.unpack_from(">I", data, at + 4)
    at += 8
    for _ in range(count):
        (item,) = struct.unpack_from(id_code, data, at)
        at += struct.calcsize(id_code)
        total = data[at]
        at += 1
        for _ in range(total):
            index = struct.unpack_from(index_code, data, at)[0] & mask
            at += struct.calcsize(index_code)
            if item == primary and 0 < index <= len(shelf):
                yield shelf[index - 1]


def _items(data: bytes, meta: dict[bytes, Span]) -> dict[bytes, bytes]:
    """Return the payload of the first item of each metadata type (``Exif``; ``mime`` is XMP)."""
    kinds: dict[int, bytes] = {}
    if b"iinf" not in meta or b"iloc" not in meta:
        return {}
    start, end = meta[b"iinf"]
    for name, (at, _) in _boxes(data, (start + (8 if data[start] else 6), end)):
        if name == b"infe" and data[at] >= 2:
            wide = data[at] >= 3
            item, _, kind = struct.unpack_from(">IH4s" if wide else ">HH4s", data, at + 4)
            kinds[item] = kind
    found: dict[bytes, bytes] = {}
    for item, base, extents in _locations(data, meta[b"iloc"][0], meta.get(b"idat", (0, 0))[0]):
        kind = kinds.get(item, b"")
        # Overlapping extents could expand a small file to a gigabyte.
        if kind in (b"Exif", b"mime") and sum(size for _, size in extents) <= len(data):
            whole = b"".join(data[base + at : base + at + size] for at, size in extents)
            found.setdefault(kind, whole)
    return found


def _locations(data: bytes, at: int, idat: int) -> Iterator[tuple[int, int, list[Span]]]:
    """Yield item, base position and extents (offset, length) of each entry of an iloc box."""
    version = data[at]
    sizes = struct.unpack_from(">H", data, at + 4)[0]
    offset_size, length_size, base_size, index_size = (sizes >> s & 15 for s in (12, 8, 4, 0))
    id_size = 4 if version == 2 else 2

    def take(size: int) -> int:
        nonlocal at
        at += size
        if at > len(data):
            raise DamagedContainerError("its boxes are inconsistent")
        return int.from_bytes(data[at - size : at], "big")

    at += 6
    for _ in range(take(id_size)):
        item = take(id_size)
        in_idat = version > 0 and take(2) & 15 == 1
        take(2)
        base = take(base_size) + (idat if in_idat else 0)
        extents = []
        count = take(2)
        if count * (offset_size + length_size) == 0 and count > 1:
            raise DamagedContainerError("its boxes are inconsistent")
        for _ in range(count):
            take(index_size if version > 0 else 0)
            extents.append((take(offset_size), take(length_size)))
        yield item, base, extents


def _frames(data: bytes, moov: Span | None) -> int:
    """Return the number of samples in the longest track of a sequence; 1 for a still image."""
    counts = [1]
    for name, track in _boxes(data, moov) if moov else ():
        if name != b"trak":
            continue
        for step in (b"mdia", b"minf", b"stbl", b"stsz"):
            track = dict(_boxes(data, track)).get(step, (0, 0))
        if track != (0, 0):
            counts.append(struct.unpack_from(">I", data, track[0] + 8)[0])
    return max(counts)


def _widen(pixels: Pixels, depth: int) -> Pixels:
    """Scale 0..2**depth-1 to 0..65535, exactly at both ends."""
    if pixels.dtype != np.uint16:
        return pixels
    return (pixels << (16 - depth)) | (pixels >> (2 * depth - 16))

"""An AVIF whose image is a grid of coded images, as encoders write large ones."""

from __future__ import annotations

import struct

from resharp.images.containers import avif
from tests.images.test_samples import encoded, photo

SIDE = 64
"""Of a tile."""


def grid(columns: int, rows: int, width: int, height: int) -> bytes:
    """An image of equal tiles, of which the last column and row may be cut."""
    tile, av1c, pixi = _tile()
    count = columns * rows
    payload = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    parts = [payload, *[tile] * count]
    at = len(_head(count, [(0, 0)] * len(parts), (width, height), av1c, pixi)) + 8
    places = []
    for part in parts:
        places.append((at, len(part)))
        at += len(part)
    return _head(count, places, (width, height), av1c, pixi) + _box(b"mdat", b"".join(parts))


def _tile() -> tuple[bytes, bytes, bytes]:
    """The coded image of a file of OpenCV, its configuration and its kind of pixels."""
    data = encoded(".avif", photo(SIDE, SIDE))
    top = dict(avif._boxes(data, (0, len(data))))
    meta = dict(avif._boxes(data, (top[b"meta"][0] + 4, top[b"meta"][1])))
    _, ((at, size), *_) = next(iter(avif._locations(data, meta)))
    shelf = dict(avif._boxes(data, dict(avif._boxes(data, meta[b"iprp"]))[b"ipco"]))
    av1c, pixi = (data[slice(*shelf[name])] for name in (b"av1C", b"pixi"))
    return data[at : at + size], av1c, pixi


def _head(
    count: int, places: list[tuple[int, int]], size: tuple[int, int], av1c: bytes, pixi: bytes
) -> bytes:
    """All boxes before the coded images; item 1 is the grid, the others are its tiles."""
    tiles = range(2, 2 + count)
    items = _full(b"infe", struct.pack(">HH4sx", 1, 0, b"grid"), 2)
    items += b"".join(_full(b"infe", struct.pack(">HH4sx", n, 0, b"av01"), 2, 1) for n in tiles)
    sizes = (size, (SIDE, SIDE))
    shelf = b"".join(_full(b"ispe", struct.pack(">II", *sides)) for sides in sizes)
    shelf += _box(b"av1C", av1c) + _box(b"pixi", pixi)
    uses = struct.pack(">IHBBB", count + 1, 1, 2, 1, 4)
    uses += b"".join(struct.pack(">HBBBB", n, 3, 2, 0x83, 4) for n in tiles)
    located = struct.pack(">BBH", 0x44, 0, count + 1)
    for number, place in enumerate(places, start=1):
        located += struct.pack(">HHHII", number, 0, 1, *place)
    made_of = _box(b"dimg", struct.pack(f">HH{count}H", 1, count, *tiles))
    boxes = _full(b"hdlr", struct.pack(">I4s12xx", 0, b"pict"))
    boxes += _full(b"pitm", struct.pack(">H", 1)) + _full(b"iloc", located)
    boxes += _full(b"iinf", struct.pack(">H", count + 1) + items) + _full(b"iref", made_of)
    boxes += _box(b"iprp", _box(b"ipco", shelf) + _full(b"ipma", uses))
    return _box(b"ftyp", b"avif\0\0\0\0avifmif1miaf") + _full(b"meta", boxes)


def _box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), name) + body


def _full(name: bytes, body: bytes, version: int = 0, flags: int = 0) -> bytes:
    return _box(name, struct.pack(">I", version << 24 | flags) + body)

"""The upper part of a truncated TIFF file: an image with fewer rows."""

from __future__ import annotations

import struct
import zlib

from resharp.images import ifd
from resharp.images.containers import tiff_strips
from resharp.images.containers.info import DamagedContainerError
from resharp.images.containers.tiff_strips import Strips
from resharp.images.containers.tiff_unpack import LZW, PACK_BITS, has


def shortened(data: bytes) -> tuple[bytes, int, int]:
    """Return a file of the rows that are there.

    Returns:
        The file, its rows, and the rows of the whole image.

    Raises:
        DamagedContainerError: its directory is missing, all rows are, or one of them is damaged.
    """
    page = ifd.Page(data)
    strips = tiff_strips.layout(data, page)
    if page.big:
        raise DamagedContainerError("BigTIFF cannot be read in part")
    (height,) = page.integers(tiff_strips.HEIGHT)[:1]
    each = len(strips.sizes) // strips.planes
    whole = rows = height
    for first in range(0, len(strips.sizes), each):
        numbers = range(first, first + each)
        lost = next((n for n in numbers if not _is_there(data, strips, n)), None)
        if lost is not None:
            top = (lost - first) // strips.across * strips.rows
            whole = min(whole, top)
            rows = min(rows, top if strips.tiled else top + _rows(data, strips, lost))
    if not rows:
        raise DamagedContainerError("it ends before the first row of its image")
    if rows == height:  # only data after the image is missing
        return data + bytes(4), rows, height
    if whole:
        tiff_strips.sound(_with_rows(data, page, strips, whole))
    return _with_rows(data, page, strips, rows), rows, height


def _with_rows(data: bytes, page: ifd.Page, strips: Strips, rows: int) -> bytes:
    """Return a file of the first rows."""
    each = len(strips.sizes) // strips.planes
    used = strips.across * -(-rows // strips.rows)
    kept = [first + n for first in range(0, len(strips.sizes), each) for n in range(used)]
    places = (tiff_strips.STRIPS, tiff_strips.STRIP_SIZES)
    if strips.tiled:
        places = (tiff_strips.TILES, tiff_strips.TILE_SIZES)
    ends = [min(strips.offsets[n] + strips.counts[n], len(data)) for n in kept]
    counts = [end - strips.offsets[n] for n, end in zip(kept, ends, strict=True)]
    tags: ifd.Tags = {
        tiff_strips.HEIGHT: _longs(page, [rows]),
        places[0]: _longs(page, [strips.offsets[n] for n in kept]),
        places[1]: _longs(page, counts),
    }
    return ifd.extended(data, tags)


def _longs(page: ifd.Page, values: list[int]) -> ifd.Value:
    return ifd.LONG, len(values), struct.pack(f"{page.order}{len(values)}I", *values)


def _is_there(data: bytes, strips: Strips, number: int) -> bool:
    plain = strips.compression == tiff_strips.NONE
    size = strips.sizes[number] if plain else strips.counts[number]
    return strips.offsets[number] + size <= len(data)


def _rows(data: bytes, strips: Strips, number: int) -> int:
    """Return how many rows the beginning of a strip holds."""
    strip = strips.raw(data, number)
    if not strip or not strips.row:
        return 0
    if strips.compression in tiff_strips.DEFLATE:
        stream = zlib.decompressobj()
        try:
            return len(stream.decompress(strip, strips.sizes[number])) // strips.row
        except zlib.error:
            return 0
    if strips.compression == tiff_strips.NONE:
        return len(strip) // strips.row
    low, high = 0, strips.sizes[number] // strips.row
    while low < high and strips.compression in (LZW, PACK_BITS):
        middle = (low + high + 1) // 2
        if has(strip, strips.row * middle + 1, strips.compression):
            low = middle
        else:
            high = middle - 1
    return low

"""Strips and tiles of TIFF: whether each of them holds all of its pixels.

OpenCV reads 8-bit pixels through a function of libtiff that reports damaged strips only on standard
error, and returns pixels all the same. So every strip is checked before: deflate by its own length
and checksum, LZW and PackBits with libtiff itself (``tiff_unpack``), the others by their position.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from resharp.images import ifd
from resharp.images.containers import jpeg, jpeg_scans
from resharp.images.containers.info import DamagedContainerError, TruncatedError
from resharp.images.containers.tiff_unpack import LZW, PACK_BITS, unpacked

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
SAMPLES, ROWS, PLANAR, PREDICTOR = 277, 278, 284, 317
STRIPS, STRIP_SIZES, TILE_WIDTH, TILE_HEIGHT, TILES, TILE_SIZES = 273, 279, 322, 323, 324, 325
_TABLES, _SUBSAMPLING = 347, 530
# Tags of the storage of pixels, except compression, strips and tiles.
_LAYOUT = (
    *(WIDTH, HEIGHT, BITS, PHOTOMETRIC, SAMPLES, ROWS, PLANAR, 320, TILE_WIDTH, TILE_HEIGHT),
    *(332, 338, 339, _SUBSAMPLING, 531, 532),
)
_NEEDED = (*_LAYOUT, COMPRESSION, PREDICTOR, STRIPS, STRIP_SIZES, TILES, TILE_SIZES)
NONE, _JPEG, DEFLATE = 1, 7, (8, 32946)
_FAX = (2, 4, 32771)
"""CCITT compressions without fill bits."""
_YCBCR = 6
_PIECE = 1 << 20
_HEADER = 8
"""Bytes of the header of a TIFF file, at least."""
_LARGEST = 2**32 - 2**24
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True, kw_only=True)
class Strips:
    """Strips or tiles of a TIFF file, in the order of its directory."""

    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    """Bytes of each in the file; up to the end of the file if the directory does not state them."""
    sizes: tuple[int, ...]
    """Bytes that each must have after decompression."""
    full: int
    """Bytes of one with all of its rows. Some writers pad the last strip to this size."""
    columns: int
    """Pixels in a row of each."""
    samples: int
    """Channels of each."""
    row: int
    """Bytes of one row of a strip or tile; 0 if pixels of several rows share their colors."""
    rows: int
    """Rows of each, except the last strip."""
    planes: int
    """Number of planes: one, or one for each channel."""
    across: int
    """Number of strips or tiles side by side."""
    tiled: bool
    compression: int
    flipped: bool
    """Whether the bits of each byte are in reverse order."""

    def name(self, number: int) -> str:
        """Return the name of a strip for messages."""
        return f"{'tile' if self.tiled else 'strip'} {number + 1} of {len(self.sizes)}"

    def raw(self, data: bytes, number: int) -> bytes:
        """Return the compressed bytes of a strip, as many as the file has."""
        at = self.offsets[number]
        part = data[at : at + self.counts[number]]
        return part.translate(_REVERSED) if self.flipped else part


def layout(data: bytes, page: ifd.Page) -> Strips:
    """Return the positions of the strips of a page and the sizes that they must have.

    Raises:
        DamagedContainerError: the directory lacks what describes them.
    """
    for tag in _NEEDED:
        place = slice(page.entries[tag] + 4, page.entries[tag] + 8) if tag in page.entries else None
        # Some writers leave optional tags without a value.
        if place and tag not in page.values and any(data[place]):
            raise DamagedContainerError(f"the value of its tag {tag} is outside of the file")
    width, height = (_one(page, tag, 0) for tag in (WIDTH, HEIGHT))
    tiled = TILE_WIDTH in page.values
    across = _one(page, TILE_WIDTH, width) if tiled else width
    down = _one(page, TILE_HEIGHT, height) if tiled else min(_one(page, ROWS, height), height)
    samples = _one(page, SAMPLES, 1)
    bits = page.integers(BITS) or (1,)
    bits = bits if len(bits) == samples else bits[:1] * samples
    compression = _one(page, COMPRESSION, NONE)
    planes = [*bits] if _one(page, PLANAR, 1) == 2 else [sum(bits)]
    if min(width, height, across, down, *planes) <= 0:
        raise DamagedContainerError("its directory does not state its size")
    wide, high = _shared(page) if len(planes) == 1 else (0, 0)
    many = -(-width // across) if tiled else 1
    if len(planes) * many * -(-height // down) > len(data):
        raise DamagedContainerError("it has more strips than bytes")
    sizes: list[int] = []
    for plane in planes:
        for top in range(0, height, down):
            rows = down if tiled else min(down, height - top)
            size = (across * plane + 7) // 8 * rows
            if wide:
                size = -(-across // wide) * -(-rows // high) * (wide * high + 2)
            sizes += [size] * many
    offsets = page.numbers(TILES if tiled else STRIPS)
    counts = page.numbers(TILE_SIZES if tiled else STRIP_SIZES)
    counts = counts or tuple(max(len(data) - at, 0) for at in offsets)
    if min(len(offsets), len(counts)) < len(sizes):
        kind, known = "tiles" if tiled else "strips", min(len(offsets), len(counts))
        raise DamagedContainerError(f"its directory lists {known} of {len(sizes)} {kind}")
    return Strips(
        offsets=offsets,
        counts=counts,
        sizes=tuple(sizes),
        full=max(sizes),
        columns=across,
        samples=samples if len(planes) == 1 else 1,
        row=0 if wide else (across * planes[0] + 7) // 8,
        rows=down,
        planes=len(planes),
        across=many,
        tiled=tiled,
        compression=compression,
        flipped=_one(page, FILL_ORDER, 1) == 2 and compression != _JPEG,
    )


def _shared(page: ifd.Page) -> tuple[int, int]:
    """Return how many pixels share their colors, across and down; zeros if none do."""
    found = page.integers(_SUBSAMPLING)
    if _one(page, PHOTOMETRIC, 1) != _YCBCR or _one(page, COMPRESSION, NONE) == _JPEG:
        return 0, 0
    wide, high = (found[0], found[1]) if len(found) > 1 else (2, 2)
    if wide not in (1, 2, 4) or high not in (1, 2, 4):
        raise DamagedContainerError(f"its colors are shared by {wide} x {high} pixels")
    return wide, high


def sound(data: bytes) -> bytes | bytearray:
    """Return bytes to decode instead of a TIFF file, all strips of which hold their pixels.

    A file with LZW or PackBits is returned with its strips decompressed, so that they are not
    decompressed twice; any other file is returned as it is.

    Raises:
        TruncatedError: strips at the end of the file are missing.
        DamagedContainerError: strips are damaged.
    """
    page = ifd.Page(data)
    strips = layout(data, page)
    if page.stop + (8 if page.big else 4) > len(data):  # OpenCV reports it
        raise TruncatedError(f"it ends after {len(data)} bytes, inside its directory")
    for number, size in enumerate(strips.sizes):
        _check_place(data, strips, number, size)
    if strips.compression in (LZW, PACK_BITS):
        return _decompressed(data, page, strips)
    tables = page.raw(_TABLES)
    for number, size in enumerate(strips.sizes):
        whole = True
        if strips.compression in DEFLATE:
            whole = inflated(strips.raw(data, number), size, strips.full)
        elif strips.compression in _FAX:
            # Its codes have no more than a few zeros in a row, and the padding of rows is a byte.
            whole = bytes(4) not in strips.raw(data, number).rstrip(b"\0")
        elif strips.compression == _JPEG:
            whole = _is_whole_jpeg(data, strips, number, tables)
        if not whole:
            raise DamagedContainerError(f"{strips.name(number)} is damaged")
    return data


def inflated(packed: bytes, *wanted: int) -> bool:
    """Return whether a zlib stream is intact and holds at least the smallest number of bytes.

    A stream that lacks its end must hold exactly one of these numbers.
    """
    stream, found, least = zlib.decompressobj(), 0, min(wanted)
    try:
        while not stream.eof and found <= max(wanted) + _PIECE:
            part = len(stream.decompress(packed, _PIECE))
            packed = stream.unconsumed_tail
            found += part
            if not part and not packed:
                break
    except zlib.error:
        return False
    return found >= least if stream.eof else found in wanted


def _is_whole_jpeg(data: bytes, strips: Strips, number: int, tables: bytes | None) -> bool:
    """Return whether a strip is an intact JPEG of its size; the last one may have more rows."""
    strip = strips.raw(data, number)
    whole = strip[:2] + (tables or b"")[2:-2] + strip[2:]
    try:
        jpeg_scans.check(whole)
        found = jpeg.size(whole)
    except (DamagedContainerError, IndexError, struct.error):
        return False
    return (
        strip.startswith(b"\xff\xd8")
        and (found.width, found.bits) == (strips.columns, 8 * strips.samples)
        and strips.sizes[number] <= found.height * strips.row <= strips.full
    )


def _one(page: ifd.Page, tag: int, default: int) -> int:
    return next(iter(page.integers(tag)), default)


def _check_place(data: bytes, strips: Strips, number: int, size: int) -> None:
    at, count = strips.offsets[number], strips.counts[number]
    if strips.compression == NONE:
        # libtiff corrects a wrong size of the only strip.
        count = max(count, size) if len(strips.sizes) == 1 else count
        if count < size:
            raise DamagedContainerError(
                f"{strips.name(number)} has {count} bytes, but its pixels have {size}"
            )
        count = size
    if not count:
        raise DamagedContainerError(f"{strips.name(number)} is empty")
    if at < _HEADER:
        raise DamagedContainerError(f"{strips.name(number)} begins inside the header")
    if at + count > len(data):
        raise TruncatedError(f"it ends after {len(data)} bytes, before {strips.name(number)} does")


def _decompressed(data: bytes, page: ifd.Page, strips: Strips) -> bytes | bytearray:
    """Return a file with the same pixels, the strips of which are not compressed.

    With a predictor they are stored in deflate, so that libtiff still applies it.
    """
    predicted = strips.compression == LZW and _one(page, PREDICTOR, 1) != 1
    kept = sum(strips.sizes) < _LARGEST
    out, offsets, counts = bytearray(8), [], []
    for number, strip in enumerate(_unpacked(data, strips)):
        if strip is None:
            raise DamagedContainerError(f"{strips.name(number)} is damaged")
        kept &= len(strip) == strips.sizes[number]
        if kept:
            stored = zlib.compress(strip, 0) if predicted else strip
            offsets.append(len(out))
            counts.append(len(stored))
            out += stored
    if not kept:
        return data
    tags: ifd.Tags = {tag: _classic(page, tag) for tag in _LAYOUT if tag in page.values}
    if predicted:
        tags[PREDICTOR] = page.values[PREDICTOR]
    kind = DEFLATE[0] if predicted else NONE
    tags[COMPRESSION] = ifd.SHORT, 1, np.array([kind], f"{page.order}u2").tobytes()
    places = (TILES, TILE_SIZES) if strips.tiled else (STRIPS, STRIP_SIZES)
    for tag, values in zip(places, (offsets, counts), strict=True):
        tags[tag] = ifd.LONG, len(values), np.array(values, f"{page.order}u4").tobytes()
    out += bytes(len(out) % 2)
    mark = b"II*\0" if page.order == "<" else b"MM\0*"
    out[:8] = mark + np.array([len(out)], f"{page.order}u4").tobytes()
    out += ifd.packed(page.order, tags, len(out))
    return out


def _unpacked(data: bytes, strips: Strips) -> Iterator[bytes | None]:
    raws = (strips.raw(data, number) for number in range(len(strips.sizes)))
    return unpacked(raws, strips.sizes, strips.full, strips.compression)


def _classic(page: ifd.Page, tag: int) -> ifd.Value:
    """Return a value with the types of classic TIFF."""
    if page.values[tag][0] <= 12:
        return page.values[tag]
    values = np.array(page.integers(tag), f"{page.order}u4")
    return ifd.LONG, len(values), values.tobytes()

"""TIFF: the variants that OpenCV reads correctly, and the tags that it does not read or write.

OpenCV applies some orientations and not others, multiplies colors by a straight alpha in 8 bits but
not in 16, cannot read gray with alpha, and writes neither metadata nor the tag that defines the
fourth channel. So the decoder gets a copy with neutral tags, and the rest is done here. Pillow has
no 16-bit colors. Tags: TIFF 6.0, EXIF 2.32, XMP part 3.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import numpy as np

from resharp.images import ifd, photoshop
from resharp.images.containers import tiff_strips, tiff_variants
from resharp.images.containers.info import (
    CMYK,
    DEFLATE,
    ContainerInfo,
    Size,
    lzw_bytes,
)
from resharp.images.containers.tiff_strips import (
    BITS,
    COMPRESSION,
    HEIGHT,
    NONE,
    PHOTOMETRIC,
    PREDICTOR,
    SAMPLES,
    STRIP_SIZES,
    STRIPS,
    TILE_SIZES,
    TILE_WIDTH,
    TILES,
    WIDTH,
)
from resharp.images.containers.tiff_unpack import LZW, PACK_BITS
from resharp.images.ifd import MalformedError
from resharp.images.picture import CENTIMETER, Density, Metadata, Pixels, stated
from resharp.reading import Data

_PLACES = ((STRIPS, STRIP_SIZES), (TILES, TILE_SIZES))
"""Tags of the positions and sizes of strips and tiles."""
_MAX_TAGS, _MAX_PAGES = 1 << 19, 1 << 15
"""Most tags and pages that are read, since overlapping directories could be endless."""
_PALETTE, _YCBCR = 3, 6
_RATIOS = {**dict.fromkeys(tiff_strips.DEFLATE, DEFLATE), PACK_BITS: 64}
"""How many bytes a byte can stand for; other compressions have no limit that is certain."""
_SUBFILE, _ORIENTATION, _X, _Y, _UNIT = 254, 274, 282, 283, 296
_INNER, _EXTRA, _SAMPLE_FORMAT, _XMP, _ICC = 330, 338, 339, 700, 34675
_IPTC, _PHOTOSHOP = 33723, 34377
_BLACK_IS_ZERO, _RGB, _INKS = 1, 2, 5
_ASSOCIATED, _UNASSOCIATED = 1, 2
_EXIF, _GPS, _INTEROP, _MAKER_NOTE = 0x8769, 0x8825, 0xA005, 0x927C
_DAMAGED = "some EXIF tags are left out: they are damaged"
# What an EXIF block has in its first directory, and a TIFF file in its own, with the same meaning:
# names, maker, model, software, date, artist, host, chromaticities, rating, copyright, XP texts.
_DESCRIPTIVE = {
    *(269, ifd.DESCRIPTION, 271, 272, 285, 305, 306, 315, 316, 318, 319, 18246, 18249, 33432),
    *range(40091, 40096),
}
# How pixels are stored; and previews, which would be of the old ones.
_STRUCTURE = {
    *(_XMP, _ICC, _IPTC, _PHOTOSHOP, *range(254, 267), *range(273, 285), *range(288, 294), _UNIT),
    *(297, *range(317, 349), 351, *range(512, 522), *range(529, 533), 559, _EXIF, _GPS, 59932),
}


def inspect(data: bytes) -> ContainerInfo:
    """Count the pages, refuse variants that OpenCV misreads, collect metadata."""
    lost: list[str] = []
    page = ifd.Page(data)
    frames = 1 + _further_pages(data, page.following, *page.integers(_INNER))
    tiff_variants.check(page)
    inks = page.integers(PHOTOMETRIC)[:1] == (_INKS,)
    if inks:
        lost.append(CMYK)
    resources = photoshop.sound(page.raw(_PHOTOSHOP) or b"", lost) or b""
    if (record := page.raw(_IPTC)) and photoshop.iptc(resources) is None:
        resources = photoshop.of_iptc(_record(page, record)) + resources
    twins = page.integers(SAMPLES)[:1] == (2,)
    premultiplied = page.integers(_EXTRA)[:1] == (_ASSOCIATED,)
    finish: list[Callable[[Pixels], Pixels]] = []
    if twins:
        finish.append(partial(_parted, difference=tiff_variants.predicted(page) == 2))
    finish += [_without_alpha] if inks else [_straight] if premultiplied else []
    tags = movable(data, page.order, lost)
    return ContainerInfo(
        metadata=Metadata(
            exif=ifd.block(page.order, tags) if tags.keys() - {_X, _Y, _UNIT} else None,
            icc=None if inks else page.raw(_ICC),
            xmp=page.raw(_XMP),
            photoshop=resources or None,
            density=_density(page),
            lost=tuple(lost),
        ),
        frames=frames,
        orientation=next((o for o in page.integers(_ORIENTATION)[:1] if 1 <= o <= 8), 1),
        decodable=_as_gray(data, page) if twins else _neutral(data, page),
        finish=tuple(finish),
        check=tiff_strips.sound,
    )


def size(data: Data) -> Size:
    """Read the size of the first image, and whether its strips or tiles can hold it."""
    tags = (WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, *sum(_PLACES, ()))
    page = ifd.Page(data, only=tags)
    width, height, depth, samples, packed, kind = (
        next(iter(page.integers(tag)), default)
        for tag, default in (
            *((WIDTH, 0), (HEIGHT, 0), (BITS, 1)),
            *((SAMPLES, 1), (COMPRESSION, NONE), (PHOTOMETRIC, _BLACK_IS_ZERO)),
        )
    )
    # In YCbCr, several pixels may share their colors.
    raw = (width * depth * (1 if kind == _YCBCR else samples) + 7) // 8 * height
    if packed == LZW:
        least = lzw_bytes(raw)
    else:
        least = raw if packed == NONE else raw // _RATIOS.get(packed, raw + 1)
    channels = 3 if kind == _PALETTE else {1: 1, 3: 3}.get(samples, 4)
    return Size(
        width=width,
        height=height,
        bits=depth * samples,
        depth=depth,
        channels=channels,
        least=0 if _stored(data, page) > len(data) else least,
    )


def _stored(data: Data, page: ifd.Page) -> int:
    """Return the sum of the sizes of all strips or tiles; several may be the same bytes."""
    for tags in _PLACES:
        starts, sizes = (np.array(page.numbers(tag), np.float64) for tag in tags)
        if len(starts) and len(starts) == len(sizes):
            return int(np.minimum(sizes, np.maximum(len(data) - starts, 0)).sum())
    return 0


def movable(data: bytes, order: ifd.Order, lost: list[str]) -> ifd.Tags:
    """Return the tags of a TIFF file or an EXIF block that the other one can hold, in this order.

    Maker notes contain private positions that only their maker can correct, so they are left out,
    as are tags of unknown meaning; ``lost`` gets a sentence about them.
    """
    root = ifd.Page(data)
    tags: ifd.Tags = {}
    for tag in root.movable() & (_DESCRIPTIVE | {_X, _Y, _UNIT}):
        tags[tag] = root.value(tag, order)
    if root.damaged:
        lost.append(_DAMAGED)
    foreign = sorted(root.values.keys() - _DESCRIPTIVE - _STRUCTURE - {_X, _Y})
    if foreign:
        numbers = ", ".join(map(str, foreign[:8])) + (" ..." if foreign[8:] else "")
        lost.append(f"tags that resharp does not know are left out: TIFF tags {numbers}")
    return tags | _inner(data, root, order, lost, (_EXIF, _GPS))


def _inner(
    data: bytes, root: ifd.Page, order: ifd.Order, lost: list[str], pointers: tuple[int, ...]
) -> ifd.Tags:
    """Return the directories for EXIF, GPS and interoperability that a directory points to."""
    tags: ifd.Tags = {}
    for pointer in pointers:
        for at in root.integers(pointer)[:1]:
            try:
                page = ifd.Page(data, at)
            except MalformedError:
                lost.append(_DAMAGED)
                continue
            if page.damaged:
                lost.append(_DAMAGED)
            if _MAKER_NOTE in page.values:
                lost.append(
                    "the maker notes are left out: they cannot be moved into or out of TIFF"
                )
            plain_tags = page.movable() - {_MAKER_NOTE, _EXIF, _GPS, _INTEROP}
            inner: ifd.Tags = {tag: page.value(tag, order) for tag in plain_tags}
            if pointer == _EXIF:
                inner |= _inner(data, page, order, lost, (_INTEROP,))
            if inner:
                tags[pointer] = inner
    return tags


def _record(page: ifd.Page, record: bytes) -> bytes:
    """Return the IPTC record; old writers declare its bytes as LONGs, in the file's byte order."""
    kind = page.values[_IPTC][0]
    return page.value(_IPTC, ">")[2] if kind == ifd.LONG and record[3:4] == b"\x1c" else record


def _further_pages(data: bytes, *places: int) -> int:
    """Count the pages behind and inside the first, without previews (type 1) and masks (4)."""
    pages, tags, seen, left = 0, 0, {0}, [*places]
    while left and tags < _MAX_TAGS and len(seen) < _MAX_PAGES:
        at = left.pop()
        if at not in seen:
            seen.add(at)
            page = ifd.Page(data, at, only=(_SUBFILE,))
            tags += (page.stop - page.start) // 12
            kind = page.integers(_SUBFILE)
            pages += not (kind and kind[0] & 5)
            left.append(page.following)
    return pages


def _neutral(data: bytes, page: ifd.Page) -> bytearray | None:
    """Return a copy with orientation 1 and an alpha that libtiff keeps; None if not needed."""
    wanted = ((_ORIENTATION, 1), (_EXTRA, _ASSOCIATED))
    changes = [(tag, n) for tag, n in wanted if page.integers(tag) not in ((), (n,))]
    if not changes:
        return None
    copy = bytearray(data)
    for tag, value in changes:
        page.put(copy, tag, value)
    return copy


def _as_gray(data: bytes, page: ifd.Page) -> bytes:
    """Return a copy of gray with alpha that is a gray image of twice the width."""
    changes = {tag: 2 * n for tag in (WIDTH, TILE_WIDTH) for n in page.integers(tag)}
    changes |= {SAMPLES: 1, _ORIENTATION: 1}
    changes |= {tag: n for tag in (BITS, _SAMPLE_FORMAT) for n in page.integers(tag)}
    longs = {tag: (ifd.LONG, 1, struct.pack(page.order + "I", n)) for tag, n in changes.items()}
    return ifd.extended(data, {**longs}, without=(_EXTRA, PREDICTOR))


def _parted(pixels: Pixels, *, difference: bool) -> Pixels:
    """Return BGRA for gray and alpha side by side, as they are or as differences (predictor 2)."""
    pairs = pixels.reshape(len(pixels), -1, 2)
    if difference:
        pairs = np.cumsum(pairs, axis=1, dtype=pixels.dtype)
    return pairs[..., [0, 0, 0, 1]]


def _without_alpha(pixels: Pixels) -> Pixels:
    """Drop the constant alpha of 255 that OpenCV adds to CMYK."""
    return pixels[..., :3]


def _straight(pixels: Pixels) -> Pixels:
    """Divide the colors by the alpha that they were multiplied by."""
    if pixels.ndim != 3 or pixels.shape[2] != 4:
        return pixels
    top = np.float32(1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max)
    out = pixels.copy()
    for at in range(0, len(pixels), 256):
        rows = pixels[at : at + 256].astype(np.float32)
        color = rows[..., :3] * (top / np.maximum(rows[..., 3:], top / 65_536))
        if pixels.dtype.kind != "f":
            color = np.minimum(np.rint(color), top)
        out[at : at + 256, :, :3] = color
    return out


def _density(page: ifd.Page) -> Density | None:
    """Return the resolution; the unit is inch unless it is stated to be none (1) or cm (3)."""
    sides = []
    for tag in (_X, _Y):
        above, below = page.integers(tag) if len(page.integers(tag)) == 2 else (0, 0)
        sides.append(above / below if below else 0.0)
    unit = next(iter(page.integers(_UNIT)), 2)
    return stated(tuple(sides), {1: None, 3: CENTIMETER}.get(unit, 1))


def embed(data: bytes, metadata: Metadata, channels: int, lost: list[str]) -> bytes:
    """Add metadata and the meaning of the alpha channel to a TIFF written by OpenCV.

    ``lost`` gets a sentence about tags that cannot be stored.
    """
    page = ifd.Page(data)
    added: ifd.Tags = {}
    if metadata.exif:
        found = movable(metadata.exif, page.order, lost)
        added |= {tag: value for tag, value in found.items() if tag not in page.values}
    if metadata.density:
        unit = ifd.SHORT, 1, struct.pack(page.order + "H", 2 if metadata.density.inches else 1)
        ratios = [Fraction(side).limit_denominator(10_000) for side in metadata.density[:2]]
        added[_UNIT] = unit
        for tag, ratio in zip((_X, _Y), ratios, strict=True):
            sides = min(ratio.numerator, 2**32 - 1), ratio.denominator
            added[tag] = ifd.RATIONAL, 1, struct.pack(page.order + "II", *sides)
    if channels == 4:
        added[_EXTRA] = ifd.SHORT, 1, struct.pack(page.order + "H", _UNASSOCIATED)
    for tag, kind, block in (
        (ifd.DESCRIPTION, ifd.ASCII, _description(metadata)),
        (_ICC, ifd.UNDEFINED, metadata.icc),
        (_XMP, ifd.BYTE, metadata.xmp),
        (_IPTC, ifd.UNDEFINED, photoshop.iptc(metadata.photoshop or b"")),
        (_PHOTOSHOP, ifd.UNDEFINED, _others(metadata.photoshop)),
    ):
        if block:
            added[tag] = kind, len(block), block
    return ifd.extended(data, added) if added else data


def _description(metadata: Metadata) -> bytes | None:
    return metadata.text[0][1].encode("utf-8", "replace") + b"\0" if metadata.text else None


def _others(blocks: bytes | None) -> bytes | None:
    """Return Photoshop resources, if there are others than the IPTC record, which has a tag."""
    record = photoshop.iptc(blocks or b"")
    return None if blocks is None or (record and blocks == photoshop.of_iptc(record)) else blocks

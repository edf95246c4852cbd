"""AVIF: ISO media boxes (ISO/IEC 14496-12 and 23008-12, AV1 Image File Format 1.2).

OpenCV returns the coded image as it is: not rotated or mirrored, 10 and 12 bits in the low bits of
uint16, and without ICC and XMP; it writes the colors of sRGB. All of these are in the properties
and items of the primary image. Pillow shows neither depth nor colors, and where the container turns
the image it encodes EXIF again, which breaks maker notes and text outside ASCII.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from resharp.images.containers import av1
from resharp.images.containers.info import (
    CREDENTIALS,
    ContainerInfo,
    DamagedContainerError,
    Size,
    UnsupportedError,
    check_count,
    left_out,
)
from resharp.images.exif import payload
from resharp.images.picture import Metadata, Pixels
from resharp.reading import Data

if TYPE_CHECKING:
    from resharp.images.color_signal import ColorSignal

Span = tuple[int, int]
_NOWHERE = (0, 0)
_MAX_NUMBERS = 1 << 18
"""Numbers of a table that are read; an image of a thousand tiles has some ten thousand."""

# irot quarter turns (counter-clockwise), then imir axis (0: top and bottom are swapped, 1: left and
# right), as an EXIF orientation.
_TURNS = {
    (0, None): 1, (1, None): 8, (2, None): 3, (3, None): 6,
    (0, 0): 4, (1, 0): 5, (2, 0): 2, (3, 0): 7,
    (0, 1): 2, (1, 1): 7, (2, 1): 4, (3, 1): 5,
}  # fmt: skip
_SRGB = ((1, 13), (2, 2))
"""Colors that need no mention: sRGB, and unspecified."""
_KNOWN = (b"ftyp", b"meta", b"mdat", b"moov", b"free", b"skip", b"uuid")
_C2PA = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_LEFT_OUT = {
    b"clap": "cropping",
    b"mdcv": "HDR mastering metadata (display brightness)",
    b"clli": "HDR content light level",
    b"tmap": "gain map",
    b"thmb": "thumbnail",
    b"auxC": "depth map or other auxiliary image",
}


def inspect(data: bytes) -> ContainerInfo:
    """Check that all boxes are complete; read orientation, depth, metadata and frame count."""
    boxes = list(_boxes(data, (0, len(data))))
    top = dict(reversed(boxes))
    if b"meta" not in top:
        raise DamagedContainerError("it has no meta box, which describes the image")
    meta = dict(_boxes(data, (top[b"meta"][0] + 4, top[b"meta"][1])))
    iprp = dict(_boxes(data, meta.get(b"iprp", _NOWHERE)))
    shelf = list(_boxes(data, iprp.get(b"ipco", _NOWHERE)))
    items = _items(data, meta)
    turn, mirror, depth, icc, color, gray, full = 0, None, 8, None, None, False, True
    seen = {name for name, _ in _boxes(data, meta.get(b"iref", (0, -4)), 4)} | set(items)
    for name, (start, end) in _properties(data, meta, iprp, shelf):
        seen |= {name} - {b"auxC"}
        kind = data[start : start + 4]
        if name == b"irot":
            turn = data[start] & 3
        elif name == b"imir":
            mirror = data[start] & 1
        elif name == b"av1C":
            depth = (8, 8, 10, 12)[kind[2] >> 5 & 3]  # high_bitdepth, twelve_bit
            gray = kind[2] & 16 > 0
        elif name == b"colr" and kind in (b"prof", b"rICC"):
            icc = data[start + 4 : end]
        elif name == b"colr" and kind == b"nclx":
            color = _color(*struct.unpack_from(">HH", data, start + 4))
            full = data[start + 10] > 127
    for name, (start, end) in shelf:
        if name == b"auxC" and not any(urn in data[start:end] for urn in (b":alpha", b"auxid:1")):
            seen.add(name)
        elif name == b"auxC" and gray:
            raise UnsupportedError("gray and transparency")
    lost = [
        f"the {words} is left out: resharp cannot keep it"
        for n, words in _LEFT_OUT.items()
        if n in seen
    ]
    if any(data[start : start + 16] == _C2PA for name, (start, _) in boxes if name == b"uuid"):
        lost.append(CREDENTIALS)
    lost += left_out("AVIF boxes", [name for name, _ in boxes if name not in _KNOWN])
    if icc and color and not color.is_hdr:  # the profile has precedence
        color = None
    return ContainerInfo(
        metadata=Metadata(
            exif=payload(items.get(b"Exif", b"")[4:]) or None,
            icc=icc,
            xmp=items.get(b"mime") or None,
            color=color,
            lost=tuple(lost),
        ),
        frames=_frames(data, top.get(b"moov", _NOWHERE)),
        orientation=_TURNS[turn, mirror],
        decodable=_without_xmp(data, meta[b"iinf"]) if b"mime" in items else None,
        finish=(partial(_widen, depth=depth, narrow=gray and not full),),
    )


def size(data: Data) -> Size:
    """Read the size of the primary image, or of a larger one that is decoded with it.

    Raises:
        DamagedContainerError: the coded images are smaller than the image that they make up.
    """
    spans = (span for name, span in _boxes(data, (0, len(data))) if name == b"meta")
    start, end = next(spans, _NOWHERE)
    meta = dict(_boxes(data, (start + 4, end)))
    iprp = dict(_boxes(data, meta.get(b"iprp", _NOWHERE)))
    shelf = list(_boxes(data, iprp.get(b"ipco", _NOWHERE)))
    width = height = 0
    depth = 8
    for name, (at, _) in _properties(data, meta, iprp, shelf):
        if name == b"ispe":
            width, height = struct.unpack(">II", data[at + 4 : at + 12])
        elif name == b"av1C":
            depth = (8, 8, 10, 12)[data[at + 2] >> 5 & 3]
    coded = _coded(data, meta)
    tiles, alpha = coded.get("tiles", []), coded.get("alpha", [])
    across, down = coded["grid"][0] if "grid" in coded else (1, 1)
    if tiles and (width > across * tiles[0][0] or height > down * tiles[0][1]):
        raise DamagedContainerError(
            f"its header claims {width} x {height} pixels, but its image data has "
            f"{across * tiles[0][0]} x {down * tiles[0][1]}"
        )
    largest = max([(width, height), *tiles, *alpha], key=lambda sides: sides[0] * sides[1])
    channels = 4 if alpha else 3
    return Size(
        width=largest[0],
        height=largest[1],
        bits=depth * channels,
        depth=depth,
        channels=channels,
    )


def _coded(data: Data, meta: dict[bytes, Span]) -> dict[str, list[tuple[int, int]]]:
    """Return the coded sizes of the primary image or its tiles, its grid, and those of its alpha.

    They are the lists ``tiles``, ``grid`` (one of columns and rows) and ``alpha``.
    """
    if not {b"pitm", b"iinf", b"iloc"} <= meta.keys():
        return {}
    primary, kinds = _primary(data, meta), _kinds(data, meta)
    made_of: dict[int, tuple[int, ...]] = {}
    shown: list[int] = []
    for name, source, targets in _references(data, meta):
        if name == b"dimg":
            made_of[source] = targets
        elif name == b"auxl" and primary in targets:
            shown.append(source)
    names = dict.fromkeys((one for aux in shown for one in (aux, *made_of.get(aux, ()))), "alpha")
    names |= dict.fromkeys((primary, *made_of.get(primary, ())), "tiles")
    found: dict[str, list[tuple[int, int]]] = {}
    for item, spans in _locations(data, meta):
        if item not in names or not spans:
            continue
        if kinds.get(item) == b"av01":
            head = b"".join(data[at : at + min(size, av1.HEAD)] for at, size in spans[:2])
            if sides := av1.frame_size(head):
                found.setdefault(names[item], []).append(sides)
        elif kinds.get(item) == b"grid" and item == primary:
            rows, columns = data[spans[0][0] + 2 : spans[0][0] + 4]
            found["grid"] = [(columns + 1, rows + 1)]
    return found


def embed(data: bytes, metadata: Metadata) -> bytes:
    """Set the colors of an AVIF of OpenCV; it wrote all else."""
    code = (2, 2) if metadata.icc else metadata.color.cicp if metadata.color else None
    at = data.find(b"colrnclx")
    if code is None or at < 0:
        return data
    return data[: at + 8] + struct.pack(">HH", *code) + data[at + 12 :]


def _without_xmp(data: bytes, span: Span) -> bytes:
    """Return a copy whose XMP items have no known type: OpenCV fails if there is alpha too."""
    start, end = span
    return data[:start] + data[start:end].replace(b"mime", b"skip") + data[end:]


def _color(primaries: int, transfer: int) -> ColorSignal | None:
    from resharp.images.color_signal import ColorSignal

    return None if (primaries, transfer) in _SRGB else ColorSignal(cicp=(primaries, transfer))


def _boxes(data: Data, span: Span, skip: int = 0) -> Iterator[tuple[bytes, Span]]:
    at, end, count = span[0] + skip, span[1], 0
    while at + 8 <= end:
        check_count(count := count + 1, len(data), "boxes")
        size, name = struct.unpack(">I4s", data[at : at + 8])
        body = at + 8
        if size == 1:
            (size,) = struct.unpack(">Q", data[body : body + 8])
            body += 8
        stop = at + size if size else end
        if stop > end or stop < body:
            raise DamagedContainerError(f"it ends after {len(data)} bytes, inside a box")
        yield name, (body, stop)
        at = stop


class _Reader:
    """Big-endian numbers, one after another."""

    def __init__(self, data: Data, at: int, *, plain: bool = False) -> None:
        self.data, self.at, self.left = data, at, _MAX_NUMBERS
        self.version, self.flags = (0, 0) if plain else (self.take(1), self.take(3))

    def take(self, size: int) -> int:
        self.at += size
        self.left -= 1
        if self.left < 0:
            raise DamagedContainerError(f"a table has more than {_MAX_NUMBERS} numbers")
        if self.at > len(self.data):
            raise IndexError
        return int.from_bytes(self.data[self.at - size : self.at], "big")


def _properties(
    data: Data, meta: dict[bytes, Span], iprp: dict[bytes, Span], shelf: list[tuple[bytes, Span]]
) -> Iterator[tuple[bytes, Span]]:
    """Yield the properties of the primary image, in order."""
    if b"ipma" not in iprp or b"pitm" not in meta:
        return
    primary = _primary(data, meta)
    read = _Reader(data, iprp[b"ipma"][0])
    for _ in range(read.take(4)):
        item = read.take(4 if read.version else 2)
        for _ in range(read.take(1)):
            index = read.take(2) & 0x7FFF if read.flags & 1 else read.take(1) & 0x7F
            if item == primary and 0 < index <= len(shelf):
                yield shelf[index - 1]


def _primary(data: Data, meta: dict[bytes, Span]) -> int:
    read = _Reader(data, meta[b"pitm"][0])
    return read.take(4 if read.version else 2)


def _references(
    data: Data, meta: dict[bytes, Span]
) -> Iterator[tuple[bytes, int, tuple[int, ...]]]:
    """Yield kind, source and targets of each reference between items."""
    if b"iref" not in meta:
        return
    start, end = meta[b"iref"]
    size = 4 if data[start] else 2
    for name, (at, _) in _boxes(data, (start, end), 4):
        read = _Reader(data, at, plain=True)
        source = read.take(size)
        yield name, source, tuple(read.take(size) for _ in range(read.take(2)))


def _kinds(data: Data, meta: dict[bytes, Span]) -> dict[int, bytes]:
    """Return the kind of each item."""
    kinds: dict[int, bytes] = {}
    start, end = meta[b"iinf"]
    for name, (at, _) in _boxes(data, (start + (8 if data[start] else 6), end)):
        read = _Reader(data, at)
        if name == b"infe" and read.version >= 2:
            item, _ = read.take(4 if read.version > 2 else 2), read.take(2)
            kinds[item] = read.take(4).to_bytes(4, "big")
    return kinds


def _items(data: bytes, meta: dict[bytes, Span]) -> dict[bytes, bytes]:
    """Return the kinds of items, with the content of the first EXIF and XMP (``mime``) item."""
    if b"iinf" not in meta or b"iloc" not in meta:
        return {}
    kinds = _kinds(data, meta)
    found = {kind: b"" for kind in kinds.values() if kind not in (b"Exif", b"mime")}
    for item, spans in _locations(data, meta):
        kind = kinds.get(item, b"")
        wanted = kind in {b"Exif", b"mime"} - found.keys()
        # Overlapping extents could expand a small file to a gigabyte.
        if wanted and sum(size for _, size in spans) <= len(data):
            found[kind] = b"".join(data[at : at + size] for at, size in spans)
    return found


def _locations(data: Data, meta: dict[bytes, Span]) -> Iterator[tuple[int, list[Span]]]:
    """Yield each item, with positions and sizes of its parts."""
    read = _Reader(data, meta[b"iloc"][0])
    sizes = read.take(2)
    offset_size, length_size, base_size, index_size = (sizes >> s & 15 for s in (12, 8, 4, 0))
    id_size = 4 if read.version == 2 else 2
    for _ in range(read.take(id_size)):
        item = read.take(id_size)
        in_idat = read.version > 0 and read.take(2) & 15 == 1
        read.take(2)
        base = read.take(base_size) + (meta.get(b"idat", _NOWHERE)[0] if in_idat else 0)
        spans = []
        count = read.take(2)
        for _ in range(count if offset_size + length_size else min(count, 1)):
            read.take(index_size if read.version > 0 else 0)
            spans.append((base + read.take(offset_size), read.take(length_size)))
        yield item, spans


def _frames(data: bytes, moov: Span) -> int:
    """Return the number of samples in the longest track of a sequence; 1 for a still image."""
    counts = [1]
    for track in [span for name, span in _boxes(data, moov) if name == b"trak"]:
        for step in (b"mdia", b"minf", b"stbl", b"stsz"):
            track = dict(_boxes(data, track)).get(step, _NOWHERE)
        if track != _NOWHERE:
            counts.append(struct.unpack_from(">I", data, track[0] + 8)[0])
    return max(counts)


def _widen(pixels: Pixels, depth: int, *, narrow: bool) -> Pixels:
    """Scale 0..2**depth-1 to 0..65535, exactly at both ends; also narrow range, which is gray's."""
    if narrow and pixels.ndim == 2:
        codes = np.arange(1 << depth, dtype=np.float32) / (1 << depth - 8)
        table = np.rint(np.clip((codes - 16) / 219, 0, 1) * ((1 << depth) - 1))
        pixels = table.astype(pixels.dtype)[pixels]
    if pixels.dtype != np.uint16:
        return pixels
    return (pixels << (16 - depth)) | (pixels >> (2 * depth - 16))

"""PNG: chunks with a length and a CRC each, from IHDR to IEND (PNG, third edition).

Pillow shows neither cICP, mDCV and cLLI nor chunks of other programs, reads texts behind the image
data only by decoding it, and cannot encode 16-bit colors.
"""

from __future__ import annotations

import itertools
import re
import struct
import zlib
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from resharp.images import photoshop
from resharp.images.containers.info import (
    CREDENTIALS,
    DEFLATE,
    ContainerInfo,
    DamagedContainerError,
    Size,
    TruncatedError,
    behind,
    check_count,
    left_out,
    named,
    plain,
)
from resharp.images.picture import METER, Density, Metadata, Pixels, per_meter, stated
from resharp.reading import Data

if TYPE_CHECKING:
    from resharp.images.color_signal import ColorSignal

_XMP = "XML:com.adobe.xmp"
_RAW = "Raw profile type "
_PROFILES = {b"II*\0": "exif", b"MM\0*": "exif", b"8BIM": "photoshop"}
_PROFILES |= dict.fromkeys((b"<?xpacket", b"<x:xmp", b"<rdf:RDF"), "xmp")
"""How blocks begin, behind the identifiers that they have in JPEG."""
_LIGHT = (b"mDCV", b"cLLI")
# These describe the file or the pixels and are used, or decoded by OpenCV.
_READ = {
    *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"eXIf", b"iCCP"),
    *(b"sRGB", b"gAMA", b"cHRM", b"cICP", b"pHYs", b"iTXt", b"tEXt", b"zTXt", *_LIGHT),
}
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Channels by color type."""
_WHOLE = ((0, 0, 1, 1),)
_ADAM7 = (
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)),
    (1, 0, 2, 1),
)
"""First row and column of each pass, and the steps to the next."""
_MAX_CHUNKS = 1000
"""Number of chunks that are searched for transparent colors."""
_MAX_TEXT = 64 << 20
_PIECE = 1 << 20
_LARGEST = 1 << 20
"""Metadata up to this size is left to libpng, which decompresses it, and refuses 8 MB."""
_EXCESS = 256 << 20
"""Bytes by which image data may exceed its pixels; libpng decompresses them in vain."""
_SAMPLE, _STEP, _VARIED = 512, 1 << 14, 64
"""Size of a sample, distance between samples, and the least number of different bytes in one of
compressed data."""


def inspect(data: bytes) -> ContainerInfo:
    """Check that all chunks are complete; collect metadata, and count APNG frames."""
    found: dict[bytes, bytes] = {}
    blocks: dict[str, bytes] = {}
    text: list[tuple[str, str]] = []
    own: list[tuple[str, bytes, bytes]] = []
    lost: list[str] = []
    others: list[bytes] = []
    chunks, inflate = list(_chunks(data, lost)), _Inflater(lost)
    for name, at, end in chunks:
        body = b"" if name in (b"IDAT", b"fdAT") else data[at + 8 : end - 4]
        if name in (b"iTXt", b"tEXt", b"zTXt"):
            keyword, content, codec = _text(name, body, inflate)
            kind, block = _profile(keyword, content)
            if kind:
                blocks.setdefault(kind, block)
            else:
                text.append((keyword, plain(content, codec)))
        elif name == b"caBX":
            lost.append(CREDENTIALS)
        elif name in _READ:
            found.setdefault(name, body)
        elif name[3:].islower():  # "safe to copy", whatever becomes of the pixels
            own.append(("png", name, body))
        else:
            others.append(name)
    if b"iCCP" in found:
        blocks["icc"] = inflate(found[b"iCCP"].partition(b"\0")[2][1:])
    if found.get(b"cICP", b"\1" * 4)[3:4] == b"\0":
        lost.append("the colors are taken for full range, although the file states narrow range")
    lost += left_out("PNG chunks", others)
    dots = struct.unpack(">IIB", found[b"pHYs"]) if len(found.get(b"pHYs", b"")) == 9 else (0, 0, 0)
    metadata = Metadata(
        exif=found.get(b"eXIf") or blocks.get("exif"),
        icc=blocks.get("icc") or None,
        xmp=blocks.get("xmp") or None,
        photoshop=photoshop.sound(blocks.get("photoshop", b""), lost),
        text=tuple(text),
        density=stated(dots[:2], METER if dots[2] == 1 else None),
        color=_color(found) if found.keys() & _COLOR else None,
        own=tuple(own),
        lost=tuple(lost),
    )
    head, key = found.get(b"IHDR", bytes(13)), found.get(b"tRNS", b"")
    return ContainerInfo(
        metadata=metadata,
        decodable=_critical(data, chunks) if len(data) > _LARGEST else None,
        check=_bounded,
        frames=int.from_bytes(found[b"acTL"][:4], "big") if b"acTL" in found else 1,
        finish=(partial(_keyed, key=key, depth=head[8]),) if head[9] == 0 and len(key) > 1 else (),
    )


def size(data: Data) -> Size:
    """Read the header chunk.

    Raises:
        DamagedContainerError: it is not the first chunk.
    """
    if data[8:16] != b"\0\0\0\rIHDR":
        raise DamagedContainerError("it does not begin with its header chunk")
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    channels = 4 if kind in (4, 6) or _has_key(data) else 1 if kind == 0 else 3
    return Size(
        width=width,
        height=height,
        bits=depth * _CHANNELS.get(kind, 1),
        depth=depth,
        channels=channels,
        least=sum(pass_sizes(data[16:29])) // DEFLATE,
    )


def pass_sizes(header: bytes) -> list[int]:
    """Return the bytes of each pass in the inflated image data; plain images have one pass."""
    width, height, depth, kind, interlaced = struct.unpack(">IIBB2xB", header)
    bits = depth * _CHANNELS.get(kind, 1)
    sizes = []
    for top, left, down, right in _ADAM7 if interlaced else _WHOLE:
        across = len(range(left, width, right))
        sizes.append(len(range(top, height, down)) * (across > 0 and 1 + (across * bits + 7) // 8))
    return sizes


def _bounded(data: bytes) -> bytes:
    """Return the data of a PNG whose image data ends soon after its last pixel.

    Raises:
        DamagedContainerError: it does not.
    """
    most = sum(pass_sizes(data[16:29])) + _EXCESS
    if len(data) * DEFLATE <= most or not _repeats(data):
        return data
    stream, found = zlib.decompressobj(), 0
    try:
        for name, at, end in _chunks(data, []):
            packed = data[at + 8 : end - 4] if name == b"IDAT" else b""
            while packed and not stream.eof:
                found += len(stream.decompress(packed, _PIECE))
                packed = stream.unconsumed_tail
                if found > most:
                    raise DamagedContainerError("its image data goes on long after its last pixel")
    except zlib.error:
        return data  # libpng reports it
    return data


def _repeats(data: bytes) -> bool:
    """Return whether a part of compressed data has few values, as that of long flat areas has."""
    starts = range(0, len(data) - _SAMPLE + 1, _STEP)
    return any(len(set(data[at : at + _SAMPLE])) < _VARIED for at in starts)


def _has_key(data: Data) -> bool:
    """Return whether a transparent color is stated before the image data."""
    at = 8
    for _ in range(_MAX_CHUNKS):
        head = data[at : at + 8]
        if len(head) < 8 or head[4:] in (b"tRNS", b"IDAT"):
            return head[4:] == b"tRNS"
        at += 12 + int.from_bytes(head[:4], "big")
    return True


def embed(data: bytes, metadata: Metadata) -> bytes:
    """Insert what OpenCV does not write, or not so that others find it, behind IHDR."""
    added = [(b"pHYs", _dots(metadata.density))] if metadata.density else []
    if metadata.color:
        added += _color_chunks(metadata.color, metadata.icc)
    if metadata.xmp:
        added.append((b"iTXt", _XMP.encode() + bytes(5) + metadata.xmp))
    if metadata.photoshop:
        size, digits = len(metadata.photoshop), metadata.photoshop.hex().encode()
        profile = b"\niptc\n%8d\n%s\n" % (size, re.sub(rb"(.{72})", rb"\1\n", digits))
        added.append((b"zTXt", _RAW.encode() + b"iptc\0\0" + zlib.compress(profile)))
    for keyword, text in metadata.text:
        word = plain(keyword.encode("latin-1", "replace"), "latin-1").encode("latin-1")[:79]
        word = word or b"Comment"
        try:
            added.append((b"tEXt", word + b"\0" + text.encode("latin-1")))
        except UnicodeEncodeError:
            added.append((b"iTXt", word + bytes(5) + text.encode("utf-8", "replace")))
    added += [(name, body) for _, name, body in metadata.own]
    return data[:33] + b"".join(chunk(name, body) for name, body in added) + data[33:]


def chunk(name: bytes, body: bytes) -> bytes:
    """Return a chunk with its length and checksum."""
    crc = zlib.crc32(name + body)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc)


def _chunks(data: bytes, lost: list[str]) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of each chunk."""
    view = memoryview(data)
    at, drawn = 8, False
    for count in itertools.count():
        check_count(count, len(data), "chunks")
        size = int.from_bytes(view[at : at + 4], "big")
        name = bytes(view[at + 4 : at + 8])
        end = at + 12 + size
        if end > len(view):
            error = TruncatedError if drawn or name == b"IDAT" else DamagedContainerError
            raise error(f"it ends after {len(view)} bytes, without its IEND chunk")
        drawn |= name == b"IDAT"
        if zlib.crc32(view[at + 4 : end - 4]) == int.from_bytes(view[end - 4 : end], "big"):
            yield name, at, end
        elif name[:1].isupper():
            raise DamagedContainerError(f"the checksum of its {named(name)} chunk is wrong")
        else:
            lost.append(f"the PNG chunk {named(name)} is left out: it is damaged")
        if name == b"IEND":
            lost += behind(data, end)
            return
        at = end


def _critical(data: bytes, chunks: list[tuple[bytes, int, int]]) -> bytes | None:
    """Return a copy without metadata if these are too large for the decoder."""
    if sum(end - at for name, at, end in chunks if name[:1].islower()) < _LARGEST:
        return None
    used = [(at, end) for name, at, end in chunks if name[:1].isupper() or name == b"tRNS"]
    return data[:8] + b"".join(data[at:end] for at, end in used)


def _text(name: bytes, body: bytes, inflate: _Inflater) -> tuple[str, bytes, str]:
    """Return keyword, text and the encoding of the text."""
    word, _, rest = body.partition(b"\0")
    keyword = word.decode("latin-1")
    if name == b"tEXt":
        return keyword, rest, "latin-1"
    if name == b"zTXt":
        return keyword, inflate(rest[1:]), "latin-1"
    language, _, translated = rest[2:].partition(b"\0")
    translation, _, text = translated.partition(b"\0")
    if language or translation:
        inflate.lost.append(f"the language of the text {keyword!r} is left out")
    return keyword, inflate(text) if rest[:1] == b"\1" else text, "utf-8"


def _profile(keyword: str, content: bytes) -> tuple[str, bytes]:
    """Return the kind of block in a text, as ImageMagick and exiftool store them; "" if none."""
    if keyword == _XMP:
        return "xmp", content.rstrip(b"\0")
    if not keyword.startswith(_RAW):
        return "", content
    try:
        block = bytes.fromhex(content.split(maxsplit=2)[2].decode("ascii"))
    except (ValueError, IndexError):
        return "", content
    if block[36:40] == b"acsp":
        return "icc", block
    for start, kind in _PROFILES.items():
        if (at := block[:40].find(start)) >= 0:
            return kind, block[at:]
    return ("photoshop", photoshop.of_iptc(block)) if block.startswith(b"\x1c") else ("", content)


class _Inflater:
    """Decompresses up to 64 MiB of a file, since a kilobyte of zlib data can become a gigabyte."""

    def __init__(self, lost: list[str]) -> None:
        self.lost, self._left = lost, _MAX_TEXT

    def __call__(self, packed: bytes) -> bytes:
        stream = zlib.decompressobj()
        try:
            whole = stream.decompress(packed, max(self._left, 1))  # 0 means no limit
        except zlib.error:
            whole = b""
        self._left -= len(whole)
        if not stream.eof:
            self.lost.append("compressed metadata is left out: it is damaged or too large")
            return b""
        return whole


def _dots(density: Density) -> bytes:
    if density.inches:
        return struct.pack(">IIB", per_meter(density.x), per_meter(density.y), 1)
    return struct.pack(">IIB", *density.ratio(2**31 - 1), 0)


_COLOR = {b"cICP", b"sRGB", b"gAMA", b"cHRM", *_LIGHT}


def _color(found: dict[bytes, bytes]) -> ColorSignal | None:
    from resharp.images.color_signal import ColorSignal

    signal, gamma = found.get(b"cICP", b""), found.get(b"gAMA", b"")
    xy, intent = found.get(b"cHRM", b""), found.get(b"sRGB", b"")
    color = ColorSignal(
        cicp=(signal[0], signal[1]) if len(signal) == 4 else None,
        gamma=int.from_bytes(gamma, "big") / 1e5 if len(gamma) == 4 and any(gamma) else None,
        chromaticities=tuple(v / 1e5 for v in struct.unpack(">8I", xy)) if len(xy) == 32 else None,
        intent=intent[0] if len(intent) == 1 else None,
        light=tuple((name.decode(), found[name]) for name in found if name in _LIGHT),
    )
    return None if color == ColorSignal() else color


def _color_chunks(color: ColorSignal, icc: bytes | None) -> list[tuple[bytes, bytes]]:
    chunks = [(name.encode(), body) for name, body in color.light]
    if color.cicp:
        chunks.append((b"cICP", bytes((*color.cicp, 0, 1))))
    if color.intent is not None and not icc:  # a file has one of both
        chunks.append((b"sRGB", bytes((color.intent,))))
    if color.gamma:
        chunks.append((b"gAMA", struct.pack(">I", round(color.gamma * 1e5))))
    if color.chromaticities:
        chunks.append(
            (b"cHRM", struct.pack(">8I", *(round(v * 1e5) for v in color.chromaticities)))
        )
    return chunks


def _keyed(pixels: Pixels, *, key: bytes, depth: int) -> Pixels:
    """Return gray pixels with the alpha that a transparent gray value (tRNS) means."""
    if pixels.ndim != 2:
        return pixels
    top = np.iinfo(pixels.dtype).max
    value = int.from_bytes(key[:2], "big") & ((1 << depth) - 1)
    alpha = np.where(pixels == value * top // ((1 << depth) - 1), 0, top).astype(pixels.dtype)
    return np.dstack([pixels, pixels, pixels, alpha])

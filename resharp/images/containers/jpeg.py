"""JPEG: marker segments, then entropy-coded scans, up to EOI (ITU-T T.81 annex B).

EXIF thumbnails are JPEG files inside an APP1 segment, and phones append images and videos after
EOI, so neither the first nor the last ``FF D9`` of the file is conclusive: segments are skipped by
their length, and scans are searched for the marker that ends them. Pillow does neither, and shows
only the last of several comments.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterator

from resharp.images import ifd, photoshop
from resharp.images.containers.info import (
    CMYK,
    CREDENTIALS,
    ContainerInfo,
    DamagedContainerError,
    Size,
    TruncatedError,
    behind,
    check_count,
    left_out,
    plain,
)
from resharp.images.picture import CENTIMETER, Metadata, stated
from resharp.reading import Data

EXIF, XMP, ICC = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"
_JFIF, _PHOTOSHOP, _MPF = b"JFIF\0", b"Photoshop 3.0\0", b"MPF\0"
_LONG_XMP, _GAIN_MAP = b"http://ns.adobe.com/xmp/extension/\0", b"urn:iso:std:iso:ts:21496:-1\0"
_APP1, _APP2, _APP11, _APP13, _COM = 0xE1, 0xE2, 0xEB, 0xED, 0xFE
_SOI, EOI, _SOS = 0xD8, 0xD9, 0xDA
_KNOWN = {
    0xE0: (_JFIF, b"JFXX\0"),  # a thumbnail
    _APP1: (EXIF[:5], XMP, _LONG_XMP),
    _APP2: (ICC, _GAIN_MAP, _MPF),
    _APP13: (_PHOTOSHOP,),
    0xEE: (b"Adobe",),  # how colors are coded
}
PROGRESSIVE = 0xC2
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_FEWEST = {0xC0: 2, 0xC1: 2, 0xC2: 1}
"""Fewest bits of a block of 8x8, by frame header: a Huffman code for its mean, and one for the end
of the block unless the frame is progressive. Arithmetic coding needs almost none."""
_FIRST_STEP = 64
"""Bytes of a file that are searched for a marker; each further search takes four times as many."""
_MAX_BODY = 65_533
_MAX_IMAGES = 1000
"""Images behind the first one that are looked at."""
_NOT_ZERO = re.compile(rb"[^\0]", re.DOTALL)
_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)

# In a scan, FF 00 is a data byte, FF D0..D7 are restarts, FF FF is padding; the rest ends it.
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)

Segment = tuple[int, bytes, int]
"""Marker, content and end of a segment."""


def inspect(data: bytes) -> ContainerInfo:
    """Check that the file reaches EOI; collect metadata, and look at what follows EOI."""
    parts: dict[int, bytes] = {}
    blocks: dict[bytes, bytes] = {}
    text: list[tuple[str, str]] = []
    lost: list[str] = []
    others: list[bytes] = []
    channels = 0
    for marker, body, _ in (found := list(segments(data))):
        start = _start(marker, body)
        name = b"APP%d " % (marker & 15) + re.sub(rb"[^ -~].*", b"", body[:40], flags=re.DOTALL)
        if marker in _FRAMES and len(body) > 5:
            channels = body[5]
        elif marker == _COM:
            text.append(("Comment", plain(body)))
        elif start == ICC and len(body) > 14:
            parts.setdefault(body[12], body[14:])
        elif start == _PHOTOSHOP:
            blocks[start] = blocks.get(start, b"") + body[len(start) :]
        elif start == EXIF[:5] in blocks and body[6:10] not in (b"II*\0", b"MM\0*"):
            blocks[start] += body[6:]  # too large for one segment
        elif start and start in blocks and start != _LONG_XMP and marker != 0xE0:
            others.append(b"a second " + name)
        elif start:
            blocks[start] = body[len(start) :]
        elif marker == _APP11 and body.startswith(b"JP"):
            lost.append(CREDENTIALS)
        elif marker & 0xF0 == 0xE0:
            others.append(name)
    if others:
        lost += left_out("JPEG segments", others)
    icc = b"".join(parts[number] for number in sorted(parts)) or None
    if channels == 4:
        icc = None  # OpenCV converts the inks arithmetically
        lost.append(CMYK)
    if _LONG_XMP in blocks:
        lost.append("the extended part of the XMP data is left out: resharp cannot keep it")
    unit, x, y = struct.unpack(">BHH", blocks.get(_JFIF, b"").ljust(7, b"\0")[2:7])
    gain_map = _behind(data, found[-1][2], blocks, lost)
    metadata = Metadata(
        exif=blocks.get(EXIF[:5], b"")[1:] or None,
        icc=icc,
        xmp=blocks.get(XMP),
        photoshop=photoshop.sound(blocks[_PHOTOSHOP], lost) if _PHOTOSHOP in blocks else None,
        text=tuple(text),
        density=stated((x, y), {1: 1, 2: CENTIMETER}.get(unit)) if unit or x != y else None,
        gain_map=gain_map,
        own=(("jpeg", _GAIN_MAP, blocks[_GAIN_MAP]),) if gain_map and _GAIN_MAP in blocks else (),
        lost=tuple(dict.fromkeys(lost)),
    )
    from resharp.images.containers import jpeg_scans

    return ContainerInfo(metadata=metadata, check=jpeg_scans.check, verify=jpeg_scans.check_end)


def size(data: Data) -> Size:
    """Read the frame header.

    Raises:
        DamagedContainerError: there is none.
    """
    for marker, body, _ in segments(data):
        if marker in _FRAMES and len(body) > 5:
            depth, height, width, count = struct.unpack_from(">BHHB", body)
            bits = _FEWEST.get(marker, 0) * _blocks(body, width, height, count)
            channels = 1 if count == 1 else 3
            return Size(
                width=width, height=height, bits=depth * count, channels=channels, least=bits // 8
            )
        if marker == _SOS:
            break
    raise DamagedContainerError("it has no frame header, which states its size")


def _blocks(body: bytes, width: int, height: int, count: int) -> int:
    """Return the number of 8x8 blocks of all components of a frame header."""
    if not count:
        raise DamagedContainerError("its frame header states no components")
    factors = [(body[at] >> 4 or 1, body[at] & 15 or 1) for at in range(7, 6 + 3 * count, 3)]
    across, down = (max(sides) for sides in zip(*factors, strict=True))
    return sum(-(-width * h // (8 * across)) * -(-height * v // (8 * down)) for h, v in factors)


def embed(data: bytes, metadata: Metadata) -> bytes:
    """Insert metadata into a JPEG of OpenCV behind JFIF, leaving out blocks that are too large.

    OpenCV fails on ICC profiles of more than 64 KiB and writes XMP that no reader recognizes.
    """
    added = [(_APP1, EXIF + metadata.exif)] if metadata.exif else []
    added += [(_APP1, XMP + metadata.xmp)] if metadata.xmp else []
    added += [(_APP2, name + body) for _, name, body in metadata.own]
    parts = _split(metadata.icc or b"", _MAX_BODY - len(ICC) - 2)
    if len(parts) <= 255:
        added += [(_APP2, ICC + bytes((n, len(parts))) + part) for n, part in enumerate(parts, 1)]
    parts = _split(metadata.photoshop or b"", _MAX_BODY - len(_PHOTOSHOP))
    added += [(_APP13, _PHOTOSHOP + part) for part in parts]
    added += [(_COM, text.encode("utf-8", "replace")) for _, text in metadata.text]
    head = data[:20]
    if dots := metadata.density:
        x, y = dots.ratio(65_535)
        if dots.inches:
            x, y = (min(max(round(value), 1), 65_535) for value in dots[:2])
        head = head[:13] + struct.pack(">BHH", dots.inches, x, y) + head[18:]
    head += b"".join(_segment(marker, body) for marker, body in added if len(body) <= _MAX_BODY)
    if metadata.gain_map is None:
        return head + data[20:]
    index = _mpf(len(head), len(data) - 20, len(metadata.gain_map))
    return head + index + data[20:] + metadata.gain_map


def ended(data: bytes) -> bytes:
    """Return a truncated JPEG with an end marker after the rest of its scans.

    Raises:
        DamagedContainerError: it ends before its first scan.
    """
    scans, end = 0, 0
    try:
        for marker, _, at in segments(data):
            scans, end = scans + (marker == _SOS), at - 2 * (marker == EOI)
            if marker == _SOS:
                found = _SCAN_END.search(data, at)
                end = found.start() if found else len(data)
    except TruncatedError:
        pass
    if not scans:
        raise DamagedContainerError("it ends before its image data")
    # Broken downloads may end in zeros, which would be decoded to pixels.
    body = data[:end]
    return (body.rstrip(b"\0") if body.endswith(bytes(16)) else body).rstrip(b"\xff") + b"\xff\xd9"


def with_segments_of(data: bytes, source: bytes) -> bytes:
    """Return a JPEG of OpenCV with the metadata segments of another one as they are."""
    kept = [_segment(m, body) for m, body, _ in segments(source) if m == _COM or 0xE1 <= m <= 0xEF]
    return data[:20] + b"".join(kept) + data[20:]


def _mpf(start: int, rest: int, second: int) -> bytes:
    """Return the index of two images (CIPA DC-007) as a segment for this position in the first."""
    length, content = 4 + 86, start + 8
    first = start + length + rest
    entries = struct.pack("<IIIHH", 0x30000, first, 0, 0, 0)
    entries += struct.pack("<IIIHH", 0, second, first - content, 0, 0)
    tags: ifd.Tags = {
        0xB000: (ifd.UNDEFINED, 4, b"0100"),
        0xB001: (ifd.LONG, 1, struct.pack("<I", 2)),
        0xB002: (ifd.UNDEFINED, len(entries), entries),
    }
    return _segment(_APP2, _MPF + ifd.block("<", tags))


def _split(whole: bytes, size: int) -> list[bytes]:
    return [whole[at : at + size] for at in range(0, len(whole), size)]


def _segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body


def _start(marker: int, body: bytes) -> bytes:
    """Return the identifier that a known segment starts with; empty if it is unknown."""
    return next((start for start in _KNOWN.get(marker, ()) if body.startswith(start)), b"")


def _behind(data: bytes, at: int, blocks: dict[bytes, bytes], lost: list[str]) -> bytes | None:
    """Return the gain map behind a JPEG that announces one; name the rest in ``lost``."""
    images: list[bytes] = []
    at = _behind_zeros(data, at)
    while data[at : at + 3] == b"\xff\xd8\xff" and len(images) < _MAX_IMAGES:
        try:
            *_, (_, _, end) = segments(data, at)
        except DamagedContainerError:
            break
        images.append(data[at:end])
        at = _behind_zeros(data, end)
    gain_map = None
    if images and (_GAIN_MAP in blocks or _announces(blocks.get(XMP))):
        sure = [image for image in images if _is_gain_map(image)] or (
            images if len(images) == 1 else []
        )
        gain_map = sure[0] if sure else None
    if others := len(images) - (gain_map is not None):
        what = "1 further image is" if others == 1 else f"{others} further images are"
        lost.append(f"{what} left out: resharp keeps the first image of a JPEG file")
    # The zeros in front of a box size were skipped as padding.
    if b"ftyp" in data[at : at + 12] or b"MotionPhoto_Data" in data[at : at + 256]:
        lost.append("the video of the motion photo is left out: resharp cannot keep it")
    elif at < len(data):
        lost += behind(data, at)
    return gain_map


def _behind_zeros(data: bytes, at: int) -> int:
    found = _NOT_ZERO.search(data, at)
    return found.start() if found else len(data)


def _announces(packet: bytes | None) -> bool:
    from resharp.images import xmp

    return packet is not None and xmp.announces_gain_map(packet)


def _is_gain_map(image: bytes) -> bool:
    found = {_start(marker, body): body for marker, body, _ in segments(image)}
    return _GAIN_MAP in found or _announces(found.get(XMP, b"")[len(XMP) :])


def _find(pattern: re.Pattern[bytes], data: Data, at: int) -> int | None:
    """Return where a pattern of two bytes is found from a position on."""
    if isinstance(data, bytes):
        found = pattern.search(data, at)
        return found.start() if found else None
    step = _FIRST_STEP
    while at < len(data):
        found = pattern.search(data[at : at + step + 1])
        if found:
            return at + found.start()
        at, step = at + step, 4 * step
    return None


def segments(data: Data, at: int = 0) -> Iterator[Segment]:
    """Yield the segments of the JPEG at this position, up to EOI."""
    at += 2
    error = DamagedContainerError
    for count in itertools.count():
        check_count(count, len(data), "segments")
        # Skip padding, and stray bytes that some cameras leave between segments.
        start = _find(_MARKER, data, at)
        if start is None:
            raise error(f"it ends after {len(data)} bytes, without its end marker")
        at = start
        marker = data[at + 1]
        if marker == EOI:
            yield marker, b"", at + 2
            return
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if size < 2 or at + 2 + size > len(data):
            raise error(f"it ends after {len(data)} bytes, inside a segment")
        body = data[at + 4 : at + 2 + size]
        at += 2 + size
        yield marker, body, at
        if marker == _SOS:
            error = TruncatedError
            end = _find(_SCAN_END, data, at)
            if end is None:
                raise error(f"it ends after {len(data)} bytes, inside the image data")
            at = end

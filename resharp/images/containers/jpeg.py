"""JPEG: marker segments, then entropy-coded scans, up to EOI (ITU-T T.81 annex B).

EXIF thumbnails are JPEG files inside an APP1 segment, and phones append images and videos after
EOI, so neither the first nor the last ``FF D9`` of the file is conclusive: segments are skipped by
their length, and scans are searched for the marker that ends them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

from resharp.images.containers.info import ContainerInfo, DamagedContainerError
from resharp.images.picture import Metadata

logger = logging.getLogger(__name__)

EXIF, XMP, ICC = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"
_APP1, _APP2, _EOI, _SOS = 0xE1, 0xE2, 0xD9, 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_MAX_BODY = 65_533
_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)

# In a scan, FF 00 is a data byte, FF D0..D7 are restarts, FF FF is padding; the rest ends it.
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)


def inspect(data: bytes) -> ContainerInfo:
    """Check that the file reaches EOI; collect EXIF, ICC and XMP."""
    exif = xmp = None
    parts: dict[int, bytes] = {}
    channels = 3
    for marker, body in _segments(data):
        if marker == _APP1 and body.startswith(b"Exif\0"):
            exif = exif or body[6:]
        elif marker == _APP1 and body.startswith(XMP):
            xmp = xmp or body[len(XMP) :]
        elif marker == _APP2 and body.startswith(ICC) and len(body) > 14:
            parts.setdefault(body[12], body[14:])
        elif marker in _FRAMES and len(body) > 5:
            channels = body[5]
    icc = b"".join(parts[number] for number in sorted(parts)) or None
    if channels == 4:
        # OpenCV converts the inks to BGR arithmetically, so the profile of the inks is dropped.
        logger.warning("A CMYK JPEG is converted without its profile; colors are approximate.")
        icc = None
    return ContainerInfo(metadata=Metadata(exif=exif, icc=icc, xmp=xmp))


def embed(data: bytes, metadata: Metadata) -> bytes:
    """Insert metadata into an encoded JPEG after JFIF, leaving out blocks that are too large.

    OpenCV fails on ICC profiles of more than 64 KiB and writes XMP that no reader recognizes.
    """
    added = b""
    if metadata.exif and len(EXIF + metadata.exif) <= _MAX_BODY:
        added += _segment(_APP1, EXIF + metadata.exif)
    if metadata.xmp and len(XMP + metadata.xmp) <= _MAX_BODY:
        added += _segment(_APP1, XMP + metadata.xmp)
    icc = metadata.icc or b""
    room = _MAX_BODY - len(ICC) - 2
    parts = [icc[at : at + room] for at in range(0, len(icc), room)]
    if len(parts) <= 255:
        for number, part in enumerate(parts, 1):
            added += _segment(_APP2, ICC + bytes((number, len(parts))) + part)
    at = 4 + int.from_bytes(data[4:6], "big") if data[2:4] == b"\xff\xe0" else 2
    return data[:at] + added + data[at:]


def _segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 2
    while True:
        # Skip padding, and stray bytes that some cameras leave between segments.
        start = _MARKER.search(data, at)
        if start is None:
            raise DamagedContainerError(f"it ends after {len(data)} bytes, without its end marker")
        at = start.start()
        marker = data[at + 1]
        if marker == _EOI:
            return
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if size < 2 or at + 2 + size > len(data):
            raise DamagedContainerError(f"it ends after {len(data)} bytes, inside a segment")
        yield marker, data[at + 4 : at + 2 + size]
        at += 2 + size
        if marker == _SOS:
            end = _SCAN_END.search(data, at)
            if end is None:
                raise DamagedContainerError(
                    f"it ends after {len(data)} bytes, inside the image data"
                )
            at = end.start()

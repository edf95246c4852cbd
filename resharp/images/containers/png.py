"""PNG: chunks with a length and a CRC each, from IHDR to IEND (PNG, third edition)."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator

from resharp.images.containers.info import ContainerInfo, DamagedContainerError
from resharp.images.picture import Metadata

logger = logging.getLogger(__name__)
_XMP = b"XML:com.adobe.xmp\0"
_MAX_TEXT = 64 << 20


def inspect(data: bytes) -> ContainerInfo:
    """Check that all chunks are complete; collect eXIf, iCCP and XMP, and count APNG frames."""
    found: dict[bytes, bytes] = {}
    frames = 1
    for name, body in _chunks(data):
        if name == b"acTL" and len(body) >= 4:
            frames = int.from_bytes(body[:4], "big")
        elif name == b"eXIf":
            found.setdefault(b"exif", bytes(body))
        elif name == b"iCCP":
            found.setdefault(b"icc", _inflate(bytes(body).partition(b"\0")[2][1:]))
        elif name in (b"iTXt", b"tEXt") and bytes(body[:18]) == _XMP:
            text = bytes(body[18:])
            found.setdefault(b"xmp", _text(text) if name == b"iTXt" else text.rstrip(b"\0"))
    metadata = Metadata(
        exif=found.get(b"exif") or None,
        icc=found.get(b"icc") or None,
        xmp=found.get(b"xmp") or None,
    )
    return ContainerInfo(metadata=metadata, frames=frames)


def embed_xmp(data: bytes, packet: bytes) -> bytes:
    """Insert an XMP packet after IHDR, as iTXt: other readers ignore the tEXt of OpenCV."""
    body = b"iTXt" + _XMP + bytes(4) + packet
    size, crc = (number.to_bytes(4, "big") for number in (len(body) - 4, zlib.crc32(body)))
    return data[:33] + size + body + crc + data[33:]


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    view = memoryview(data)
    at = 8
    while True:
        size = int.from_bytes(view[at : at + 4], "big")
        name = bytes(view[at + 4 : at + 8])
        end = at + 12 + size
        if end > len(view):
            raise DamagedContainerError(f"it ends after {len(view)} bytes, without its IEND chunk")
        intact = zlib.crc32(view[at + 4 : end - 4]) == int.from_bytes(view[end - 4 : end], "big")
        if intact:
            yield name, view[at + 8 : end - 4]
        elif name[:1].isupper():
            raise DamagedContainerError(
                f"the checksum of its {name.decode('latin-1')} chunk is wrong"
            )
        else:
            logger.warning("A PNG chunk %r has a wrong checksum and is ignored.", name)
        if name == b"IEND":
            return
        at = end


def _text(body: bytes) -> bytes:
    """Return the text of an iTXt chunk from its body after the keyword."""
    compressed = body[:1] == b"\1"
    parts = body[2:].split(b"\0", 2)
    text = parts[2] if len(parts) == 3 else b""
    return (_inflate(text) if compressed else text).rstrip(b"\0")


def _inflate(packed: bytes) -> bytes:
    """Decompress up to 64 MiB, since a kilobyte of zlib data can expand to a gigabyte."""
    try:
        return zlib.decompressobj().decompress(packed, _MAX_TEXT)
    except zlib.error:
        logger.warning("A compressed PNG metadata chunk is damaged and is ignored.")
        return b""

"""Photoshop image resource blocks, among them the IPTC record (Photoshop file formats, 2019)."""

from __future__ import annotations

import struct

IPTC = 0x0404
# These describe the old pixels: guides, thumbnails, slices; or repeat EXIF and XMP.
_STALE = frozenset((0x0408, 0x0409, 0x040C, 0x041A, 0x0422, 0x0423, 0x0424))


def sound(blocks: bytes, lost: list[str]) -> bytes | None:
    """Return the blocks without those that describe the old pixels; None if none is left.

    A damaged rest is left out, with a sentence in ``lost``.
    """
    kept, at = b"", 0
    while at < len(blocks) and any(blocks[at:]):
        number, size, start = _header(blocks, at)
        end = start + size
        if blocks[at : at + 4] not in (b"8BIM", b"MeSa", b"AgHg", b"PHUT", b"DCSR") or (
            size < 0 or end > len(blocks)
        ):
            lost.append("a part of the Photoshop or IPTC data is left out: it is damaged")
            break
        if number not in _STALE:
            kept += blocks[at:end] + bytes(size % 2)
        at = end + size % 2
    return kept or None


def iptc(blocks: bytes) -> bytes | None:
    """Return the IPTC record of sound blocks."""
    at = 0
    while at < len(blocks):
        number, size, start = _header(blocks, at)
        if number == IPTC:
            return blocks[start : start + size]
        at = start + size + size % 2
    return None


def of_iptc(record: bytes) -> bytes:
    """Return a block that holds an IPTC record."""
    head = struct.pack(">4sHxxI", b"8BIM", IPTC, len(record))
    return head + record + bytes(len(record) % 2)


def _header(blocks: bytes, at: int) -> tuple[int, int, int]:
    """Return number, size (-1 if it is missing) and start of the content of a block."""
    name = blocks[at + 6 : at + 7]
    start = at + 6 + (1 + name[0] + 1) // 2 * 2 if name else len(blocks)
    size = blocks[start : start + 4]
    number = int.from_bytes(blocks[at + 4 : at + 6], "big")
    return number, int.from_bytes(size, "big") if len(size) == 4 else -1, start + 4

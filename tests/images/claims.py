"""Files whose header is rewritten to claim another size than their image data have."""

from __future__ import annotations

import struct
import zlib


def claiming(data: bytes, width: int, height: int) -> bytes:
    """Rewrite the size in the header of a small file of OpenCV; checksums stay right."""
    if data.startswith(b"\x89PNG"):
        head = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]
    if data.startswith(b"\xff\xd8"):
        at = next(data.find(mark) for mark in (b"\xff\xc0", b"\xff\xc2") if mark in data)
        return _patched(data, at + 5, struct.pack(">HH", height, width))
    if data.startswith(b"RIFF"):
        return _webp(data, width, height)
    if data.startswith(b"BM"):
        return _patched(data, 18, struct.pack("<ii", width, height))
    if data.startswith(b"GIF"):
        sides = struct.pack("<HH", width, height)
        return _patched(_patched(data, 6, sides), data.index(b"\x2c\0\0\0\0") + 5, sides)
    if data.startswith(b"II*\0"):
        return _tiff(data, {256: width, 257: height})
    return _patched(data, data.index(b"ispe") + 8, struct.pack(">II", width, height))


def _patched(data: bytes, at: int, part: bytes) -> bytes:
    return data[:at] + part + data[at + len(part) :]


def _webp(data: bytes, width: int, height: int) -> bytes:
    if (at := data.find(b"VP8X")) > 0:
        sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        data = _patched(data, at + 12, sides)
    if (at := data.find(b"VP8 ")) > 0:
        return _patched(data, at + 14, struct.pack("<HH", width, height))
    at = data.index(b"VP8L") + 9
    sides_bits = int.from_bytes(data[at : at + 4], "little") >> 28 << 28
    return _patched(data, at, struct.pack("<I", sides_bits | (height - 1) << 14 | width - 1))


def _tiff(data: bytes, changes: dict[int, int]) -> bytes:
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from("<H", data, entry)
        if tag in changes:
            data = _patched(data, entry + 2, struct.pack("<HII", 4, 1, changes[tag]))
    return data

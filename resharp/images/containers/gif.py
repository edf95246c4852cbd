"""GIF: a chain of blocks (GIF89a specification).

Pillow accepts truncated files, and shows neither XMP nor ICC profiles.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from resharp.images.containers import gif_lzw
from resharp.images.containers.info import (
    ContainerInfo,
    DamagedContainerError,
    Size,
    TruncatedError,
    behind,
    left_out,
    lzw_bytes,
    plain,
)
from resharp.images.picture import Metadata, stated
from resharp.reading import Data

_EXTENSION, _PICTURE, _END = 0x21, 0x2C, 0x3B
_GRAPHIC_CONTROL, _COMMENT, _APPLICATION = 0xF9, 0xFE, 0xFF
_XMP, _ICC, _LOOP = b"XMP DataXMP", b"ICCRGBG1012", (b"NETSCAPE2.0", b"ANIMEXTS1.0")
_FAR = 1 << 20
"""Bytes that are searched for the first image."""
_MONITOR = 1 << 22
"""Pixels of a screen that need not be covered by images."""
_MOST_PIXELS = 1 << 30
_PASSES = ((0, 8), (4, 8), (2, 4), (1, 2))
"""First row of each pass of an interlaced image, and the step to the next one."""
_XMP_TRAILER = 258
"""Bytes behind an XMP packet, which make it end as a chain of sub-blocks does."""


def inspect(data: bytes) -> ContainerInfo:
    """Walk all blocks up to the trailer, count the images and collect comments, ICC and XMP."""
    try:
        return _inspect(data)
    except IndexError:
        raise TruncatedError(f"it ends after {len(data)} bytes, without its trailer") from None


def _inspect(data: bytes) -> ContainerInfo:
    frames = 0
    found: dict[bytes, bytes] = {}
    text: list[tuple[str, str]] = []
    lost: list[str] = []
    at = 13 + _table(data[10])
    while data[at] != _END:
        if data[at] == _PICTURE:
            frames += 1
            at = _blocks(data, at + 11 + _table(data[at + 9]))[0]
        elif data[at] == _EXTENSION:
            start, kind = at + 2, data[at + 1]
            at, parts = _blocks(data, start)
            if kind == _COMMENT:
                text.append(("Comment", plain(b"".join(parts))))
            elif kind == _APPLICATION and parts:
                found.setdefault(parts[0], b"".join(parts[1:]))
                if parts[0] == _XMP:
                    found[_XMP] = data[start + 12 : at - _XMP_TRAILER]
            elif kind != _GRAPHIC_CONTROL:
                lost.append("text that the GIF draws over its image is left out")
        else:
            raise DamagedContainerError(f"it has no valid GIF block at byte {at}")
    others = [name for name in found if name not in (_XMP, _ICC, *_LOOP)]
    lost += left_out("GIF blocks", others) + behind(data, at + 1)
    metadata = Metadata(
        icc=found.get(_ICC),
        xmp=found.get(_XMP),
        text=tuple(text),
        density=stated((64, data[12] + 15), None) if data[12] else None,
        lost=tuple(dict.fromkeys(lost)),
    )
    return ContainerInfo(metadata=metadata, frames=frames)


def size(data: Data) -> Size:
    """Read the sizes of the screen and of the first image.

    Large screens must be coverable too; old programs state the size of their monitor.
    """
    head = data[:13]
    width, height = struct.unpack_from("<HH", head, 6)
    at, first = 13 + _table(head[10]), 0
    while at < _FAR and data[at : at + 1] == bytes((_EXTENSION,)):
        at += 2
        while at < _FAR and data[at]:
            at += 1 + data[at]
        at += 1
    if data[at : at + 1] == bytes((_PICTURE,)):
        across, down = struct.unpack("<HH", data[at + 5 : at + 9])
        first = across * down
    claimed = max(first, width * height if width * height > _MONITOR else 0)
    return Size(width=width, height=height, bits=8, channels=4, least=lzw_bytes(claimed))


def ended(data: bytes) -> tuple[bytes, int, Sequence[bool] | None]:
    """Return a truncated GIF of one image that ends with the row in which the data ends.

    An interlaced one has all its rows, with color 0 in missing pixels.

    Returns:
        The file, the number of rows that are missing (the last ones), and for an interlaced one
        whether each row is there.

    Raises:
        DamagedContainerError: it has several images, or nothing of its image can be read.
    """
    try:
        at = 13 + _table(data[10])
        while data[at] == _EXTENSION:
            at = _blocks(data, at + 2)[0]
        top, width, height, flags = struct.unpack_from("<HHHB", data, at + 3)
        start = at + 10 + _table(flags)
        least = data[start]
    except (IndexError, struct.error):
        raise DamagedContainerError("it ends before its image data") from None
    if data[at] != _PICTURE or not 1 <= least <= 8 or not width * height:
        raise DamagedContainerError(f"it has no valid GIF block at byte {at}")
    end, packed = start + 1, bytearray()
    while end < len(data) and data[end]:
        packed += data[end + 1 : end + 1 + data[end]]
        end += 1 + data[end]
    if end < len(data):
        if _has_picture(data, end + 1):
            raise DamagedContainerError("animations cannot be read in part")
        return data[: end + 1] + b";", 0, None
    screen, interlaced = int.from_bytes(data[8:10], "little"), flags & 0x40 > 0
    if width * screen > _MOST_PIXELS:
        raise DamagedContainerError(f"it claims {width} x {screen} pixels")
    filled, pixels = gif_lzw.filled(bytes(packed), least, width, height, all_rows=interlaced)
    rows = pixels // width
    if not rows:
        raise DamagedContainerError("it ends before the first row of its image")
    head, known = bytearray(data[: start + 1]), None
    if interlaced:
        order = {*[y for first, step in _PASSES for y in range(first, height, step)][:rows]}
        known = [y - top in order for y in range(screen)]
    else:
        kept = -(-pixels // width)
        struct.pack_into("<H", head, 8, min(top + kept, screen))
        struct.pack_into("<H", head, at + 7, kept)
    parts = [filled[n : n + 255] for n in range(0, len(filled), 255)]
    body = b"".join(bytes((len(part),)) + part for part in parts)
    return bytes(head) + body + b"\0;", max(screen - top - rows, 0), known


def _has_picture(data: bytes, at: int) -> bool:
    try:
        while data[at] == _EXTENSION:
            at = _blocks(data, at + 2)[0]
        return data[at] == _PICTURE
    except IndexError:
        return False


def _table(flags: int) -> int:
    """Return the size in bytes of the color table that these flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _blocks(data: bytes, at: int) -> tuple[int, list[bytes]]:
    """Return the end of a chain of sub-blocks, and their contents."""
    parts = []
    while data[at]:
        parts.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    return at + 1, parts

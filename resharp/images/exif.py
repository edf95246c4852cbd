"""The few EXIF tags that must change when an image is turned upright or resized.

All other bytes of the block stay as they are, including maker notes with their private offsets.
Tags: EXIF 2.32, sections 4.6.4 and 4.6.5. All functions raise MalformedError for a broken block.
"""

from __future__ import annotations

import re

from resharp.images.tiff_ifd import Directory, IfdLayout, directory, integers, layout, put

WIDTH, HEIGHT, ORIENTATION, SUB_IFD = 0x100, 0x101, 0x112, 0x8769
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xA002, 0xA003

_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>)\s*)[2-8]""")


def payload(block: bytes) -> bytes:
    """Return the block without the ``Exif`` prefix of JPEG, which some writers add elsewhere."""
    return block[6:] if block.startswith(b"Exif\0") else block


def orientation(block: bytes) -> int:
    """Return the orientation, 1 to 8; 1 if the tag is absent or invalid."""
    form, first = _open(block)
    values = integers(block, form, first.entries.get(ORIENTATION))
    return values[0] if len(values) == 1 and 1 <= values[0] <= 8 else 1


def upright(block: bytes) -> bytes:
    """Return the block with orientation 1, without a thumbnail in another orientation."""
    form, first = _open(block)
    entry = first.entries.get(ORIENTATION)
    if entry is None:
        return block
    changed = bytearray(block)
    turned = orientation(block) != 1
    put(changed, form, entry, 1)
    if turned and first.following:
        changed[first.next_at : first.next_at + 4] = bytes(4)
    return bytes(changed)


def upright_xmp(packet: bytes) -> bytes:
    """Return the packet with its copy of the orientation set to 1; some readers prefer it."""
    return _XMP_ORIENTATION.sub(rb"\g<1>1", packet)


def resized(block: bytes, height: int, width: int) -> bytes:
    """Return the block with its pixel dimensions, if it states any, set to the given ones."""
    form, first = _open(block)
    changed = bytearray(block)
    _set_size(changed, form, first, {WIDTH: width, HEIGHT: height})
    for at in integers(block, form, first.entries.get(SUB_IFD))[:1]:
        inner = directory(block, form, at)
        _set_size(changed, form, inner, {_PIXEL_WIDTH: width, _PIXEL_HEIGHT: height})
    return bytes(changed)


def _set_size(data: bytearray, form: IfdLayout, where: Directory, sizes: dict[int, int]) -> None:
    for tag, value in sizes.items():
        if tag in where.entries:
            put(data, form, where.entries[tag], value)


def _open(block: bytes) -> tuple[IfdLayout, Directory]:
    form = layout(block)
    return form, directory(block, form, form.first)

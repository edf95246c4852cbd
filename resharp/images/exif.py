"""The few EXIF tags that must change when a picture is turned upright or resized.

Everything else in the block stays byte for byte, maker notes with their private offsets included.
Tags: EXIF 2.32, sections 4.6.4 and 4.6.5. All functions raise MalformedError for a broken block.
"""

from __future__ import annotations

import re

from resharp.images.tiff_ifd import Directory, IfdLayout, directory, integers, layout, put

WIDTH, HEIGHT, ORIENTATION, SUB_IFD = 0x100, 0x101, 0x112, 0x8769
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xA002, 0xA003

_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>)\s*)[2-8]""")


def payload(block: bytes) -> bytes:
    """The block without the ``Exif\\0\\0`` of JPEG, which some writers put elsewhere too."""
    return block[6:] if block.startswith(b"Exif\0") else block


def orientation(block: bytes) -> int:
    """1 to 8; 1 where the tag is absent or holds nonsense."""
    form, first = _open(block)
    values = integers(block, form, first.entries.get(ORIENTATION))
    return values[0] if len(values) == 1 and 1 <= values[0] <= 8 else 1


def upright(block: bytes) -> bytes:
    """The block with orientation 1; the thumbnail goes, for it is still turned the old way."""
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
    """The packet with its copy of the orientation set to 1, for some readers prefer that one."""
    return _XMP_ORIENTATION.sub(rb"\g<1>1", packet)


def resized(block: bytes, height: int, width: int) -> bytes:
    """The block with its pixel dimensions, where it states them, set to the real ones."""
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

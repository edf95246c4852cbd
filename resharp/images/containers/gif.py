"""GIF: a chain of blocks, parsed only to count the images (GIF89a specification)."""

from __future__ import annotations

from resharp.images.containers.info import ContainerInfo, DamagedContainerError

_EXTENSION, _PICTURE, _END = 0x21, 0x2C, 0x3B


def inspect(data: bytes) -> ContainerInfo:
    """Walk all blocks up to the trailer and count the images."""
    frames = 0
    try:
        at = 13 + _table(data[10])
        while data[at] != _END:
            if data[at] == _PICTURE:
                frames += 1
                at = _skip_blocks(data, at + 11 + _table(data[at + 9]))
            elif data[at] == _EXTENSION:
                at = _skip_blocks(data, at + 2)
            else:
                raise DamagedContainerError(f"it has no valid GIF block at byte {at}")
    except IndexError:
        raise DamagedContainerError(
            f"it ends after {len(data)} bytes, without its end mark"
        ) from None
    return ContainerInfo(frames=frames)


def _table(flags: int) -> int:
    """Return the size in bytes of the color table that these flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _skip_blocks(data: bytes, at: int) -> int:
    while data[at]:
        at += 1 + data[at]
    return at + 1

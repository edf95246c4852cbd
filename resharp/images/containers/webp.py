"""WebP: RIFF chunks (RFC 9649). Pillow hides chunks of other programs."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

from resharp.images.containers.info import (
    ContainerInfo,
    DamagedContainerError,
    Size,
    TruncatedError,
    behind,
    check_count,
    left_out,
)
from resharp.images.exif import payload
from resharp.images.picture import Metadata
from resharp.reading import Data

_PIXELS = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"}
_BLOCKS = {b"EXIF", b"ICCP", b"XMP "}


def inspect(data: bytes) -> ContainerInfo:
    """Check the stated size; collect EXIF, ICC and XMP, and count animation frames."""
    end = 8 + int.from_bytes(data[4:8], "little")
    # Some writers omit the last pad byte.
    if end > len(data) + 1:
        raise TruncatedError(f"it has {len(data)} bytes, but its header states {end}")
    found: dict[bytes, bytes] = {}
    others: list[bytes] = []
    frames = 0
    for name, at, size in chunks(data):
        if at > end:
            break
        frames += name == b"ANMF"
        if name in _BLOCKS:
            found.setdefault(name, data[at : at + size])
        elif name not in _PIXELS:
            others.append(name)
    exif = payload(found.get(b"EXIF", b"")) or None
    lost = (*left_out("WebP chunks", others), *behind(data, end + end % 2))
    metadata = Metadata(exif=exif, icc=found.get(b"ICCP"), xmp=found.get(b"XMP "), lost=lost)
    return ContainerInfo(metadata=metadata, frames=max(frames, 1))


def chunks(data: Data) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, position and size of each chunk's content, which may reach beyond the end."""
    at, count = 12, 0
    while at + 8 <= len(data):
        check_count(count := count + 1, len(data), "chunks")
        name, size = struct.unpack("<4sI", data[at : at + 8])
        yield name, at + 8, size
        at += 8 + size + size % 2


def size(data: Data) -> Size:
    """Read the size of the canvas, or of the only image.

    Raises:
        DamagedContainerError: the canvas of a still image is not as large as the image.
    """
    canvas, alpha = (0, 0), False
    for name, at, _ in chunks(data):
        if name == b"VP8X":
            head = data[at : at + 10]
            across, down = (int.from_bytes(head[i : i + 3], "little") for i in (4, 7))
            canvas = across + 1, down + 1
            if head[0] & 2:
                return Size(width=canvas[0], height=canvas[1], bits=32, channels=4)
            alpha = head[0] & 16 > 0
        elif name in (b"VP8 ", b"VP8L"):
            found = _lossy(data[at : at + 10]) if name == b"VP8 " else _lossless(data, at)
            if canvas not in ((0, 0), (found.width, found.height)):
                raise DamagedContainerError(
                    f"its canvas is {canvas[0]} x {canvas[1]} pixels, but its image is "
                    f"{found.width} x {found.height}"
                )
            return replace(found, bits=32, channels=4) if alpha else found
    raise DamagedContainerError("it has no image data")


def _lossy(head: bytes) -> Size:
    """Read the header of a VP8 key frame; each block of 16x16 has modes of fixed probability."""
    width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", head, 6))
    blocks = -(-width // 16) * -(-height // 16)
    return Size(width=width, height=height, bits=24, least=blocks * 2 // 8)


def _lossless(data: Data, at: int) -> Size:
    """Read the header of VP8L, which needs no bit per pixel."""
    sides = int.from_bytes(data[at + 1 : at + 5], "little")
    width, height = (sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1
    channels = 4 if sides >> 28 & 1 else 3
    return Size(width=width, height=height, bits=8 * channels, channels=channels)

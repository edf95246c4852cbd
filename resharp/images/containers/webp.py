"""WebP: RIFF chunks (RFC 9649). Pillow hides chunks of other programs."""

from __future__ import annotations

from resharp.images.containers.info import ContainerInfo, DamagedContainerError, behind, left_out
from resharp.images.exif import payload
from resharp.images.picture import Metadata

_PIXELS = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"}
_BLOCKS = {b"EXIF", b"ICCP", b"XMP "}


def inspect(data: bytes) -> ContainerInfo:
    """Check the stated size; collect EXIF, ICC and XMP, and count animation frames."""
    end = 8 + int.from_bytes(data[4:8], "little")
    # Some writers omit the last pad byte.
    if end > len(data) + 1:
        raise DamagedContainerError(f"it has {len(data)} bytes, but its header states {end}")
    found: dict[bytes, bytes] = {}
    others: list[bytes] = []
    frames = 0
    at = 12
    while at + 8 <= min(end, len(data)):
        name = data[at : at + 4]
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        frames += name == b"ANMF"
        if name in _BLOCKS:
            found.setdefault(name, data[at + 8 : at + 8 + size])
        elif name not in _PIXELS:
            others.append(name)
        at += 8 + size + size % 2
    exif = payload(found.get(b"EXIF", b"")) or None
    lost = (*left_out("WebP chunks", others), *behind(data, end + end % 2))
    metadata = Metadata(exif=exif, icc=found.get(b"ICCP"), xmp=found.get(b"XMP "), lost=lost)
    return ContainerInfo(metadata=metadata, frames=max(frames, 1))

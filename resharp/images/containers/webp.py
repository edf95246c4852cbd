"""WebP: RIFF chunks (RFC 9649)."""

from __future__ import annotations

from resharp.images.containers.info import ContainerInfo, DamagedContainerError
from resharp.images.exif import payload
from resharp.images.picture import Metadata


def inspect(data: bytes) -> ContainerInfo:
    """Check the stated size; collect EXIF, ICC and XMP, and count animation frames."""
    end = 8 + int.from_bytes(data[4:8], "little")
    # Some writers omit the last pad byte.
    if end > len(data) + 1:
        raise DamagedContainerError(f"it has {len(data)} bytes, but its header states {end}")
    found: dict[bytes, bytes] = {}
    frames = 0
    at = 12
    while at + 8 <= min(end, len(data)):
        name = data[at : at + 4]
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if name == b"ANMF":
            frames += 1
        elif name in (b"EXIF", b"ICCP", b"XMP "):
            found.setdefault(name, data[at + 8 : at + 8 + size])
        at += 8 + size + size % 2
    exif = found.get(b"EXIF")
    metadata = Metadata(
        exif=payload(exif) if exif else None, icc=found.get(b"ICCP"), xmp=found.get(b"XMP ")
    )
    return ContainerInfo(metadata=metadata, frames=max(frames, 1))

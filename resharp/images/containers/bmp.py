"""BMP: the resolution of all headers, and the ICC profile of version 5 (Windows GDI)."""

from __future__ import annotations

import struct

from resharp.images.containers.info import (
    ContainerInfo,
    DamagedContainerError,
    Size,
    TruncatedError,
    behind,
)
from resharp.images.picture import METER, Metadata, per_meter, stated
from resharp.reading import Data

_HEADER, _DENSITY = 14, 38
_RUNS = (1, 2)
"""Run-length compressions. Two bytes may skip the rest of an image."""
_PLAIN = (b"BGRs", b" niW")
"""sRGB, and the default of Windows, which is the same."""


def inspect(data: bytes) -> ContainerInfo:
    """Read resolution and ICC profile, and note other statements about colors."""
    size = int.from_bytes(data[_HEADER : _HEADER + 4], "little")
    if size < 40 or len(data) < _HEADER + size:
        return ContainerInfo()
    icc, lost = None, []
    _check_end(data)
    start, width, height, bits, packed, length = struct.unpack_from("<I4xii2xHII", data, 10)
    end = start + (length if packed in _RUNS else (width * bits + 31) // 32 * 4 * abs(height))
    space = data[70:74] if size >= 108 else b"BGRs"
    if size >= 124 and space == b"DEBM":  # embedded
        profile, length = struct.unpack_from("<II", data, 126)
        icc = data[_HEADER + profile : _HEADER + profile + length] or None
        end = max(end, _HEADER + profile + length)
    elif space not in _PLAIN and any(data[70:122]):
        lost.append("the color calibration is left out: resharp cannot keep that of a BMP")
    lost += behind(data, max(end, int.from_bytes(data[2:6], "little")))
    density = stated(struct.unpack_from("<ii", data, _DENSITY), METER)
    return ContainerInfo(metadata=Metadata(density=density, icc=icc, lost=tuple(lost)))


def size(data: Data) -> Size:
    """Read the header of any version."""
    head = data[:34]
    if head[_HEADER] == 12:
        (width, height, bits), packed = struct.unpack_from("<HH2xH", head, 18), 0
    else:
        width, height, bits, packed = struct.unpack_from("<ii2xHI", head, 18)
    width, height = abs(width), abs(height)
    raw = (width * bits + 31) // 32 * 4 * height
    least = 0 if packed in _RUNS else max(raw - 3, 0)  # some writers omit the last padding
    channels = 4 if bits == 32 else 3
    return Size(width=width, height=height, bits=bits, channels=channels, least=least)


def layout(data: bytes) -> tuple[int, int, int, bool]:
    """Return the start of the rows, bytes per row, rows, and whether the last row comes first.

    Raises:
        DamagedContainerError: the size of the rows is not known before they are decoded.
    """
    start, width, height, bits, packed = struct.unpack_from("<I4xii2xHI", data, 10)
    if packed not in (0, 3, 6):
        raise DamagedContainerError("compressed BMP cannot be read in part")
    if not (width > 0 and height and bits):
        raise DamagedContainerError("its header states no size")
    return start, (width * bits + 31) // 32 * 4, abs(height), height > 0


def _check_end(data: bytes) -> None:
    try:
        start, stride, rows, _ = layout(data)
    except DamagedContainerError:  # OpenCV knows
        return
    if start + stride * rows > len(data):
        raise TruncatedError(
            f"it has {len(data)} bytes, but its header states {start + stride * rows}"
        )


def embed(data: bytes, metadata: Metadata) -> bytes:
    """Set the resolution of a BMP of OpenCV."""
    if metadata.density is None:
        return data
    sides = struct.pack("<ii", *(per_meter(value) for value in metadata.density[:2]))
    return data[:_DENSITY] + sides + data[_DENSITY + 8 :]

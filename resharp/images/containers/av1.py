"""AV1: the frame size in a sequence header (AV1 Bitstream & Decoding Process, section 5.5)."""

from __future__ import annotations

from resharp.images.containers.info import DamagedContainerError

HEAD = 256
"""Bytes that contain the part of a sequence header that this module reads."""
_SEQUENCE = 1


def frame_size(data: bytes) -> tuple[int, int] | None:
    """Return the largest width and height of the frames of a stream, as its header states them.

    Args:
        data: the first :data:`HEAD` bytes of the stream, or all.

    Returns:
        None if the stream does not begin with a sequence header.

    Raises:
        DamagedContainerError: the sequence header is cut off.
    """
    at = 0
    while at < len(data):
        kind, extended, sized = data[at] >> 3 & 15, data[at] & 4, data[at] & 2
        at += 2 if extended else 1
        size = shift = 0
        while sized and at < len(data):
            size |= (data[at] & 127) << shift
            shift += 7
            at += 1
            if data[at - 1] < 128:
                break
        if kind == _SEQUENCE:
            return _size_in(_Bits(data[at:]))
        if not sized:
            return None
        at += size
    return None


class _Bits:
    """Reads consecutive numbers of any width, highest bit first."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, width: int) -> int:
        self._left -= width
        if self._left < 0:
            raise DamagedContainerError("its image data ends inside a sequence header")
        return self._value >> self._left & ((1 << width) - 1)

    def skip_long(self) -> None:
        """Skip a number whose width is coded by zeros before it (uvlc)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        self.take(min(zeros, 32) % 32)


def _size_in(bits: _Bits) -> tuple[int, int]:
    bits.take(4)  # profile, still picture
    if bits.take(1):  # reduced header
        bits.take(5)
    else:
        _skip_operating_points(bits)
    across, down = bits.take(4) + 1, bits.take(4) + 1
    return bits.take(across) + 1, bits.take(down) + 1


def _skip_operating_points(bits: _Bits) -> None:
    delay = 0
    if bits.take(1):  # timing
        bits.take(64)
        if bits.take(1):  # equal intervals
            bits.skip_long()
        if bits.take(1):  # decoder model
            delay = bits.take(5) + 1
            bits.take(42)
    displays = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:  # level; a tier follows from level 4.0 on
            bits.take(1)
        if delay and bits.take(1):
            bits.take(2 * delay + 1)
        if displays and bits.take(1):
            bits.take(4)

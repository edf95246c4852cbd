"""Truncated files, completed so that OpenCV decodes the readable part.

Each format is completed in its own way (``completed``). The number of missing rows follows from the
data (PNG, TIFF, GIF, BMP), from the rows that libjpeg leaves gray, or from decoding the file twice
with another continuation or another end: rows from the first difference on are missing (WebP).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resharp.images.containers import bmp, gif, jpeg, png, tiff_part, webp
from resharp.images.containers.info import DamagedContainerError
from resharp.images.picture import Pixels

_GRIDS = ((8, 8), (8, 4), (4, 4), (4, 2), (2, 2), (2, 1))
"""Steps down and to the right between the pixels that are known after each pass."""
_EARLIER = 32
"""Number of bytes that the second decoding of a WebP file lacks."""
_SPARE, _ZEROS = 1024, 64 << 20
"""Zeros after the end of a WebP file, for decoders that read ahead; most zeros for missing data."""


@dataclass(frozen=True, kw_only=True)
class PartialFile:
    """A complete file made of a truncated one."""

    data: bytes
    """The file to decode."""

    height: int | None = None
    """Rows of the image, if ``data`` has fewer."""

    missing: int | None = None
    """Number of missing rows, if it is known."""

    first: bool = False
    """Whether the first rows are missing, and not the last ones."""

    taken: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None
    """Indices of the rows and columns of ``data`` that make up an interlaced image."""

    other: bytes | None = None
    """The same file with another continuation, or with an earlier end."""

    progressive: bool = False
    """Whether known rows may lack fine details, which come later in the file."""

    blurred: int = 0
    """Rows above a difference that the filters of the format may affect."""

    def finish(self, pixels: Pixels, decode: Callable[[bytes], Pixels]) -> tuple[Pixels, str]:
        """Return the decoded pixels with black in the missing rows, and a note.

        Args:
            pixels: decoded ``data``, before any rotation.
            decode: decodes other data in the same way.

        Raises:
            DamagedContainerError: all rows are missing.
        """
        rows, missing = self.height or len(pixels), self.missing
        if self.taken is not None:
            ys, xs = self.taken
            share = len(np.unique(ys)) * len(np.unique(xs)) / (len(ys) * len(xs))
            return np.ascontiguousarray(pixels[ys][:, xs]), (
                f"the file is truncated: {1 - share:.0%} of its interlaced pixels are missing and "
                "repeat those next to them"
            )
        if missing is None and self.other is None:
            return _with_gray_rows(pixels, progressive=self.progressive)
        if missing is None:
            same = (pixels == decode(self.other or b"")).reshape(rows, -1).all(axis=1)
            missing = 0 if same.all() else rows - int(np.argmin(same)) + self.blurred
        _check_rows(rows - missing)
        if not missing:
            return pixels, "the file is truncated: its end is missing, but no row of the image is"
        whole = np.zeros((rows, *pixels.shape[1:]), pixels.dtype)
        if self.first:
            whole[missing:] = pixels[len(pixels) - (rows - missing) :]
        else:
            whole[: rows - missing] = pixels[: rows - missing]
        return whole, _note(missing, rows, "first" if self.first else "last", "black")


def _check_rows(rows: int) -> None:
    if rows <= 0:
        raise DamagedContainerError("it ends before the first row of its image")


def _note(missing: int, rows: int, place: str, color: str) -> str:
    which = f"{missing} of {rows} rows are" if missing > 1 else f"row of {rows} is"
    least = "at least " if color == "gray" else ""  # some rows above are partly gray
    return f"the file is truncated: {least}the {place} {which} missing and left {color}"


def _with_gray_rows(pixels: Pixels, *, progressive: bool) -> tuple[Pixels, str]:
    """Return the pixels and a note on the last rows, which libjpeg leaves gray."""
    same = (pixels == pixels[-1, -1]).reshape(len(pixels), -1).all(axis=1)
    missing = len(pixels) if same.all() else int(np.argmin(same[::-1]))
    if abs(np.asarray(pixels[-1, -1], np.int64) - 128).max() > 1 or not missing:
        return pixels, (
            "the file is truncated: its end is missing, which holds the last rows or fine details"
        )
    if missing == len(pixels):
        raise DamagedContainerError("it ends before the first row of its image")
    rest = "; the others lack fine details" if progressive else ""
    return pixels, _note(missing, len(pixels), "last", "gray") + rest


def completed(form: str, data: bytes) -> PartialFile:
    """Return a complete file of the same image.

    Args:
        form: name of the format.
        data: the truncated file.

    Raises:
        DamagedContainerError: nothing of its image can be read.
    """
    ways = {"png": _png, "jpeg": _jpeg, "webp": _webp, "tiff": _tiff, "gif": _gif, "bmp": _bmp}
    if form not in ways:
        raise DamagedContainerError(f"{form.upper()} cannot be read in part")
    return ways[form](data)


def _png(data: bytes) -> PartialFile:
    """Decompress the rows that are there, and compress them as a complete image.

    An interlaced image keeps its size; its missing pixels are 0.
    """
    at, start, packed = 8, 0, []
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if name == b"IDAT":
            start = start or at
            packed.append(data[at + 8 : at + 8 + size])
        at += 12 + size
    if not start:
        raise DamagedContainerError("it ends before its image data")
    header = data[16:29]
    width, height = struct.unpack_from(">II", header)
    sizes = png.pass_sizes(header)
    raw, head = _inflated(b"".join(packed), sum(sizes)), data[:start]
    if len(sizes) == 1:
        rows = len(raw) * height // sizes[0] if sizes[0] else 0
        _check_rows(rows)
        shorter = header[:4] + struct.pack(">I", rows) + header[8:]
        head = data[:8] + png.chunk(b"IHDR", shorter) + data[33:start]
        part = raw[: rows * sizes[0] // height]
        return PartialFile(data=_png_of(head, part), height=height, missing=height - rows)
    there = sum(len(raw) >= sum(sizes[: n + 1]) for n in range(7))
    _check_rows(there)
    whole = _png_of(head, raw.ljust(sum(sizes), b"\0"))
    if there == len(sizes):
        return PartialFile(data=whole, missing=0)
    ys, xs = (
        np.arange(size) // step * step
        for size, step in zip((height, width), _GRIDS[there - 1], strict=True)
    )
    return PartialFile(data=whole, taken=(ys, xs))


def _png_of(head: bytes, raw: bytes) -> bytes:
    return head + png.chunk(b"IDAT", zlib.compress(raw, 1)) + png.chunk(b"IEND", b"")


def _inflated(packed: bytes, most: int) -> bytes:
    """Decompress as far as the data is intact."""
    stream, out = zlib.decompressobj(), bytearray()
    for at in range(0, len(packed), 4096):
        try:
            out += stream.decompress(packed[at : at + 4096], max(most - len(out), 1))
        except zlib.error:
            break
        if len(out) >= most:
            break
    return bytes(out[:most])


def _jpeg(data: bytes) -> PartialFile:
    part = jpeg.ended(data)
    frames = {marker for marker, _, _ in jpeg.segments(part)}
    return PartialFile(data=part, progressive=jpeg.PROGRESSIVE in frames)


def _webp(data: bytes) -> PartialFile:
    """Fill the image data up with zeros, which decode as a continuation."""
    for name, at, size in webp.chunks(data):  # noqa: B007
        if name in (b"VP8 ", b"VP8L"):
            break
        if name == b"ANMF":
            raise DamagedContainerError("animations cannot be read in part")
    else:
        raise DamagedContainerError("it ends before its image data")
    size = min(size, len(data) + _ZEROS)
    end = at + size + size % 2 + _SPARE
    head = data[:4] + struct.pack("<I", end - 8) + data[8 : at - 4]
    head += struct.pack("<I", size + _SPARE)
    there = data[at : at + size]
    if len(there) <= _EARLIER:
        raise DamagedContainerError("it ends before the first row of its image")
    # Noise changes everything that depends on missing data, which VP8 stores in several places for
    # each row. Lossless data could not be decoded with it.
    room = end - at
    if name == b"VP8 ":
        other = there + np.random.default_rng(0).bytes(room - len(there))
    else:
        other = there[:-_EARLIER].ljust(room, b"\0")
    whole = len(there) >= size
    return PartialFile(
        data=head + there.ljust(room, b"\0"),
        missing=0 if whole else None,
        blurred=8 if name == b"VP8 " else 0,
        other=None if whole else head + other,
    )


def _tiff(data: bytes) -> PartialFile:
    part, rows, height = tiff_part.shortened(data)
    return PartialFile(data=part, height=height, missing=height - rows)


def _gif(data: bytes) -> PartialFile:
    part, missing, rows = gif.ended(data)
    if rows is None or not missing:
        height = int.from_bytes(data[8:10], "little")
        return PartialFile(data=part, height=height, missing=missing)
    taken = np.maximum.accumulate(np.where(rows, np.arange(len(rows)), 0))
    columns = np.arange(int.from_bytes(data[6:8], "little"))
    return PartialFile(data=part, taken=(taken, columns))


def _bmp(data: bytes) -> PartialFile:
    start, stride, rows, flipped = bmp.layout(data)
    there = max(len(data) - start, 0) // stride
    there = min(there, rows)
    _check_rows(there)
    head = data[:22] + struct.pack("<i", there if flipped else -there) + data[26:start]
    whole = head + data[start : start + there * stride]
    return PartialFile(data=whole, height=rows, missing=rows - there, first=flipped)

"""Limits on the images and files that are read, so that an unknown file has a bounded cost."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from resharp.checks import check_int, shown
from resharp.errors import ImageError, OptionError
from resharp.images import formats
from resharp.images.header import HEAD, Header, damaged, detect, header, readable
from resharp.memory import total_memory
from resharp.opencv import IMAGE_LIMITS
from resharp.reading import open_any

VARIABLE = "RESHARP_MAX_PIXELS"
"""Environment variable with the default of ``max_pixels``."""
_SHARE, _RESULT = 4, 4**2
_PIXEL = 3 * (1 + _RESULT)
"""By default, an 8-bit color image and its result of 4 times the size fit into a quarter of the
memory."""
_FREE, _RATIO = 2 << 30, 2048
"""By default, an image and such a result may take 2 GiB, or 2048 bytes per byte of the file if that
is more. Photos and drawings stay far below."""
_LYING = 1000
"""A truncated file may claim up to this many times what it can hold."""
_FILE_PIXEL, _FILE_MORE = 16, 64 << 20
"""Largest size of a file: bytes per pixel (RGBA of 32 bits), and bytes for metadata."""
_OPENCV_BYTES = 2**31 - 1
"""OpenCV counts the bytes of a file in 32 bits."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class PixelLimit:
    """How many pixels an image may have."""

    pixels: int
    chosen: bool
    """Whether the user set it, which means that they trust the files."""

    @property
    def bytes(self) -> int:
        """The most bytes that the file of such an image may have."""
        return self.pixels * _FILE_PIXEL + _FILE_MORE


def pixel_limit(max_pixels: int | None) -> PixelLimit:
    """Return the limit: ``max_pixels``, else RESHARP_MAX_PIXELS, else one that fits the memory.

    Raises:
        OptionError: the argument or the variable is not a positive integer.
    """
    if max_pixels is not None:
        return PixelLimit(check_int("max_pixels", max_pixels), chosen=True)
    text = os.environ.get(VARIABLE, "").strip()
    if text:
        if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < 1:
            raise OptionError(f"{VARIABLE} must be a positive integer, got {shown(text)}")
        return PixelLimit(int(text), chosen=True)
    most = total_memory() // _SHARE // _PIXEL
    return PixelLimit(min(most, IMAGE_LIMITS["OPENCV_IO_MAX_IMAGE_PIXELS"]), chosen=False)


def check_header(found: Header, name: str, max_pixels: int | None, *, whole: bool = True) -> None:
    """Check what the header of an image claims, before anything is decoded.

    Args:
        found: the header.
        name: how error messages refer to the file.
        max_pixels: most pixels; None for the default, see :func:`pixel_limit`.
        whole: whether the file must be complete. A truncated one may claim up to a thousand times
            what it can hold.

    Raises:
        ImageError: the file is too small for what its header claims, or the image is too large.
    """
    if found.least > found.size * (1 if whole else _LYING):
        form = next(form for form in formats.available() if form.name == found.format)
        raise damaged(name, form, overstated(found))
    limit = pixel_limit(max_pixels)
    trust = f"If you trust the file, set `max_pixels` to {found.pixels}."
    if found.pixels > limit.pixels:
        raise ImageError(f"{name} has {_claim(found)}, over the limit of {limit.pixels}. {trust}")
    if not limit.chosen and found.decoded * (1 + _RESULT) > max(_FREE, _RATIO * found.size):
        raise ImageError(
            f"{name} has {_claim(found)} in only {found.size} bytes, which may be a decompression "
            f"bomb. {trust}"
        )
    sides = {"pixels": found.pixels, "width": found.width, "height": found.height}
    for side, value in sides.items():
        variable = f"OPENCV_IO_MAX_IMAGE_{side.upper()}"
        if value > (most := IMAGE_LIMITS[variable]):
            raise ImageError(
                f"{name} has {_claim(found)}, over OpenCV's limit of {most} ({side}). If you "
                f"trust the file, set the environment variable {variable} to {value}."
            )


def overstated(found: Header) -> str:
    """Return what is wrong with a header that claims more than its file can hold."""
    return f"its header claims {_claim(found)}, which {found.size} bytes cannot hold"


def _claim(found: Header) -> str:
    return f"{found.width} x {found.height} pixels"


def load(
    path: str | os.PathLike[str],
    *,
    max_pixels: int | None = None,
    check: Callable[[], object] = lambda: None,
) -> bytes:
    """Return the bytes of an image file; reading stops early for other files.

    A pipe without a writer is waited for, so that the writer may be started later.

    Args:
        path: the file, or a pipe or device that delivers one.
        max_pixels: as for :func:`~resharp.images.read`.
        check: called several times a second while waiting for a pipe; raising ends the wait.

    Raises:
        OptionError: ``max_pixels`` is not a positive integer.
        ImageError: the file cannot be read, does not start like a supported image, or is too
            large.
    """
    name = str(path)
    with readable(name), open_any(path, check) as file:
        return _read(file, name, max_pixels)


def load_stream(
    stream: BinaryIO, name: str = "the stream", *, max_pixels: int | None = None
) -> bytes:
    """Return the bytes of an image from an open file or pipe, as :func:`load` does.

    Args:
        stream: read from its position to its end.
        name: how error messages refer to it.
        max_pixels: as for :func:`~resharp.images.read`.
    """
    with readable(name):
        return _read(stream, name, max_pixels)


def _read(file: BinaryIO, name: str, max_pixels: int | None) -> bytes:
    """Return the bytes of an open image file, which are held once; its header is checked first."""
    limit = pixel_limit(max_pixels).bytes
    if not file.seekable() or file.tell():
        return _read_pipe(file, name, limit)
    found = header(file, name)
    check_header(found, name, max_pixels, whole=False)
    _check_bytes(found.size, name, limit)
    file.seek(0)
    return file.read(found.size)  # read() without a size would copy the data once more


def _read_pipe(file: BinaryIO, name: str, limit: int) -> bytes:
    whole = io.BytesIO()
    while part := file.read(_CHUNK):
        if not whole.tell():
            detect(part[:HEAD], name)  # refuses other files before the rest is read
        whole.write(part)
        _check_bytes(whole.tell(), name, limit)
    return whole.getvalue()


def _check_bytes(size: int, name: str, limit: int) -> None:
    if size > _OPENCV_BYTES:
        raise ImageError(
            f"{name} has more than {_OPENCV_BYTES} bytes, the most that OpenCV reads. Save it with "
            "compression, or split it."
        )
    if size > limit:
        raise ImageError(
            f"{name} has more than {limit} bytes, more than any image within the pixel limit "
            "needs. If you trust the file, set a larger `max_pixels`."
        )

"""Format and size of an image from the first bytes of its file, before anything is decoded."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from resharp.errors import ImageError
from resharp.images import formats
from resharp.images.containers import avif, bmp, gif, jpeg, png, tiff, webp
from resharp.images.containers.info import DamagedContainerError, Size
from resharp.images.ifd import MalformedError
from resharp.reading import Data, FileData, NotRegularError, open_regular

HEAD = 256
"""Number of bytes from which a format is detected."""
_SIZES: dict[str, Callable[[Data], Size]] = {
    "png": png.size,
    "jpeg": jpeg.size,
    "webp": webp.size,
    "tiff": tiff.size,
    "avif": avif.size,
    "gif": gif.size,
    "bmp": bmp.size,
}


@dataclass(frozen=True, kw_only=True)
class Header:
    """Format and size of an image, as the first bytes of its file state them."""

    format: str
    """Name of the format, detected from the content: png, jpeg, webp, ..."""
    width: int
    """Width in pixels as stored, before any rotation; of animations, that of the canvas."""
    height: int
    bits: int
    """Bits per pixel as stored, before any compression."""
    size: int
    """Size of the file in bytes."""
    least: int = 0
    """Fewest bytes in which the format can store such an image; 0 if there is no bound."""
    decoded: int = 0
    """Largest possible size of the decoded pixels in bytes."""

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


def header(source: str | os.PathLike[str] | bytes | BinaryIO, name: str | None = None) -> Header:
    """Read the header of an image; no more than a few kilobytes of most files are read.

    Args:
        source: path, contents, or a seekable stream of the contents.
        name: how error messages refer to it; None is the path, or "the image".

    Raises:
        ImageError: the file cannot be read, is not a supported image, or its header is damaged.
    """
    if isinstance(source, bytes):
        return _of(source, name or "the image")
    if isinstance(source, str | os.PathLike):
        name = name or os.fspath(source)
        with readable(name), open_regular(source) as file:
            return _of(FileData(file), name)
    name = name or "the image"
    with readable(name):
        return _of(FileData(source), name)


def _of(data: Data, name: str) -> Header:
    form = detect(data[:HEAD], name)
    try:
        with parsing(len(data)):
            found = _SIZES[form.name](data)
    except DamagedContainerError as exc:
        raise damaged(name, form, exc) from None
    sample = 1 if found.depth <= 8 else 2 if found.depth <= 16 else found.depth // 8
    return Header(
        format=form.name,
        width=found.width,
        height=found.height,
        bits=found.bits,
        size=len(data),
        least=found.least,
        decoded=found.width * found.height * found.channels * sample,
    )


def detect(head: bytes, name: str) -> formats.Format:
    """Return the format that a file starts with.

    Raises:
        ImageError: it is not a supported image; the message says what it is.
    """
    if not head:
        raise ImageError(f"{name} is empty (0 bytes). Copy or download it again.")
    found = formats.detect(head)
    readable = {form.name: form for form in formats.available()}
    if found in readable:
        return readable[found]
    what = f"{found.upper()}, unsupported by this OpenCV" if found else formats.describe(head[:64])
    labels = ", ".join(form.label for form in readable.values())
    raise ImageError(f"{name} is not a supported image: it is {what}. Use {labels}.")


def damaged(name: str, form: formats.Format, why: object) -> ImageError:
    """Return the error for a file that is damaged or incomplete."""
    return ImageError(f"{name} is a damaged {form.label} file: {why}. Copy or download it again.")


@contextmanager
def parsing(size: int) -> Iterator[None]:
    """Turn all errors of parsers into DamagedContainerError, for a file of ``size`` bytes."""
    try:
        yield
    except MalformedError as exc:
        raise DamagedContainerError(f"its directory cannot be read: {exc}") from None
    except (struct.error, IndexError):
        raise DamagedContainerError(f"it ends after {size} bytes, or contradicts itself") from None


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Raise ImageError for a file that cannot be opened or read."""
    try:
        yield
    except ImageError:
        raise
    except IsADirectoryError:
        raise ImageError(f"{name} is a folder. Name the images in it instead.") from None
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist. Check the path.") from None
    except NotRegularError as exc:
        raise ImageError(f"{name} cannot be read: {exc}. Name an image file.") from None
    except PermissionError as exc:
        if os.path.isdir(name):  # folders on Windows
            raise ImageError(f"{name} is a folder. Name the images in it instead.") from None
        raise ImageError(f"{name} cannot be read: {exc.strerror}. Change its permissions.") from exc
    except (OSError, ValueError) as exc:
        raise ImageError(f"{name} cannot be read: {exc}. Check the disk or the path.") from exc

"""From a file to upright pixels and metadata, or to an ImageError that says what is wrong."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import cv2
import numpy as np

from resharp.errors import ImageError
from resharp.images import exif, formats
from resharp.images.containers import (
    ContainerInfo,
    DamagedContainerError,
    UnsupportedError,
    inspect,
)
from resharp.images.picture import Metadata, Picture, Pixels
from resharp.images.tiff_ifd import MalformedError

_log = logging.getLogger(__name__)
_HEAD = 256
_PIXEL_LIMIT = "OPENCV_IO_MAX_IMAGE_PIXELS"


def read(path: str | os.PathLike[str]) -> Picture:
    """Read one picture: whole, upright, with the depth, alpha and metadata that its file has.

    The content decides the format, not the suffix. Raises ImageError for what is no picture, is
    damaged or cut short, holds several pictures, or is a variant that would be read wrongly.
    """
    return decode(load(path), str(path))


def load(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a picture file, for `decode`; what begins as no picture is not read to its end.

    Raises ImageError as `read` does.
    """
    source = Path(path)
    try:
        with source.open("rb") as file:
            head = file.read(_HEAD)
            _detect(head, str(source))
            return head + file.read()
    except IsADirectoryError:
        raise ImageError(f"{source} is a folder. Name the pictures in it instead.") from None
    except FileNotFoundError:
        raise ImageError(f"{source} does not exist. Check the name and the folder.") from None
    except PermissionError as exc:
        if source.is_dir():  # what Windows says of a folder
            raise ImageError(f"{source} is a folder. Name the pictures in it instead.") from None
        raise ImageError(f"{source} may not be read: {exc.strerror}. Change its rights.") from exc
    except (OSError, ValueError) as exc:
        if isinstance(exc, ImageError):
            raise
        raise ImageError(f"{source} cannot be read: {exc}. Check the disk or the name.") from exc


def decode(data: bytes, name: str = "The picture") -> Picture:
    """As `read`, for the bytes of a file; `name` is what error messages call it."""
    form = _detect(data[:_HEAD], name)
    try:
        facts = inspect(form.name, data)
    except DamagedContainerError as exc:
        raise ImageError(
            f"{name} is a damaged {form.label} file: {exc}. Copy or download it again."
        ) from None
    except UnsupportedError as exc:
        raise ImageError(
            f"{name} is a {form.label} file with {exc}, which cannot be read here without "
            "changing it. Convert it to gray, RGB or RGBA of 8 or 16 bits."
        ) from None
    if facts.frames > 1:
        raise ImageError(
            f"{name} holds {facts.frames} pictures (frames or pages of one {form.label} file), and "
            "only one could be kept. Split it into single pictures, or make a video of it."
        )
    pixels = _decoded(facts.decodable or data, form, name)
    for step in facts.finish:
        pixels = step(pixels)
    return _upright(pixels, facts, form, name)


def _detect(head: bytes, name: str) -> formats.Format:
    if not head:
        raise ImageError(f"{name} is empty (0 bytes). Copy or download it again.")
    found = formats.detect(head)
    readable = {form.name: form for form in formats.available()}
    if found in readable:
        return readable[found]
    what = f"{found.upper()}, which this build lacks" if found else formats.describe(head[:64])
    labels = ", ".join(form.label for form in readable.values())
    raise ImageError(f"{name} is no picture that can be read here: it is {what}. Use {labels}.")


def _decoded(data: bytes, form: formats.Format, name: str) -> Pixels:
    """OpenCV's pixels, with the dtypes and shapes of this package."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as exc:
        if "CV_IO_MAX_IMAGE" in str(exc):
            raise ImageError(
                f"{name} claims more pixels than are read by default, which a hostile file does "
                f"too. If you trust it, set {_PIXEL_LIMIT} to a higher number and try again."
            ) from exc
        raise ImageError(f"{name} cannot be decoded as {form.label}: {exc.err or exc}") from exc
    if pixels is None:
        raise ImageError(
            f"{name} is {form.label}, but its picture data cannot be decoded: it is damaged, cut "
            "short or of a rare variant. Copy it again, or save it anew as PNG."
        )
    if pixels.dtype == np.float64:
        pixels = pixels.astype(np.float32)
    if pixels.dtype not in (np.uint8, np.uint16, np.float32):
        raise ImageError(f"{name} has {pixels.dtype} samples. Convert it to 8 or 16 bits.")
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels


def _upright(pixels: Pixels, facts: ContainerInfo, form: formats.Format, name: str) -> Picture:
    """Turn the pixels as the container or else the EXIF block says, and say so in the metadata."""
    block, icc, xmp = facts.metadata.exif, facts.metadata.icc, facts.metadata.xmp
    turn = facts.orientation or 1
    if block:
        try:
            turn = facts.orientation or exif.orientation(block)
            block = exif.upright(block)
        except MalformedError as exc:
            _log.warning("%s: its EXIF block is malformed and was dropped: %s.", name, exc)
            block = None
    metadata = Metadata(exif=block, icc=icc, xmp=exif.upright_xmp(xmp) if xmp else None)
    return Picture(pixels=turned(pixels, turn), metadata=metadata, format=form.name)


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """Pixels [h,w] or [h,w,c] stored with an EXIF orientation of 1 to 8, as they are to be seen."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)

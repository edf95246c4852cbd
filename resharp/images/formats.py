"""The supported formats: signatures, metadata that each carries, and conversion of pixels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from resharp.checks import shown
from resharp.errors import ImageError, OptionError, OutputError
from resharp.images.picture import Pixels
from resharp.opencv import cv2

AVIF_DEPTH = 12
_TOP = {"uint8": 255, "uint16": 65_535, "float32": 1}
_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class Format:
    """One file format as used by this package."""

    name: str
    label: str
    suffixes: tuple[str, ...]
    """File suffixes in lowercase; the first one is passed to OpenCV."""

    dtypes: tuple[str, ...] = ("uint8",)
    """Dtypes that it stores without loss of depth, narrow to wide."""

    alpha: bool = False
    holds: tuple[str, ...]
    """What its files can hold: the kinds of :data:`resharp.images.transfer.KINDS`."""

    carries: tuple[str, ...] = ()
    """Fields of ``Metadata`` that it has a place for; :mod:`transfer` knows what to do with others.
    """

    max_side: int = 2**31 - 1
    max_pixels: int | None = None
    """Most pixels that its files can hold; None if only the sides are limited."""
    max_bytes: int | None = None
    """Most bytes of pixels, with rows padded to multiples of 4; None if files are compressed."""
    quality: int | None = None
    """Default quality; None if the format has no such setting."""

    writes: bool = True


_BLOCKS = ("exif", "icc", "xmp")
_ALL = (*_BLOCKS, "photoshop", "text", "density")
_CAMERA = (*_BLOCKS, "maker_notes", "thumbnail", "frames")

FORMATS = (
    Format(
        name="png",
        label="PNG",
        suffixes=(".png",),
        holds=(*_ALL, *_CAMERA, "color", "own", "alpha", "deep"),
        dtypes=("uint8", "uint16"),
        alpha=True,
        carries=(*_ALL, "color"),
        max_side=1_000_000,
    ),
    Format(
        name="jpeg",
        label="JPEG",
        suffixes=(".jpg", ".jpeg", ".jpe", ".jfif"),
        holds=(*_ALL, *_CAMERA, "gain_map"),
        carries=(*_ALL, "gain_map"),
        max_side=65_500,
        quality=95,
    ),
    Format(
        name="webp",
        label="WebP",
        suffixes=(".webp",),
        holds=(*_CAMERA, "alpha"),
        alpha=True,
        carries=_BLOCKS,
        max_side=16_383,
        quality=95,
    ),
    Format(
        name="tiff",
        label="TIFF",
        suffixes=(".tif", ".tiff"),
        holds=(*_ALL, *_CAMERA, "alpha", "deep", "float"),
        dtypes=("uint8", "uint16", "float32"),
        alpha=True,
        carries=_ALL,
    ),
    Format(
        name="bmp",
        label="BMP",
        suffixes=(".bmp", ".dib"),
        alpha=True,
        carries=("density",),
        holds=("icc", "density", "alpha"),
        max_bytes=2**31 - 2048,  # OpenCV counts the bytes of the file in 32 bits
    ),
    Format(
        name="avif",
        label="AVIF",
        suffixes=(".avif",),
        holds=(*_CAMERA, "color", "gain_map", "alpha", "deep"),
        alpha=True,
        carries=(*_BLOCKS, "color"),
        max_side=32_768,  # of libavif's decoder, which most programs use
        max_pixels=16_384**2,
        quality=90,
    ),
    # OpenCV would reduce the image to 256 colors, so GIF is only read.
    Format(
        name="gif",
        label="GIF",
        suffixes=(".gif",),
        alpha=True,
        holds=("icc", "xmp", "text", "density", "alpha", "frames"),
        writes=False,
    ),
)

_FOREIGN = (
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"%PDF", "PDF"),
    (b"8BPS", "Photoshop"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"\x1a\x45\xdf\xa3", "Matroska video"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML or SVG"),
    (b"<!DOCTYPE html", "web page"),
    (b"<html", "web page"),
    (b"PK\x03\x04", "ZIP archive"),
    (b"version https://git-lfs", "Git LFS pointer"),
)


@functools.cache
def available() -> tuple[Format, ...]:
    """Return the formats of this OpenCV build, which can read and write each, or neither."""
    return tuple(form for form in FORMATS if cv2.haveImageWriter(form.suffixes[0]))


def suffixes() -> tuple[str, ...]:
    """Return the suffixes of readable files, in lowercase and with the dot."""
    return tuple(suffix for form in available() for suffix in form.suffixes)


def writable() -> tuple[str, ...]:
    """Return the suffixes of writable files, in lowercase and with the dot."""
    return tuple(suffix for form in available() if form.writes for suffix in form.suffixes)


def choose(wanted: str) -> Format:
    """Return the format to write for a name (``png``) or a suffix (``.JPG``).

    Raises:
        OptionError: there is no such format, or it cannot be written.
    """
    key = wanted.lower()
    for form in available():
        if form.writes and (key == form.name or key in form.suffixes or f".{key}" in form.suffixes):
            return form
    what = f"{shown(wanted)} is not a writable format" if wanted else "the file name has no suffix"
    raise OptionError(f"{what}. Choose one of {', '.join(writable())}.")


def detect(head: bytes) -> str | None:
    """Return the name of the format that ``head`` (at least 64 bytes, or all) starts with."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webp"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if head.startswith(b"BM") and head[14:18] in _BMP_HEADERS:
        return "bmp"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    return "avif" if head[4:8] == b"ftyp" and _brands(head) & {b"avif", b"avis"} else None


_BMP_HEADERS = tuple(size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124))


def _brands(head: bytes) -> set[bytes]:
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[at : at + 4] for at in range(16, end, 4))}


def describe(head: bytes) -> str:
    """Describe a file of an unsupported format, for an error message."""
    for signature, what in _FOREIGN:
        if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(signature):
            return f"a {what} file"
    if head[4:8] == b"ftyp":
        heic = _brands(head) & {b"heic", b"heix", b"mif1", b"hevc"}
        return "a HEIC image" if heic else "an MP4 or similar video"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return f"text starting with {head[:24].decode('ascii')!r}"
    return f"unknown, starting with the bytes {head[:8].hex(' ')}"


def checked(pixels: Pixels) -> Pixels:
    """Return the pixels, contiguous and without a channel axis of 1.

    Raises:
        ImageError: the shape or the dtype is not that of an image.
    """
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    shape_ok = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if not shape_ok or not pixels.size or pixels.dtype.name not in _TOP:
        raise ImageError(
            "an image must be [h,w], [h,w,3] or [h,w,4] of uint8, uint16 or float32, got an array "
            f"of shape {pixels.shape} and type {pixels.dtype}"
        )
    return np.ascontiguousarray(pixels)


def check_size(form: Format, height: int, width: int, channels: int = 3) -> None:
    """Check that a format can hold an image of a size.

    Raises:
        OutputError: the image is too large.
    """
    size = -(-width * channels // 4) * 4 * height
    most = None
    if max(height, width) > form.max_side:
        most = f"{form.max_side} pixels per side"
    elif form.max_pixels is not None and height * width > form.max_pixels:
        most = f"{form.max_pixels} pixels"
    elif form.max_bytes is not None and size > form.max_bytes:
        most = f"{form.max_bytes} bytes of pixels"
    if most is not None:
        raise OutputError(
            f"{form.label} holds at most {most}, but the image is {width} x {height}. Write TIFF, "
            "or a smaller image."
        )


def check_result(suffix: str, height: int, width: int, scale: float) -> None:
    """Check in advance that a result with 3 or 4 channels can be written.

    Args:
        suffix: suffix of the result, with the dot.
        height: height of the input in pixels.
        width: width of the input.
        scale: output size over input size.

    Raises:
        OutputError: the format cannot hold it.
    """
    check_size(choose(suffix), max(round(height * scale), 1), max(round(width * scale), 1), 1)


def fit_pixels(pixels: Pixels, form: Format) -> tuple[Pixels, list[str]]:
    """Return pixels that ``form`` stores as they are, and a note for each loss."""
    notes = []
    if pixels.ndim == 3 and pixels.shape[2] == 4 and not form.alpha:
        if (pixels[..., 3] < _TOP[pixels.dtype.name]).any():
            notes.append(f"transparency is blended onto white: {form.label} cannot hold it")
        pixels = _by_rows(pixels, _on_white, pixels.dtype.name, 3)
    have = pixels.dtype.name
    if form.name == "avif" and have != "uint8":
        notes.append(f"colors are rounded to {AVIF_DEPTH} bits, the most that AVIF holds")
        return _by_rows(pixels, lambda rows: _scaled(rows, (1 << AVIF_DEPTH) - 1), "uint16"), notes
    if have not in form.dtypes:
        best = form.dtypes[-1]
        bits = 16 if best == "uint16" else 8
        notes.append(f"colors are rounded to {bits} bits, the most that {form.label} holds")
        pixels = _by_rows(pixels, lambda rows: _scaled(rows, _TOP[best]), best)
    return pixels, notes


def _by_rows(
    pixels: Pixels, convert: Callable[[Pixels], Pixels], dtype: str, channels: int | None = None
) -> Pixels:
    """Convert band by band, so that only one band exists as a float copy."""
    shape = pixels.shape if channels is None else (*pixels.shape[:2], channels)
    out = np.empty(shape, dtype)
    for at in range(0, len(pixels), _ROWS):
        out[at : at + _ROWS] = convert(pixels[at : at + _ROWS])
    return out


def _scaled(rows: Pixels, top: int) -> Pixels:
    """Scale and round to 0..top; NaN becomes 0."""
    ratio = np.float32(top / _TOP[rows.dtype.name])
    values: Pixels = np.nan_to_num(rows.astype(np.float32) * ratio)
    return np.rint(np.clip(values, 0, top, out=values), out=values)


def _on_white(rows: Pixels) -> Pixels:
    top = np.float32(_TOP[rows.dtype.name])
    values = rows.astype(np.float32)
    alpha = np.clip(values[..., 3:] / top, 0, 1)
    mixed: Pixels = top + (values[..., :3] - top) * alpha
    return mixed if rows.dtype.kind == "f" else np.rint(mixed)

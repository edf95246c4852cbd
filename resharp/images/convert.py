"""Make pixels fit a format that can hold less, and say what that costs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from resharp.errors import ImageError
from resharp.images.formats import Format
from resharp.images.picture import Metadata, Pixels

_TOP = {"uint8": 255, "uint16": 65_535, "float32": 1}
_ROWS = 256
AVIF_DEPTH = 12


def checked(pixels: Pixels) -> Pixels:
    """The pixels, contiguous and without a channel axis of 1; ImageError if they are no picture."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    shape_ok = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if not shape_ok or not pixels.size or pixels.dtype.name not in _TOP:
        raise ImageError(
            f"An array of shape {pixels.shape} and type {pixels.dtype} is no picture. Give "
            "[h,w], [h,w,3] or [h,w,4] of uint8, uint16 or float32."
        )
    return np.ascontiguousarray(pixels)


def fit_pixels(pixels: Pixels, form: Format) -> tuple[Pixels, list[str]]:
    """Pixels that `form` stores as they are, and a note for each thing that was lost."""
    notes = []
    if pixels.ndim == 3 and pixels.shape[2] == 4 and not form.alpha:
        if (pixels[..., 3] < _TOP[pixels.dtype.name]).any():
            notes.append(f"{form.label} has no transparency: it was laid on white.")
        pixels = _by_rows(pixels, _on_white, pixels.dtype.name, 3)
    have = pixels.dtype.name
    if form.name == "avif" and have != "uint8":
        notes.append(f"AVIF holds {AVIF_DEPTH} bits per channel: {have} samples were rounded.")
        return _by_rows(pixels, lambda rows: _scaled(rows, (1 << AVIF_DEPTH) - 1), "uint16"), notes
    if have not in form.dtypes:
        best = form.dtypes[-1]
        bits = 16 if best == "uint16" else 8
        notes.append(f"{form.label} holds {bits} bits per channel: {have} samples were rounded.")
        pixels = _by_rows(pixels, lambda rows: _scaled(rows, _TOP[best]), best)
    return pixels, notes


def fit_metadata(metadata: Metadata, form: Format, gray: bool) -> tuple[Metadata, list[str]]:
    """The blocks that `form` can carry for such pixels, and a note for each one that is dropped."""
    kept = {"exif": metadata.exif, "icc": metadata.icc, "xmp": metadata.xmp}
    notes = []
    for kind, block in kept.items():
        if block and kind not in form.carries:
            notes.append(f"{form.label} cannot carry the {kind.upper()} block.")
            kept[kind] = None
    # WebP has no gray: the decoder sees colour, and a gray profile would be wrong for it.
    gray = gray and form.name != "webp"
    if kept["icc"] and (reason := _icc_misfit(kept["icc"], b"GRAY" if gray else b"RGB ")):
        notes.append(f"The ICC profile was dropped: {reason}.")
        kept["icc"] = None
    return Metadata(**kept), notes


def _icc_misfit(profile: bytes, space: bytes) -> str:
    """Why a profile cannot describe pixels of this colour space; empty if it can (ICC.1 7.2)."""
    if len(profile) < 132 or profile[36:40] != b"acsp":
        return "it is no ICC profile"
    if int.from_bytes(profile[:4], "big") != len(profile):
        return f"it is {len(profile)} bytes long and claims another length"
    if profile[16:20] != space:
        names = (profile[16:20].decode("latin-1").strip(), space.decode().strip())
        return "it is for {} pixels and the picture is {}".format(*names)
    return ""


def _by_rows(
    pixels: Pixels, convert: Callable[[Pixels], Pixels], dtype: str, channels: int | None = None
) -> Pixels:
    """Convert a band at a time, so that the float copy is a band and not a picture."""
    shape = pixels.shape if channels is None else (*pixels.shape[:2], channels)
    out = np.empty(shape, dtype)
    for at in range(0, len(pixels), _ROWS):
        out[at : at + _ROWS] = convert(pixels[at : at + _ROWS])
    return out


def _scaled(rows: Pixels, top: int) -> Pixels:
    """Rounded to 0 .. top; a float that is no number becomes 0."""
    ratio = np.float32(top / _TOP[rows.dtype.name])
    values: Pixels = np.nan_to_num(rows.astype(np.float32) * ratio)
    return np.rint(np.clip(values, 0, top, out=values), out=values)


def _on_white(rows: Pixels) -> Pixels:
    top = np.float32(_TOP[rows.dtype.name])
    values = rows.astype(np.float32)
    alpha = np.clip(values[..., 3:] / top, 0, 1)
    mixed: Pixels = top + (values[..., :3] - top) * alpha
    return mixed if rows.dtype.kind == "f" else np.rint(mixed)

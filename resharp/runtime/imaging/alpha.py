"""Fill the colors under transparent pixels from their opaque neighbors.

A network sees color but not alpha, so the colors that an editor left under transparent parts
(black, white, noise) form an edge that is sharpened and shows as a fringe. Method: the pull-push
pyramid of Gortler et al., "The Lumigraph" (1996), section 3.4, with alpha as the weight.
"""

from __future__ import annotations

import numpy as np

from resharp.errors import ImageError
from resharp.opencv import cv2
from resharp.types import Array

_TOP = {"uint8": 255.0, "uint16": 65_535.0, "float32": 1.0}

_VISIBLE = 4
"""Lowest alpha, of 255, whose color is kept: below it, colors are mostly rounding error."""

_ROWS = 256  # even: a band starts on a cell of the first level


def bleed(image: Array) -> Array:
    """Return a copy of a BGRA image whose invisible pixels take the colors around them.

    image: [h,w,4] uint8, uint16 or float32 (0..1), straight alpha. Pixels with an alpha of at least
    4/255 and the alpha plane itself are returned bit for bit; an image without any such pixel is
    returned unchanged. Raises ImageError for other arrays.
    """
    if image.ndim != 3 or image.shape[2] != 4 or image.dtype.name not in _TOP:
        raise ImageError(f"alpha requires a BGRA image, got {image.dtype} of shape {image.shape}")
    out = image.copy()
    hidden = image[..., 3] < image.dtype.type(_VISIBLE * _TOP[image.dtype.name] / 255)
    if not hidden.any() or hidden.all():
        return out
    _push(out, hidden, _fill(_pull(image, hidden)))
    return out


def _pull(image: Array, hidden: Array) -> Array:
    """Average weighted colors and weights over 2 x 2 cells: float32 [h/2,w/2,4]."""
    height, width = hidden.shape
    half = np.empty(((height + 1) // 2, (width + 1) // 2, 4), np.float32)
    for at in range(0, height, _ROWS):
        rows = image[at : at + _ROWS].astype(np.float32)
        weight = rows[..., 3] * np.float32(1 / _TOP[image.dtype.name])
        weight[hidden[at : at + _ROWS]] = 0
        rows[..., 3] = 1
        rows *= weight[..., None]
        cells = _halved(rows)
        half[at // 2 : at // 2 + len(cells)] = cells
    return half


def _halved(level: Array) -> Array:
    """Average each 2 x 2 cell; an odd last row or column counts twice."""
    height, width = level.shape[:2]
    if height % 2 or width % 2:
        border = cv2.BORDER_REPLICATE
        level = cv2.copyMakeBorder(level, 0, height % 2, 0, width % 2, border)
    size = (level.shape[1] // 2, level.shape[0] // 2)
    return cv2.resize(level, size, interpolation=cv2.INTER_AREA)


def _doubled(level: Array, height: int, width: int) -> Array:
    """Upsample bilinearly, aligned with the cells of `_halved`, cropped to height x width."""
    size = (level.shape[1] * 2, level.shape[0] * 2)
    return cv2.resize(level, size, interpolation=cv2.INTER_LINEAR)[:height, :width]


def _fill(level: Array) -> Array:
    """Return colors [h,w,3] everywhere from weighted ones [h,w,4]: down to one pixel, back up."""
    height, width = level.shape[:2]
    color = level[..., :3] / np.maximum(level[..., 3:], np.float32(1e-8))
    if height == width == 1:
        return color
    coarse = _doubled(_fill(_halved(level)), height, width)
    # One full child of four is enough to trust a cell; below that the next level contributes.
    trust = np.minimum(level[..., 3:] * 4, 1)
    color -= coarse
    color *= trust
    color += coarse
    return color


def _push(out: Array, hidden: Array, half: Array) -> None:
    """Write the colors of the half-size level into the hidden pixels of `out`, band by band."""
    top = _TOP[out.dtype.name]
    width = out.shape[1]
    for at in range(0, len(out), _ROWS):
        mask = hidden[at : at + _ROWS]
        if not mask.any():
            continue
        above = 1 if at else 0  # a cell of context, so that bands meet without a seam
        first = at // 2 - above
        part = half[first : (at + _ROWS) // 2 + 1]
        rows = _doubled(part, 2 * len(part), width)[2 * above :][: len(mask)]
        rows = np.clip(rows if top == 1 else np.rint(rows), 0, top)
        np.copyto(out[at : at + _ROWS, :, :3], rows, where=mask[..., None], casting="unsafe")

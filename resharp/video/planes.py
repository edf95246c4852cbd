"""Conversion of BGR to Y, Cb and Cr where libswscale is inexact: full range, or above 8 bits.

libswscale lowers full-range chroma by half a level and takes 65280 for 16-bit white (measured:
docs/design/video.md). Chroma is sited on the left pixel of each pair, the default of H.264 and its
successors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from resharp.opencv import cv2
from resharp.types import Image

PLANAR = re.compile(r"yuv4(20|22|44)p(\d+le)?")
"""FFmpeg pixel formats with three planes."""
WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
"""Weights of red and blue in luma by color matrix, from ISO/IEC 23091-2."""


def rows(matrix: int, *, full: bool, depth: int, white: int) -> Image:
    """Return the ``[3, 4]`` matrix for ``cv2.transform`` from (B, G, R, 1) to (Y, Cb, Cr).

    Args:
        matrix: color matrix, one of :data:`WEIGHTS`.
        full: whether the range is full.
        depth: bits of the planes.
        white: value of white in the image, 255 or 65535.
    """
    red, blue = WEIGHTS[matrix]
    luma = np.array([blue, 1 - red - blue, red])
    cb = (np.array([1.0, 0, 0]) - luma) / (2 * (1 - blue))
    cr = (np.array([0, 0, 1.0]) - luma) / (2 * (1 - red))
    top, unit = (1 << depth) - 1, 1 << (depth - 8)
    spans, black = ((top, top), 0) if full else ((219 * unit, 224 * unit), 16 * unit)
    lines = ((luma, spans[0], black), (cb, spans[1], 128 * unit), (cr, spans[1], 128 * unit))
    return np.array([[*(line * span / white), zero] for line, span, zero in lines], np.float32)


def fill(planes: Sequence[Image], image: Image, matrix: int, *, full: bool, depth: int) -> None:
    """Write an image into the planes of a frame.

    Args:
        planes: Y ``[h, w]``, then Cb and Cr of that size or half of it; uint8, or uint16 for more
            than 8 bits.
        image: BGR ``[h, w, 3]``, uint8 or uint16.
        matrix: color matrix, one of :data:`WEIGHTS`.
        full: whether the range is full.
        depth: bits of the planes.
    """
    if depth > 8 and image.dtype == np.uint8:
        image = image.astype(np.uint16) * np.uint16(257)
    white = 255 if image.dtype == np.uint8 else 65535
    make = rows(matrix, full=full, depth=depth, white=white)
    whole = cv2.transform(image, make)
    planes[0][:] = cv2.extractChannel(whole, 0)
    if planes[1].shape != planes[0].shape:
        height, width = planes[1].shape
        whole = cv2.transform(thinned(image, height, width), make)
    planes[1][:] = cv2.extractChannel(whole, 1)
    planes[2][:] = cv2.extractChannel(whole, 2)


def thinned(image: Image, height: int, width: int) -> Image:
    """Filter columns 1:2:1 around every even one, and average pairs of rows for half the height."""
    out = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    if width > 1:
        between = image[:, 1 : 2 * width - 1]
        left = cv2.resize(between, (width - 1, height), interpolation=cv2.INTER_AREA)
        out[:, 1:] = cv2.addWeighted(out[:, 1:], 0.5, left, 0.5, 0)
    edge = cv2.resize(image[:, :1], (1, height), interpolation=cv2.INTER_AREA)
    out[:, :1] = cv2.addWeighted(out[:, :1], 0.5, edge, 0.5, 0)
    return np.asarray(out)

"""BGR to planes of Y, Cb and Cr by the book, where libswscale is not: full range, and deep pixels.

libswscale lets full-range chroma fall by half a level and takes 65280 for the white of 16 bits
(measured: docs/video.md). Chroma lies on the left pixel of each pair, as H.264 and its successors
have it unless told.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import cv2
import numpy as np

from resharp.types import Image

PLANAR = re.compile(r"yuv4(20|22|44)p(\d+le)?")
"""Pixel formats of libav that are three planes."""
WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
"""Shares of red and blue in luma by matrix, as ISO/IEC 23091-2 has them."""


def rows(matrix: int, *, full: bool, depth: int, white: int) -> Image:
    """What makes Y, Cb and Cr of blue, green, red and one: ``[3, 4]``, for ``cv2.transform``.

    Args:
        matrix: one of :data:`WEIGHTS`.
        full: the range.
        depth: bits of the planes.
        white: of the picture, 255 or 65535.
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
    """Write a picture into the planes of a frame.

    Args:
        planes: Y ``[h, w]``, and Cb and Cr of that size or half of it; uint8, or uint16 for more
            than 8 bits.
        image: BGR ``[h, w, 3]``, uint8 or uint16.
        matrix: one of :data:`WEIGHTS`.
        full: the range.
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
    """Means of 1 : 2 : 1 columns about every even one, and of two rows where half are wanted."""
    out = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    if width > 1:
        between = image[:, 1 : 2 * width - 1]
        left = cv2.resize(between, (width - 1, height), interpolation=cv2.INTER_AREA)
        out[:, 1:] = cv2.addWeighted(out[:, 1:], 0.5, left, 0.5, 0)
    edge = cv2.resize(image[:, :1], (1, height), interpolation=cv2.INTER_AREA)
    out[:, :1] = cv2.addWeighted(out[:, :1], 0.5, edge, 0.5, 0)
    return np.asarray(out)

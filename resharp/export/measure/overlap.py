"""Measures how much overlap the tiles of a checkpoint need.

A window cut out of an image is restored alone and compared with the same region of the image
restored as a whole. The error falls with the distance from the cut; the overlap is the distance
from which on it is too small to see.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from resharp.export.measure.costs import sample
from resharp.export.parity import Infer
from resharp.types import Array

LIMIT = 0.25
"""Largest error, in levels of 255, that the chosen overlap leaves on the measured image. Other
images may show several times that and still round to a difference of at most one level."""
REACH = 64
"""Largest overlap considered, in pixels."""
WINDOW = 160
"""Side of a window, in pixels."""
SIDE = 256
"""Side of the image to measure on, in pixels."""
STEP = 2
"""Difference between successive overlaps considered, in pixels."""

Curve = tuple[tuple[int, float], ...]
"""Pairs of an overlap in pixels and the largest error in levels of 255."""


def measure(infer: Infer, picture: Array | None, multiple: int = 1) -> Curve:
    """Measure the error of tiled against untiled restoration for growing overlap.

    Args:
        infer: the float graph, in 0..1.
        picture: uint8 photo ``[h, w, 3]``, of which the center is used, at most :data:`SIDE` pixels
            wide and high; None draws one.
        multiple: windows start at multiples of this.
    """
    floats = sample(picture, None, SIDE, SIDE).astype(np.float32) / np.float32(255)
    height, width = floats.shape[:2]
    whole = infer(floats[None])[0]
    scale = whole.shape[0] // height
    error = np.zeros(REACH // STEP + 1)
    for y, x in _corners(height, width, multiple):
        tall, wide = min(WINDOW, height - y), min(WINDOW, width - x)
        alone = infer(floats[None, y : y + tall, x : x + wide])[0]
        region = whole[y * scale : (y + tall) * scale, x * scale : (x + wide) * scale]
        blocks = np.abs(alone - region).max(axis=2).reshape(tall, scale, wide, scale)
        gap = blocks.max(axis=(1, 3)) * 255  # the largest error of each input pixel
        distance = _distance(y, x, tall, wide, height, width)
        for index in range(len(error)):
            far = gap[distance >= index * STEP]
            error[index] = max(error[index], float(far.max()) if far.size else 0.0)
    curve = tuple((i * STEP, round(float(value), 4)) for i, value in enumerate(error))
    nothing = (i for i, (_, left) in enumerate(curve) if left == 0)  # beyond the receptive field
    return curve[: next(nothing, len(curve)) + 1]


def choose(curve: Curve, limit: float = LIMIT) -> int:
    """Return the smallest overlap whose error is within ``limit``, else the largest one."""
    return next((overlap for overlap, error in curve if error <= limit), curve[-1][0])


def excess(curve: Curve, limit: float = LIMIT) -> float | None:
    """Return the error in levels of 255 that the largest overlap leaves; None if within ``limit``.

    Some networks use the whole image as context, so their tiles never match it exactly.
    """
    left = curve[-1][1] if curve else 0.0
    return left if left > limit else None


def _corners(height: int, width: int, multiple: int) -> Iterator[tuple[int, int]]:
    """Yield the top left of two windows, in a corner and in the center: cuts on every side.

    A third window, in the other corner, gave the same overlaps on ten images and would take a
    fifth of the export time of large networks.
    """
    low, right = max(height - WINDOW, 0), max(width - WINDOW, 0)
    for y, x in ((0, 0), (low // 2, right // 2)):
        yield y - y % multiple, x - x % multiple


def _distance(y: int, x: int, tall: int, wide: int, height: int, width: int) -> Array:
    """Return the distance of each pixel of a window to the nearest cut side, in pixels."""
    far = np.full((tall, wide), 1 << 20)
    rows, columns = np.arange(tall)[:, None], np.arange(wide)[None]
    if y > 0:
        far = np.minimum(far, rows)
    if x > 0:
        far = np.minimum(far, columns)
    if y + tall < height:
        far = np.minimum(far, tall - 1 - rows)
    if x + wide < width:
        far = np.minimum(far, wide - 1 - columns)
    return far

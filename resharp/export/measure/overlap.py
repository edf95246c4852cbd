"""How much overlap a checkpoint needs, measured instead of guessed.

A window cut out of a picture is restored alone and compared with the same region of the picture
restored whole. The error falls with the distance from the cut; the overlap is the distance from
which on it is too small to see.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from resharp.export.measure.costs import sample
from resharp.export.parity import Infer
from resharp.types import Array

LIMIT = 0.25
"""Largest error, in levels of 255, that the chosen overlap leaves on the measured picture. Other
pictures may show several times that and still round to at most one level of difference."""
REACH = 64
"""Largest overlap considered."""
WINDOW = 160
"""Side of a window."""
SIDE = 256
"""Side of the picture measured on."""
STEP = 2
"""Overlaps considered differ by this."""

Curve = tuple[tuple[int, float], ...]
"""(overlap, largest error in levels of 255)."""


def measure(infer: Infer, picture: Array | None, multiple: int = 1) -> Curve:
    """Error of tiled against untiled, for growing overlap.

    Args:
        infer: the float graph, in 0..1.
        picture: uint8 ``[h, w, 3]``, whose middle is used, of at most :data:`SIDE` pixels; None
            draws one.
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
        gap = blocks.max(axis=(1, 3)) * 255  # the largest of each input pixel
        distance = _distance(y, x, tall, wide, height, width)
        for index in range(len(error)):
            far = gap[distance >= index * STEP]
            error[index] = max(error[index], float(far.max()) if far.size else 0.0)
    curve = tuple((i * STEP, round(float(value), 4)) for i, value in enumerate(error))
    nothing = (i for i, (_, left) in enumerate(curve) if left == 0)  # beyond the receptive field
    return curve[: next(nothing, len(curve)) + 1]


def choose(curve: Curve, limit: float = LIMIT) -> int:
    """The smallest overlap from which on the error stays within ``limit``, or the largest."""
    return next((overlap for overlap, error in curve if error <= limit), curve[-1][0])


def excess(curve: Curve, limit: float = LIMIT) -> float | None:
    """What even the largest overlap leaves, in levels of 255; None where one suffices.

    Some networks look at the whole picture: their tiles are never quite the whole.
    """
    left = curve[-1][1] if curve else 0.0
    return left if left > limit else None


def _corners(height: int, width: int, multiple: int) -> Iterator[tuple[int, int]]:
    """Windows in a corner and in the middle: cuts on every side, at two places.

    A third one, in the other corner, chose the same overlaps on ten pictures, and large networks
    take a fifth of the export for it.
    """
    low, right = max(height - WINDOW, 0), max(width - WINDOW, 0)
    for y, x in ((0, 0), (low // 2, right // 2)):
        yield y - y % multiple, x - x % multiple


def _distance(y: int, x: int, tall: int, wide: int, height: int, width: int) -> Array:
    """Pixels between each pixel of a window and its nearest side that is a cut."""
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

"""Places for the labels of points: beside them, and over nothing else.

A greedy search in pixels. Each label tries places around its point, the near ones first, and takes
the first that is free; one that finds none is left out, which the caller can tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RINGS = (0.0, 5.0, 11.0, 19.0, 29.0, 42.0, 58.0, 76.0, 96.0, 120.0)
"""Pixels between a point's marker and its label, in the order tried."""
DIRECTIONS = tuple(math.radians(a) for a in (0, 45, 315, 90, 270, 180, 135, 225))
DIRECTIONS += tuple(math.radians(a + 22.5) for a in range(0, 360, 45))
NEAR = 11.0
"""Pixels up to which a label needs no line to its point."""
STEP = 4.0
"""Pixels between the boxes that stand for a line."""

Floats = NDArray[np.float64]


class Box(NamedTuple):
    """A rectangle, in pixels, y upwards."""

    left: float
    bottom: float
    right: float
    top: float

    def grown(self, by: float) -> Box:
        """The rectangle with so much more on each side."""
        return Box(self.left - by, self.bottom - by, self.right + by, self.top + by)


class Place(NamedTuple):
    """Where a label goes: its centre."""

    x: float
    y: float
    far: bool
    """Whether a line should lead to its point."""


def around(x: float, y: float, half_width: float, half_height: float) -> Box:
    """The rectangle around a centre."""
    return Box(x - half_width, y - half_height, x + half_width, y + half_height)


def along(x0: float, y0: float, x1: float, y1: float) -> list[Box]:
    """Small boxes that stand for a straight line."""
    count = max(2, round(math.hypot(x1 - x0, y1 - y0) / STEP))
    return [
        around(x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count, 1.0, 1.0)
        for i in range(count + 1)
    ]


def place(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    *,
    frame: Box,
    radius: float,
    lines: Iterable[Box] = (),
) -> list[Place | None]:
    """Places for one label of each point, the first points first.

    Args:
        points: in pixels.
        sizes: width and height of the labels, in pixels.
        frame: that labels stay in.
        radius: of a marker, in pixels; no label covers one.
        lines: boxes that labels avoid where they can.

    Returns:
        A place for each point; None where all were taken.
    """
    taken = [around(x, y, radius, radius) for x, y in points]
    soft = list(lines)
    found: list[Place | None] = []
    for index, ((x, y), (width, height)) in enumerate(zip(points, sizes, strict=True)):
        # Its own marker stands first, so that a line to the label may leave it.
        others = taken[:index] + taken[index + 1 :]
        spots = list(_candidates(x, y, width / 2, height / 2, radius))
        free = _free(spots, x, y, (width, height), frame, [*taken, *soft], [*others, *soft])
        free = free or _free(spots, x, y, (width, height), frame, taken, others)
        found.append(free)
        if free is not None:
            taken.append(around(free.x, free.y, width / 2, height / 2))
            if free.far:
                taken += _leader(x, y, free, radius)
    return found


def _candidates(
    x: float, y: float, half_width: float, half_height: float, radius: float
) -> Iterator[Place]:
    for ring in RINGS:
        for angle in DIRECTIONS:
            reach = radius + ring + 1.0
            dx, dy = math.cos(angle), math.sin(angle)
            # Out of the marker by its reach, then by as much of the label as points that way.
            cx = x + dx * reach + half_width * _sign(dx)
            cy = y + dy * reach + half_height * _sign(dy)
            yield Place(cx, cy, ring > NEAR)


def _sign(value: float) -> float:
    """Sign of a direction's part, softened near 0, where a label is centred."""
    return max(-1.0, min(1.0, value / 0.7))


def _free(
    spots: Sequence[Place],
    x: float,
    y: float,
    size: tuple[float, float],
    frame: Box,
    obstacles: Sequence[Box],
    crossed: Sequence[Box],
) -> Place | None:
    """The first spot that covers no obstacle and whose line crosses none."""
    solid = np.array(obstacles, np.float64)
    thin = np.array(crossed, np.float64).reshape(-1, 4)
    for spot in spots:
        box = around(spot.x, spot.y, size[0] / 2, size[1] / 2)
        inside = frame.left <= box.left and box.right <= frame.right
        inside = inside and frame.bottom <= box.bottom and box.top <= frame.top
        if not inside or _hits([box], solid):
            continue
        if spot.far and _hits(_leader(x, y, spot, 0.0), thin):
            continue
        return spot
    return None


def _leader(x: float, y: float, spot: Place, radius: float) -> list[Box]:
    """The line from a point to its label, as boxes, without what lies within the marker."""
    boxes = along(x, y, spot.x, spot.y)
    return [b for b in boxes if math.hypot(b.left + 1 - x, b.bottom + 1 - y) > radius]


def _hits(boxes: Sequence[Box], others: Floats) -> bool:
    """Whether any of some boxes covers a part of any other."""
    own = np.array(boxes, np.float64)[:, None]
    apart = (others[:, 0] >= own[..., 2]) | (others[:, 2] <= own[..., 0])
    apart |= (others[:, 1] >= own[..., 3]) | (others[:, 3] <= own[..., 1])
    return not bool(apart.all())

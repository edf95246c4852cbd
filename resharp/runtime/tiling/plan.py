"""The tile plan of an image: pure data, computed before any pixel is touched.

All windows of an image have the same size, balanced so that a row slightly longer than a tile
becomes two windows of about half. Windows are shifted inwards instead of exceeding the image, so
image borders are computed exactly as without tiling. A window exceeds the image only if the image
is smaller than the smallest tile or not a multiple of ``multiple``; the excess (bottom and right)
belongs to the margin.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from resharp.errors import OptionError


@dataclass(frozen=True)
class Tile:
    """A window of the input and its margins, which are discarded. All in input pixels."""

    y: int
    x: int
    height: int
    width: int
    top: int
    left: int
    bottom: int
    right: int

    @property
    def core(self) -> tuple[int, int, int, int]:
        """The part that is kept: first row, first column, end row, end column in the image."""
        return (
            self.y + self.top,
            self.x + self.left,
            self.y + self.height - self.bottom,
            self.x + self.width - self.right,
        )


@dataclass(frozen=True)
class Band:
    """Whole rows of tiles and their place in the image. All in input pixels."""

    first: int
    """First image row that the tiles read."""
    stop: int
    """End of the image rows that the tiles read."""
    start: int
    """First image row that the tiles write."""
    end: int
    """End of the image rows that the tiles write."""
    tiles: tuple[Tile, ...]
    """The tiles, in image coordinates."""

    def local(self) -> tuple[Tile, ...]:
        """Return the tiles in the coordinates of rows ``first`` to ``stop`` of the image."""
        return tuple(replace(tile, y=tile.y - self.first) for tile in self.tiles)


def smallest_tile(overlap: int, multiple: int = 1) -> int:
    """Return the smallest tile that keeps 16 pixels or one multiple between its margins."""
    return 2 * _up(overlap, multiple) + _up(16, multiple)


def plan(
    height: int, width: int, tile: int, overlap: int, multiple: int = 1, smallest: int = 1
) -> tuple[Tile, ...]:
    """Cover an image with windows of one size, in reading order.

    Every pixel lies in exactly one core, and every core keeps ``overlap`` pixels of context on each
    side that is not the border of the image. The windows' area is at most
    ``prod(side * t / (t - 2 * o) + n * multiple)`` over both sides, where t and o are the tile and
    the overlap rounded to the multiple, and n is the number of windows along that side.

    Args:
        height: height of the image in pixels, at least 1.
        width: width of the image in pixels, at least 1.
        tile: largest side of a window, in pixels.
        overlap: context on each side, in pixels.
        multiple: positions and sides of windows are multiples of this.
        smallest: smallest side of a window, in pixels.

    Raises:
        OptionError: the image is empty, or the tile is too small for the overlap.
    """
    if height < 1 or width < 1:
        raise OptionError(f"cannot tile an empty image ({width}x{height} pixels)")
    if multiple < 1 or overlap < 0:
        raise OptionError(f"`multiple` must be >= 1 and `overlap` >= 0, got {multiple}, {overlap}")
    rows = _axis(height, tile, overlap, multiple, smallest)
    columns = _axis(width, tile, overlap, multiple, smallest)
    return tuple(
        Tile(y, x, tall, wide, top, left, bottom, right)
        for y, tall, top, bottom in rows
        for x, wide, left, right in columns
    )


def bands(tiles: Sequence[Tile], pixels: int) -> Iterator[Band]:
    """Group a plan into bands of whole tile rows, each keeping at most about ``pixels`` pixels.

    A band has at least one row of tiles, regardless of its size.
    """
    group: list[Tile] = []
    for _, row in itertools.groupby(tiles, key=lambda tile: tile.y):
        added = list(row)
        cores = [tile.core for tile in (*group, *added)]
        area = sum((end - start) * (stop - first) for start, first, end, stop in cores)
        if group and area > pixels:
            yield _band(group)
            group = []
        group.extend(added)
    if group:
        yield _band(group)


def _axis(
    length: int, tile: int, overlap: int, multiple: int, smallest: int
) -> list[tuple[int, int, int, int]]:
    """Return (start, size, lead, trail) of each window along one side."""
    padded = max(_up(length, multiple), _up(smallest, multiple))
    limit = tile - tile % multiple
    if padded <= limit:
        return [(0, padded, 0, padded - length)]
    context = _up(overlap, multiple)
    if limit - 2 * context < multiple:
        raise OptionError(
            f"a tile of {tile} pixels is too small for an overlap of {overlap}: "
            f"use at least {smallest_tile(overlap, multiple)}"
        )
    count = -(-(padded - 2 * context) // (limit - 2 * context))
    size = _up(-(-(padded + 2 * context * (count - 1)) // count), multiple)
    slack = padded - size
    starts = [i * slack // (count - 1) // multiple * multiple for i in range(count)]
    cuts = [(left + size + right) // 2 for left, right in itertools.pairwise(starts)]
    edges = [0, *cuts, length]
    return [
        (start, size, edges[i] - start, start + size - edges[i + 1])
        for i, start in enumerate(starts)
    ]


def _band(tiles: list[Tile]) -> Band:
    cores = [tile.core for tile in tiles]
    return Band(
        first=min(tile.y for tile in tiles),
        stop=max(tile.y + tile.height for tile in tiles),
        start=min(core[0] for core in cores),
        end=max(core[2] for core in cores),
        tiles=tuple(tiles),
    )


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple

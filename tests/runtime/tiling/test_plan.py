from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resharp.errors import OptionError
from resharp.runtime.tiling.plan import Tile, bands, plan, smallest_tile

sides = st.integers(1, 400)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, int, int, int, int, int]:
    multiple = draw(st.sampled_from([1, 2, 4, 8]))
    overlap = draw(st.integers(0, 24))
    tile = draw(st.integers(smallest_tile(overlap, multiple), 160))
    smallest = draw(st.integers(1, tile - tile % multiple))
    return draw(sides), draw(sides), tile, overlap, multiple, smallest


@given(layouts())
def test_every_pixel_is_written_exactly_once(layout: tuple[int, int, int, int, int, int]) -> None:
    height, width, *_ = layout
    written = np.zeros((height, width), int)
    for tile in plan(*layout):
        top, left, bottom, right = tile.core
        assert 0 <= top < bottom <= height
        assert 0 <= left < right <= width
        written[top:bottom, left:right] += 1
    assert (written == 1).all()


@given(layouts())
def test_windows_have_one_size_and_hang_over_only_where_they_must(
    layout: tuple[int, int, int, int, int, int],
) -> None:
    height, width, tile, _, multiple, smallest = layout
    tiles = plan(*layout)
    assert len({(t.height, t.width) for t in tiles}) == 1
    for t in tiles:
        assert t.y % multiple == t.x % multiple == t.height % multiple == t.width % multiple == 0
        assert max(t.height, t.width) <= tile
        for start, size, side in ((t.y, t.height, height), (t.x, t.width, width)):
            over = start + size - side
            assert over < multiple or (start == 0 and size - smallest < multiple)


@given(layouts())
def test_cores_keep_their_context(layout: tuple[int, int, int, int, int, int]) -> None:
    height, width, _, overlap, *_ = layout
    for tile in plan(*layout):
        top, left, bottom, right = tile.core
        assert tile.top >= overlap or top == 0
        assert tile.left >= overlap or left == 0
        assert tile.bottom >= overlap or bottom == height
        assert tile.right >= overlap or right == width


@given(layouts())
def test_computed_area_stays_within_the_stated_factor(
    layout: tuple[int, int, int, int, int, int],
) -> None:
    height, width, tile, overlap, multiple, smallest = layout
    tiles = plan(*layout)
    t = tile - tile % multiple
    o = math.ceil(overlap / multiple) * multiple
    counts = (len({i.y for i in tiles}), len({i.x for i in tiles}))
    bound = math.prod(
        max(side * t / (t - 2 * o) + n * multiple, smallest + multiple)
        for side, n in zip((height, width), counts, strict=True)
    )
    assert sum(i.height * i.width for i in tiles) <= bound


@given(layouts(), st.integers(1, 40_000))
def test_bands_hold_the_plan_in_order(
    layout: tuple[int, int, int, int, int, int], pixels: int
) -> None:
    height, width, *_ = layout
    tiles = plan(*layout)
    groups = list(bands(tiles, pixels))
    assert tuple(t for band in groups for t in band.tiles) == tiles
    assert groups[0].start == 0
    assert groups[-1].end == height
    for one, two in itertools.pairwise(groups):
        assert one.end == two.start
    for band in groups:
        rows = {t.y for t in band.tiles}
        assert (band.end - band.start) * width <= pixels or len(rows) == 1
        for local, tile in zip(band.local(), band.tiles, strict=True):
            assert local.y + band.first == tile.y
            assert local.y >= 0


def test_a_row_slightly_longer_than_a_tile_is_cut_in_balanced_halves() -> None:
    tiles = plan(100, 520, 512, 16)
    assert [(t.x, t.width) for t in tiles] == [(0, 276), (244, 276)]


def test_an_image_within_one_tile_is_one_window() -> None:
    assert plan(37, 51, 64, 16) == (Tile(0, 0, 37, 51, 0, 0, 0, 0),)


def test_only_an_image_under_the_smallest_tile_is_padded() -> None:
    assert plan(3, 5, 64, 16, smallest=16) == (Tile(0, 0, 16, 16, 0, 0, 13, 11),)


def test_odd_sides_hang_over_by_less_than_the_multiple() -> None:
    assert plan(3, 5, 64, 16, 2) == (Tile(0, 0, 4, 6, 0, 0, 1, 1),)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((0, 5, 64, 16), "empty image"),
        ((100, 100, 32, 16), "use at least 48"),
        ((100, 100, 32, -1), "`overlap` >= 0, got 1, -1"),
        ((100, 100, 32, 1, 0), "`multiple` must be >= 1 .* got 0, 1"),
    ],
)
def test_layouts_that_cannot_be(args: tuple[int, ...], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        plan(*args)

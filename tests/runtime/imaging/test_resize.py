"""Lanczos against a slow, literal reference, whole and in bands."""

from __future__ import annotations

import itertools
import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resharp.errors import ImageError, OptionError
from resharp.runtime.imaging.resize import RowResizer, resize

Array = npt.NDArray[Any]


def kernel(x: float) -> float:
    if x == 0:
        return 1.0
    if abs(x) >= 3:
        return 0.0
    return 3 * math.sin(math.pi * x) * math.sin(math.pi * x / 3) / (math.pi * x) ** 2


def matrix(inputs: int, outputs: int) -> Array:
    """The whole weight matrix of one direction, by the book."""
    step = inputs / outputs
    weights = np.array(
        [
            [kernel(((i + 0.5) - (o + 0.5) * step) / max(step, 1)) for i in range(inputs)]
            for o in range(outputs)
        ]
    )
    normalised: Array = weights / weights.sum(axis=1, keepdims=True)
    return normalised


def reference(image: Array, height: int, width: int) -> Array:
    """float64, before rounding and clipping."""
    down, across = matrix(image.shape[0], height), matrix(image.shape[1], width)
    out: Array = np.einsum("oi,ij...,pj->op...", down, image.astype(np.float64), across)
    return out


def noise(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Array:
    random = np.random.default_rng(seed)
    if dtype == "float32":
        return random.random(shape, np.float32)
    return random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


SIZES = [((40, 50), (17, 23)), ((23, 31), (64, 95)), ((40, 30), (13, 70)), ((9, 200), (9, 3))]


@pytest.mark.parametrize(("size", "asked"), [*SIZES, ((5, 4), (1, 1)), ((1, 1), (7, 5))])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_it_is_the_textbook_filter(
    size: tuple[int, int], asked: tuple[int, int], dtype: str, channels: tuple[int, ...]
) -> None:
    image = noise((*size, *channels), dtype)
    out = resize(image, *asked)
    assert out.shape == (*asked, *channels)
    assert out.dtype == image.dtype
    top = 1 if dtype == "float32" else np.iinfo(dtype).max
    exact = np.clip(reference(image, *asked), 0, top)
    tolerance = 1e-5 if dtype == "float32" else 0.502 if dtype == "uint8" else 0.6
    assert np.abs(out.astype(np.float64) - exact).max() <= tolerance


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 40)),
    asked=st.tuples(st.integers(1, 150), st.integers(1, 90)),
    cuts=st.lists(st.integers(0, 70), max_size=6),
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
    channels=st.sampled_from([(), (3,)]),
)
def test_bands_give_the_whole_picture(
    size: tuple[int, int],
    asked: tuple[int, int],
    cuts: list[int],
    dtype: str,
    channels: tuple[int, ...],
) -> None:
    image = noise((*size, *channels), dtype, seed=size[0])
    edges = sorted({0, size[0], *(cut for cut in cuts if cut < size[0])})
    resizer = RowResizer(*size, *asked)
    parts = [resizer.push(image[a:b]) for a, b in itertools.pairwise(edges)]
    streamed = np.concatenate(parts)
    whole = resize(image, *asked)
    assert streamed.shape == whole.shape
    level = 1e-5 if dtype == "float32" else 1
    assert np.abs(streamed.astype(np.float64) - whole.astype(np.float64)).max() <= level


@pytest.mark.parametrize("asked", [(30, 40), (120, 160), (240, 40)])
def test_rows_come_as_soon_as_they_are_complete(asked: tuple[int, int]) -> None:
    """One row at a time: nothing is held back, and the window stays as small as the kernel."""
    image = noise((120, 40), "uint8")
    resizer = RowResizer(120, 40, *asked)
    step = 120 / asked[0]
    done = 0
    for seen, row in enumerate(image, 1):
        done += len(resizer.push(row[None]))
        reach = 3 * max(step, 1)
        sure = sum((o + 0.5) * step + reach <= seen - 1 or seen == 120 for o in range(asked[0]))
        assert done >= (sure if step != 1 else seen)
        assert resizer._window is None or len(resizer._window) <= 2 * reach + 3
    assert done == asked[0]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_equal_sizes_are_an_equal_copy(dtype: str) -> None:
    image = noise((33, 21, 3), dtype)
    out = resize(image, 33, 21)
    np.testing.assert_array_equal(out, image)
    assert not np.shares_memory(out, image)


@pytest.mark.parametrize("asked", [(100, 77), (300, 411), (64, 411)])
@pytest.mark.parametrize(
    "value", [np.uint8(0), np.uint8(255), np.uint16(65_535), np.uint16(12_345), np.float32(0.3)]
)
def test_a_flat_picture_stays_flat(asked: tuple[int, int], value: Any) -> None:
    image = np.full((150, 200, 3), value)
    assert (resize(image, *asked) == value).all()


def test_overshoot_is_clipped_and_float_stays_in_range() -> None:
    image = np.zeros((16, 16), np.float32)
    image[:, 8:] = 1
    out = resize(image, 64, 64)
    assert out.min() == 0
    assert out.max() == 1
    levels = resize((image * 255).astype(np.uint8), 64, 64)
    np.testing.assert_array_equal(levels, np.rint(out * 255))


def test_a_first_pixel_that_is_no_number_does_not_spread() -> None:
    image = np.full((64, 64), 0.5, np.float32)
    image[0, 0] = np.nan
    out = resize(image, 32, 32)
    np.testing.assert_allclose(out[8:, 8:], 0.5, atol=1e-6)


def test_a_zone_plate_halved_does_not_alias() -> None:
    """Rings finer than the small grid must turn gray. OpenCV's Lanczos makes new rings of them."""
    size = 512
    y, x = np.mgrid[:size, :size] - size / 2
    plate = 127.5 + 127.5 * np.cos(np.pi * (x**2 + y**2) / size)
    image = np.rint(plate).astype(np.uint8)
    # At a distance d from the center the rings have d / size cycles a pixel; the small grid holds
    # up to a quarter, in each direction on its own.
    across = np.abs(np.mgrid[: size // 2, : size // 2] - size / 4 + 0.5) * 2 / size
    beyond = across.max(axis=0) > 0.33
    ours = resize(image, size // 2, size // 2).astype(float)
    theirs = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_LANCZOS4)
    assert ours[beyond].std() < 4
    assert theirs.astype(float)[beyond].std() > 40
    kept = across.max(axis=0) < 0.15
    assert ours[kept].std() > 80  # what the small grid can hold is still there


def test_wrong_use_is_named() -> None:
    with pytest.raises(OptionError, match="at least one pixel"):
        resize(np.zeros((4, 4), np.uint8), 0, 3)
    with pytest.raises(ImageError, match="an image must be"):
        resize(np.zeros((4,), np.uint8), 3, 3)
    with pytest.raises(ImageError, match="float64"):
        resize(np.zeros((4, 4)), 3, 3)
    resizer = RowResizer(4, 4, 2, 2)
    resizer.push(np.zeros((2, 4), np.uint8))
    with pytest.raises(ImageError, match="do not continue"):
        resizer.push(np.zeros((1, 5), np.uint8))
    with pytest.raises(ImageError, match="do not continue"):
        resizer.push(np.zeros((1, 4, 3), np.uint8))
    with pytest.raises(ImageError, match="height of 4"):
        resizer.push(np.zeros((3, 4), np.uint8))

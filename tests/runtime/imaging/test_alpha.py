"""The colors that bleed out of what can be seen."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from resharp.errors import ImageError
from resharp.runtime.imaging.alpha import bleed

Array = npt.NDArray[Any]

RED = np.array((0, 0, 255), np.uint8)


def disc(under: int, size: int = 96, fade: bool = True) -> Array:
    """A red disc with soft edges over transparent pixels whose color is `under`."""
    alpha = np.zeros((size, size), np.uint8)
    centre = (size // 2, size // 2)
    cv2.circle(alpha, centre, size // 4, 255, -1, cv2.LINE_AA if fade else cv2.LINE_8)
    color = np.where(alpha[..., None] > 0, RED, np.uint8(under))
    return np.dstack([color, alpha])


def on_gray_after_x4(image: Array) -> Array:
    """Color and alpha enlarged on their own, then laid on gray; float [h,w,3]."""
    size = (image.shape[1] * 4, image.shape[0] * 4)
    big = cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    color, alpha = np.clip(big[..., :3], 0, 255), np.clip(big[..., 3:] / 255, 0, 1)
    return color * alpha + 128 * (1 - alpha)


def fringe(image: Array) -> float:
    """How far, in levels, the image on gray is from a mix of pure red and gray by its alpha."""
    size = (image.shape[1] * 4, image.shape[0] * 4)
    grown = cv2.resize(image[..., 3].astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    alpha = np.clip(grown[..., None] / 255, 0, 1)
    expected = RED * alpha + 128 * (1 - alpha)
    return float(np.abs(on_gray_after_x4(image) - expected).max())


@pytest.mark.parametrize("under", [0, 255])
def test_an_enlarged_edge_has_no_fringe(under: int) -> None:
    assert fringe(disc(under)) > 20  # what happens without
    assert fringe(bleed(disc(under))) < 1


def test_what_was_under_the_transparent_part_does_not_matter() -> None:
    np.testing.assert_array_equal(bleed(disc(0)), bleed(disc(255)))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_visible_pixels_and_alpha_stay_bit_for_bit(dtype: str) -> None:
    random = np.random.default_rng(3)
    top = 1 if dtype == "float32" else np.iinfo(dtype).max
    image = (random.random((61, 83, 4)) * top).astype(dtype)
    image[10:50, 20:70, 3] = 0
    out = bleed(image)
    visible = image[..., 3] > top * 4.01 / 255
    np.testing.assert_array_equal(out[visible], image[visible])
    np.testing.assert_array_equal(out[..., 3], image[..., 3])
    assert out.dtype == image.dtype
    assert (out[15:45, 25:65, :3] != image[15:45, 25:65, :3]).any()


def test_a_hole_takes_the_colors_beside_it() -> None:
    image = np.full((64, 700, 4), 255, np.uint8)
    image[:, :350, :3] = (200, 100, 50)
    image[:, 350:, :3] = (20, 40, 60)
    image[20:44, 40:60] = 0
    image[20:44, 600:620] = 0
    out = bleed(image)[..., :3].astype(int)
    assert np.abs(out[20:44, 40:60] - (200, 100, 50)).max() <= 1
    assert np.abs(out[20:44, 600:620] - (20, 40, 60)).max() <= 1


def test_bands_meet_without_a_seam() -> None:
    """A tall gradient with a transparent stripe, longer than the bands that it is worked in."""
    ramp = np.linspace(0, 60_000, 1111).astype(np.uint16)
    image = np.full((1111, 40, 4), 65_535, np.uint16)
    image[..., :3] = ramp[:, None, None]
    image[:, 15:25, 3] = 0
    image[:, 15:25, :3] = 7
    filled = bleed(image)[:, 20, 0].astype(int)
    assert np.abs(filled - ramp)[16:-16].max() < 400  # the ramp gains 54 a row
    assert np.abs(np.diff(filled, n=2)).max() < 150


def test_rounding_left_in_almost_invisible_pixels_is_not_trusted() -> None:
    image = disc(0, fade=False)
    image[image[..., 3] == 0] = (255, 255, 0, 1)
    assert (bleed(image)[..., :3] == RED).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (300, 2)])
@pytest.mark.parametrize("alpha", [0, 255])
def test_nothing_or_everything_visible_changes_nothing(shape: tuple[int, int], alpha: int) -> None:
    image = np.full((*shape, 4), 77, np.uint8)
    image[..., 3] = alpha
    out = bleed(image)
    np.testing.assert_array_equal(out, image)
    assert not np.shares_memory(out, image)


def test_one_visible_pixel_colors_a_picture_of_odd_size() -> None:
    image = np.zeros((301, 515, 4), np.uint8)
    image[300, 514] = (9, 8, 7, 255)
    assert (bleed(image)[..., :3] == (9, 8, 7)).all()


def test_other_arrays_are_refused() -> None:
    with pytest.raises(ImageError, match="BGRA"):
        bleed(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ImageError, match="float64"):
        bleed(np.zeros((4, 4, 4)))

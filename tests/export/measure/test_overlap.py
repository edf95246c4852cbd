from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from resharp.drawing import draw
from resharp.export.measure import overlap
from resharp.export.parity import Infer


def blur(radius: int) -> Infer:
    """A network that sees exactly ``radius`` pixels far and repeats its border, at scale 2."""

    def infer(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        side = 2 * radius + 1
        out = cv2.blur(batch[0], (side, side), borderType=cv2.BORDER_REPLICATE)
        return np.repeat(np.repeat(out, 2, axis=0), 2, axis=1)[None]

    return infer


@pytest.mark.parametrize("radius", [2, 6, 14])
def test_the_overlap_is_the_radius_of_what_the_network_sees(radius: int) -> None:
    curve = overlap.measure(blur(radius), draw(288, 288))
    assert overlap.choose(curve) == radius
    assert curve[0][1] > curve[(radius - 2) // overlap.STEP][1] > 0.25 or radius == 2


def test_the_curve_falls() -> None:
    errors = [error for _, error in overlap.measure(blur(9), draw(300, 400, seed=2))]
    assert errors == sorted(errors, reverse=True)


def test_a_picture_smaller_than_a_window_needs_no_overlap() -> None:
    assert overlap.choose(overlap.measure(blur(5), draw(40, 50))) == 0


def test_a_network_that_sees_everything_gets_the_largest() -> None:
    def infer(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(batch + batch.mean())

    assert overlap.choose(overlap.measure(infer, draw(288, 288))) == overlap.REACH


def test_drawn_pictures_are_repeatable_and_differ_by_seed() -> None:
    np.testing.assert_array_equal(draw(40, 50, 1), draw(40, 50, 1))
    assert (draw(40, 50, 1) != draw(40, 50, 2)).mean() > 0.5
    assert draw(1, 1).shape == (1, 1, 3)


def test_what_the_largest_overlap_leaves_is_told() -> None:
    near = overlap.measure(blur(3), draw(256, 256))
    assert overlap.excess(near) is None
    assert overlap.excess(()) is None
    mean = overlap.measure(
        lambda x: x * 0.5 + x.mean(axis=(1, 2), keepdims=True) * 0.5, draw(256, 256)
    )
    assert overlap.choose(mean) == overlap.REACH
    left = overlap.excess(mean)
    assert left is not None
    assert left > overlap.LIMIT

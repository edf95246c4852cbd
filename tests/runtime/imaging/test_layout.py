from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from resharp.errors import ImageError
from resharp.runtime.imaging.layout import Layout, from_network, layout_of, to_network


@pytest.mark.parametrize(
    ("shape", "channels", "flat"),
    [((3, 5), 1, True), ((3, 5, 1), 1, False), ((3, 5, 3), 3, False), ((1, 1, 4), 4, False)],
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_pictures(shape: tuple[int, ...], channels: int, flat: bool, dtype: str) -> None:
    layout = layout_of(np.zeros(shape, dtype))
    assert layout == Layout(shape[0], shape[1], channels, dtype, flat)
    assert layout.shape(7, 9) == ((7, 9) if flat else (7, 9, channels))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "cv2.imread returns that"),
        ([[1]], "got list"),
        (np.zeros(5, np.uint8), "must be gray"),
        (np.zeros((2, 2, 2), np.uint8), "must be gray"),
        (np.zeros((2, 2, 5), np.uint8), "must be gray"),
        (np.zeros((0, 5), np.uint8), "no pixels"),
        (np.zeros((5, 0, 3), np.uint8), "no pixels"),
        (np.zeros((2, 2)), "one of uint8, uint16, float32, got float64"),
        (np.zeros((2, 2), bool), "got bool"),
        (np.full((2, 2), np.nan, np.float32), "NaN"),
        (np.full((2, 2), np.inf, np.float32), "NaN or infinity"),
        (np.full((2, 2), 255, np.float32), r"got 255\.\.255: divide it"),
        (np.full((2, 2), -0.2, np.float32), "must be in 0..1"),
    ],
)
def test_what_is_no_picture(image: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        layout_of(image)


def test_one_nan_among_many_is_seen() -> None:
    image = np.zeros((50, 50, 3), np.float32)
    image[31, 7, 1] = np.nan
    with pytest.raises(ImageError, match="NaN"):
        layout_of(image)


def test_a_slight_overshoot_is_clipped() -> None:
    image = np.array([[-0.003, 1.003]], np.float32)
    layout_of(image)
    assert to_network(image).reshape(-1).tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3])
def test_there_and_back_is_exact(dtype: str, channels: int) -> None:
    rng = np.random.default_rng(0)
    kind = np.dtype(dtype)
    image = (
        rng.random((16, 16, channels), np.float32)
        if kind.kind == "f"
        else rng.integers(0, np.iinfo(kind).max + 1, (16, 16, channels)).astype(kind)
    )
    rows = to_network(image)
    assert rows.shape == (16, 16, 3)
    assert rows.dtype == ("uint8" if dtype == "uint8" else "float32")
    out = np.empty((16, 16) if channels == 1 else image.shape, kind)
    from_network(rows, out)
    tolerance = 1e-6 if kind.kind == "f" else 0
    np.testing.assert_allclose(out.reshape(image.shape), image, atol=tolerance)

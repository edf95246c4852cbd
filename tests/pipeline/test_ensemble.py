from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resharp import Upscaler
from resharp.engines import Bundle
from resharp.errors import OptionError
from resharp.pipeline.ensemble import Ensemble, _back, _view


class Fake:
    """Enlarges by repeating pixels, and adds a value to the first row."""

    def __init__(self, add: int = 0, scale: float = 2.0) -> None:
        self.add, self.scale, self.closed, self.calls = add, scale, 0, 0

    def __call__(self, image: Any) -> Any:
        self.calls += 1
        large = image.repeat(int(self.scale), 0).repeat(int(self.scale), 1)
        large[0] += np.asarray(self.add, image.dtype)
        return large

    def close(self) -> None:
        self.closed += 1


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 7), st.booleans())
def test_views_come_back(height: int, width: int, number: int, flat: bool) -> None:
    shape = (height, width) if flat else (height, width, 3)
    image = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    np.testing.assert_array_equal(_back(_view(image, number), number), image)


def test_the_eight_views_differ() -> None:
    image = np.arange(6).reshape(2, 3)
    assert len({(_view(image, n).shape, _view(image, n).tobytes()) for n in range(8)}) == 8


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_the_mean_is_weighted_and_rounded(dtype: str) -> None:
    image = np.full((4, 5, 3), 100, dtype) if dtype != "float32" else np.zeros((4, 5, 3), dtype)
    members = [Fake(10), Fake(20), Fake(99)]
    with Ensemble(members, [3, 1, 0]) as ensemble:
        out = ensemble(image)
    assert (out.dtype, out.shape) == (np.dtype(dtype), (8, 10, 3))
    wanted = 12.5 if dtype == "float32" else 112  # 112.5, half to even
    np.testing.assert_allclose(out[0], wanted)
    np.testing.assert_array_equal(out[1:], image[0, 0, 0])
    assert [member.calls for member in members] == [1, 1, 0]
    assert [member.closed for member in members] == [1, 1, 1]


def test_views_average_what_depends_on_the_place() -> None:
    image, seen = np.zeros((6, 6, 3), np.uint8), []
    with Ensemble([Fake(80)], tta=8) as ensemble:
        out = ensemble(image, progress=lambda done, total: seen.append((done, total)))
    assert out[0, 5, 0] == out[11, 5, 0] == out[5, 0, 0] == out[5, 11, 0] == 20
    assert out[5, 5, 0] == 0
    assert seen == [(i, 8) for i in range(1, 9)]


def test_real_upscalers(compact: Bundle) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    with Upscaler(compact) as alone:
        exact = alone(image)
    with Ensemble([Upscaler(compact)]) as one:
        np.testing.assert_array_equal(one(image), exact)
    with Ensemble([Upscaler(compact)], tta=8) as eight:
        turned = eight(image[::-1, ::-1])
        np.testing.assert_array_equal(turned[::-1, ::-1], eight(image))


@pytest.mark.parametrize(
    ("members", "options", "message"),
    [
        ([], {}, "at least one"),
        ([Fake(), Fake(scale=4)], {}, "have scales 2, 4"),
        ([Fake()], {"tta": 3}, "1, 2, 4 or 8"),
        ([Fake()], {"tta": True}, "1, 2, 4 or 8"),
        ([Fake()], {"tta": 2.0}, "1, 2, 4 or 8"),
        ([Fake()], {"weights": [1, 2]}, "must be 1 numbers"),
        ([Fake(), Fake()], {"weights": [1e308, 1e308]}, "must be 2 numbers"),
        ([Fake()], {"weights": ["a"]}, "must be 1 numbers"),
        ([Fake()], {"weights": [0]}, "not all zero"),
        ([Fake()], {"weights": [-1]}, "none negative"),
        ([Fake()], {"weights": [float("nan")]}, "none negative"),
    ],
)
def test_what_makes_no_ensemble(members: Any, options: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Ensemble(members, **options)

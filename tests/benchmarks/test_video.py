"""Everything in the video benchmarks that can be tested quickly: all but the times."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="needs PyAV (pip install 'resharp[video]')")

from benchmarks import video
from resharp.video.clip import probe
from resharp.video.encoding import choose_encoder


def test_all_ways_give_the_same_frames(tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (9, 16, 3)).astype(np.uint8)
    path = video._clip(video.Place(photo, tmp_path, 1, ""), 4, 64, 36, shown=2)
    assert video._times(path) == [Fraction(n, video.RATE) for n in range(4)]
    clip, config = probe(path), video.Nearest()
    encoder = choose_encoder(clip, video.OPTIONS, 256, 144, 1)
    target, other = tmp_path / "target.mp4", tmp_path / "other.mp4"
    made: Any = video._whole(path, target, config)  # type: ignore[arg-type]
    assert made.frames == 4
    video._encode(video._exact(path, clip, encoder), encoder, other)
    for one, two in zip(video._arrays(target), video._arrays(other), strict=True):
        assert one.shape == (144, 256, 3)
        video._assert_alike(one, two)
    with pytest.raises(AssertionError, match="PSNR must be at least"):
        video._assert_alike(one, 255 - two)
    video._encode(video._kept(path, list(video._plain(path))), encoder, other)
    assert video._times(other) == video._times(path)


def test_every_round_begins_with_another() -> None:
    order: list[str] = []
    ways = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    rows = video._paired(ways, lambda: order.append("ours"), 3, Path("none"))
    assert order == ["a", "b", "ours", "b", "ours", "a", "ours", "a", "b"]
    assert [row[:2] for row in rows] == [(name, n) for name in "ab" for n in range(3)]

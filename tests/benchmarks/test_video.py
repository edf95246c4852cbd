"""What of the video benchmarks can be tested in a moment: everything but the times."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("av", reason="needs PyAV (pip install 'resharp[video]')")

from benchmarks import video, video_color
from resharp.video.clip import probe
from resharp.video.color import FULL, LIMITED, Color
from resharp.video.encoding import choose_encoder


@pytest.mark.parametrize("matrix", list(video_color.MATRICES))
@pytest.mark.parametrize("span", [LIMITED, FULL])
@pytest.mark.parametrize("depth", [8, 10])
def test_the_formulas_are_inverse(matrix: int, span: int, depth: int) -> None:
    colors = np.random.default_rng(3).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    planes = video_color.to_yuv(colors, Color(span, matrix), depth, rounded=False)
    back = video_color.to_bgr(planes, Color(span, matrix), depth)
    np.testing.assert_allclose(back, colors, atol=1e-9)
    white = video_color.to_yuv(np.full((1, 1, 3), 255, np.uint8), Color(span, matrix), depth)
    top = {LIMITED: 235 << (depth - 8), FULL: (1 << depth) - 1}
    assert white[0, 0, 0] == top[span]


def test_colours_are_measured(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = CliRunner().invoke(video_color.main, ["--patches", "64", "--json", str(out)])
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert len(found["rows"]) == 2 * 3 * 2 * 3
    assert found["summary"]["default flags, largest error"] > 1.5


def test_all_ways_give_the_same_frames(tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (9, 16, 3)).astype(np.uint8)
    path = video._clip(video.Place(photo, tmp_path, 1, ""), 4, 64, 36, shown=2)
    assert video._times(path) == [Fraction(n, video.RATE) for n in range(4)]
    clip, recipe = probe(path), video.Nearest()
    encoder = choose_encoder(clip, video.OPTIONS, 256, 144, 1)
    target, other = tmp_path / "target.mp4", tmp_path / "other.mp4"
    made: Any = video._whole(path, target, recipe)  # type: ignore[arg-type]
    assert made.frames == 4
    video._encode(video._exact(path, clip, encoder), encoder, other)
    for one, two in zip(video._arrays(target), video._arrays(other), strict=True):
        assert one.shape == (144, 256, 3)
        video._assert_alike(one, two)
    with pytest.raises(AssertionError, match="differ"):
        video._assert_alike(one, 255 - two)
    video._encode(video._kept(path, list(video._plain(path))), encoder, other)
    assert video._times(other) == video._times(path)


def test_every_round_begins_with_another() -> None:
    order: list[str] = []
    ways = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    rows = video._paired(ways, lambda: order.append("ours"), 3, Path("none"))
    assert order == ["a", "b", "ours", "b", "ours", "a", "ours", "a", "b"]
    assert [row[:2] for row in rows] == [(name, n) for name in "ab" for n in range(3)]

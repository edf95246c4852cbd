"""Bounded work in videos: the size of frames, memory, and results that no format can hold."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resharp.errors import OptionError, OutputError, VideoError
from resharp.video import VideoOptions, render
from resharp.video import source as reading
from resharp.video.render import Renderer
from resharp.video.sequence import probe_any
from tests.images.claims import claiming
from tests.images.test_samples import encoded, photo
from tests.video.animations import restore_scaled
from tests.video.kit import HEIGHT, WIDTH, Spec, make

PIXELS = WIDTH * HEIGHT


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_frames_have_at_most_so_many_pixels(tmp_path: Path, name: str) -> None:
    path = make(tmp_path / name, Spec(frames=2))
    assert probe_any(path, VideoOptions(max_pixels=PIXELS)).width == WIDTH
    with pytest.raises(VideoError, match=f"`max_pixels`( to {PIXELS})?"):
        probe_any(path, VideoOptions(max_pixels=PIXELS - 1))


def test_the_decoder_has_the_limit_too(tmp_path: Path) -> None:
    """Where frames become larger, only it can know before they are decoded."""
    clip = probe_any(make(tmp_path / "a.mp4", Spec(frames=2)), VideoOptions(max_pixels=PIXELS))
    assert len(list(reading.pictures(clip))) == 2
    small = replace(clip, max_pixels=PIXELS - 1)
    assert list(reading.pictures(small, warn=lambda text: None)) == []


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".jpg", ".bmp", ".tif"])
def test_images_are_refused_by_their_header(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(claiming(encoded(suffix, photo(24, 32)), 16_000, 16_000))
    monkeypatch.setattr(cv2, "imdecode", None)
    monkeypatch.setattr("resharp.video.sequence.probe_animation", None)
    with pytest.raises(VideoError, match="16000 x 16000 pixels"):
        probe_any(path, VideoOptions(max_pixels=10_000_000))


def test_the_limit_of_numbered_images(tmp_path: Path) -> None:
    for number, height in enumerate((20, 21)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((height, 10, 3), np.uint8))
    clip = probe_any(tmp_path / "%d.png", VideoOptions(max_pixels=200))
    with pytest.raises(VideoError, match=r"1\.png has 10 x 21 pixels, over the limit of 200\."):
        list(reading.pictures(clip))


def test_the_option_is_checked_and_decides_no_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (0, True):
        with pytest.raises(OptionError, match="`max_pixels` must be a positive integer"):
            VideoOptions(max_pixels=value)
    assert VideoOptions(max_pixels=9).deciding() == VideoOptions().deciding()
    monkeypatch.setenv("RESHARP_MAX_PIXELS", "0")
    with pytest.raises(OptionError, match="RESHARP_MAX_PIXELS must be a positive integer"):
        VideoOptions()


@pytest.mark.parametrize("target", ["out/%d.webp", "out.webp", "out/%d.avif"])
def test_results_that_no_file_can_hold_are_refused_before_the_work(
    tmp_path: Path, target: str
) -> None:
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((2, 8300, 3), np.uint8))
    with pytest.raises(OutputError, match=r"holds at most \d+ (pixels per|a) side"):
        restore_scaled(tmp_path / "%d.png", tmp_path / target, 4)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("out*"))


def test_frames_in_flight_are_inside_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = most = 0
    restore, finish = Renderer._restore, Renderer._finish

    def begin(self: Renderer, call: Any, group: Any) -> Any:
        nonlocal alive, most
        alive += len(group.items)
        most = max(most, alive)
        return restore(self, call, group)

    def end(self: Renderer, *args: Any) -> None:
        nonlocal alive
        time.sleep(0.01)
        alive -= alive > 0
        finish(self, *args)

    monkeypatch.setattr(Renderer, "_restore", begin)
    monkeypatch.setattr(Renderer, "_finish", end)
    frame = PIXELS * 3 * (1 + 2**2)
    monkeypatch.setattr(render, "available_memory", lambda: render.MEMORY_SHARE * (2 * frame + 1))
    source = make(tmp_path / "a.mkv", Spec(frames=9))
    assert restore_scaled(source, tmp_path / "out.mkv", 2).frames == 9
    assert most == 2

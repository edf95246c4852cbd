"""Video and folders on an NVIDIA GPU: ``python -m pytest -m gpu`` on a machine that has one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from resharp import RestoreConfig, VideoOptions, restore_folder
from resharp.images import read
from resharp.video.run import render_video
from tests.video.kit import Spec, av, draw, make, parts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU"),
]
ON_GPU = RestoreConfig(device="cuda")
ON_CPU = RestoreConfig(device="cpu")
OPTIONS = VideoOptions(segment=10)


def _frames(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray().tobytes() for frame in container.decode(video=0)]


@pytest.mark.parametrize("depth", [8, 10])
def test_a_video_on_a_gpu_is_that_of_the_cpu(tmp_path: Path, depth: int) -> None:
    codec = "libx264" if depth == 8 else "libx265"
    spec = Spec(frames=24, depth=depth, codec=codec, sound=("aac",), options={"crf": "8"})
    clip = make(tmp_path / "in.mp4", spec)
    fast = render_video(clip, tmp_path / "gpu.mp4", ON_GPU, options=OPTIONS)
    slow = render_video(clip, tmp_path / "cpu.mp4", ON_CPU, options=OPTIONS)
    assert "cuda" in fast.description
    before, made, wanted = parts(clip), parts(fast.target), parts(slow.target)
    assert made.numbers == list(range(24))
    assert made.times == before.times
    assert made.packets == before.packets
    unit = 4 if depth == 10 else 1
    for index in range(24):
        assert np.abs(made.patches(index) - wanted.patches(index)).max() <= 2 * unit


def test_an_interrupted_video_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    clip = make(tmp_path / "in.mp4", Spec(frames=80))
    whole = render_video(clip, tmp_path / "whole.mp4", ON_GPU, options=OPTIONS)

    class StopError(Exception):
        pass

    def stop(done: float, total: float) -> None:
        if done >= 25:
            raise StopError

    target = tmp_path / "out.mp4"
    try:
        render_video(clip, target, ON_GPU, options=OPTIONS, progress=stop)
    except StopError:
        assert render_video(clip, target, ON_GPU, options=OPTIONS).resumed_at >= 10
    assert _frames(target) == _frames(whole.target)


def test_gpus_by_number_and_a_folder_of_small_pictures(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(40):
        assert cv2.imwrite(str(tmp_path / "in" / f"{number:02d}.png"), draw(number))
    report = restore_folder(tmp_path / "in", tmp_path / "out", device="cuda:0")
    assert report.upscaler is not None
    assert report.upscaler.device == "cuda:0"
    restore_folder(tmp_path / "in", tmp_path / "cpu", config=ON_CPU)
    for path in sorted((tmp_path / "cpu").glob("*.png")):
        made = read(tmp_path / "out" / path.name).pixels.astype(int)
        assert np.abs(made - read(path).pixels).mean() < 1

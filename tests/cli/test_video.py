"""``resharp video`` as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from resharp.cli.video import waiting
from resharp.engines import Bundle
from resharp.pipeline.staged_pipeline import StageReport
from resharp.video import VideoOptions, VideoReport
from tests.cli.commands import call
from tests.video.kit import Spec, make, parts


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make(tmp_path / "in.mp4", Spec(frames=12, sound=("aac",)))


def test_a_video_from_one_command(clip: Path, compact: Bundle) -> None:
    code, said = call("video", "in.mp4", "-o", "out.mp4", "-m", str(compact.folder))
    assert code == 0, said
    assert "12 frames, compact with onnx on cpu, " in said
    assert "out.mp4 (256x192)" in said
    assert parts(Path("out.mp4")).times == [Fraction(n, 24) for n in range(12)]
    code, said = call("video", "in.mp4", "-o", "out.mp4", "-m", str(compact.folder))
    assert code == 0
    assert "1 skipped" in said
    assert "note:" not in said
    other = ("video", "in.mp4", "-o", "out.mp4", "-m", str(compact.folder), "--scale", "3")
    code, said = call(*other)
    assert code == 0
    assert "made from a different input, model or options: pass --overwrite to redo it" in said
    code, said = call(*other, "--overwrite")
    assert code == 0, said
    assert "(384x288)" in said


def test_lines_of_json(clip: Path, compact: Bundle) -> None:
    model = ("-m", str(compact.folder))
    code, said = call("video", "in.mp4", "-o", "out.webm", *model, "--json", "--codec", "h264")
    assert code == 0
    events = [json.loads(line) for line in said.splitlines()]
    assert events[0]["event"] == "note"
    assert "out.mp4" in events[0]["text"]
    last = events[-1]
    assert last["event"] == "done"
    assert last["output"].endswith("out.mp4")
    assert (last["frames"], last["restored"], last["repeated"]) == (12, 12, 0)
    assert (last["width"], last["height"]) == (256, 192)
    assert set(last["waiting"]) == {"read", "restore", "convert", "write", "finish"}
    code, said = call("video", "nothing.mp4", "-o", "b.mp4", *model, "--json")
    assert code == 1
    told = json.loads(said.splitlines()[0])
    assert (told["event"], told["kind"]) == ("failed", "VideoError")
    assert said.splitlines()[-2].startswith("Error: there is no file nothing.mp4")


def test_options_reach_the_run(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def fake(source: str, target: str, **given: Any) -> VideoReport:
        seen.update(given, source=source, target=target)
        return VideoReport(
            target=Path(target), frames=1, restored=1, repeated=0, resumed_at=0, width=1, height=1,
            seconds=1.0,
        )  # fmt: skip

    monkeypatch.setattr("resharp.cli.video.restore_video", fake)
    command = """video in.mp4 -o out.mkv -m realesr-animevideov3 --scale 2 --fps 24000/1001
        --codec hevc --crf 19 --preset slow --pixel-format yuv444p
        --stream 1 --start 1:02.5 --end 01:00:00 --skip-duplicates
        --segment 60 --device cuda:0,1 --workers 2 --face codeformer --fidelity 0.7 --overwrite"""
    code, said = call(*command.split())
    assert code == 0, said
    names = [one.name for one in fields(VideoOptions)]
    assert VideoOptions(**{name: seen[name] for name in names}) == VideoOptions(
        codec="hevc",
        crf=19,
        preset="slow",
        pixel_format="yuv444p",
        stream=1,
        fps=Fraction(24000, 1001),
        start=Fraction(125, 2),
        end=Fraction(3600),
        segment=60,
        skip_duplicates=1.0,
    )
    config = seen["config"]
    assert (config.model, config.scale) == ("realesr-animevideov3", 2)
    assert (config.face, config.fidelity) == ("codeformer", 0.7)
    assert (config.device, seen["workers"], seen["overwrite"]) == ("cuda:0,1", 2, True)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--fps", "often"), 2, "not a number such as 24"),
        (("--fps", "1/0"), 2, "not a number such as 24"),
        (("--start", "noon"), 2, "not a time such as"),
        (("--end", "1/0"), 2, "not a time such as"),
        (("--start", "2", "--end", "1"), 1, "--end after it, got 2 and 1"),
        (("--codec", "vp8"), 2, "is not one of"),
        (("--stream", "-1"), 2, "is not in the range"),
        (("--stream", "3"), 1, "--stream must be a video stream of in.mp4"),
        (("--pixel-format", "rgb565"), 1, "--pixel-format must be one of libx264's (yuv420p,"),
        (("--codec", "ffv1", "--crf", "3"), 1, "lossless: leave out --crf"),
        (("--device", "cuda:1,1"), 1, "each once"),
        (("--backend", "trt"), 2, "is not one of"),
        (("--fidelity", "0.5"), 1, "--fidelity requires a face network, e.g. --face=gfpgan-v1.4"),
        (("--start", "7"), 1, "no frames between --start and --end"),
    ],
)
def test_what_makes_no_sense(clip: Path, options: tuple[str, ...], code: int, message: str) -> None:
    got, said = call("video", "in.mp4", "-o", "out.mp4", *options)
    assert got == code
    assert message in said
    assert not list(Path().glob("out*"))


def test_waiting_is_a_share_of_each_threads_time() -> None:
    stages = (
        StageReport("read", 1, 5, busy=1.0, starved=0.0, blocked=3.0),
        StageReport("restore", 2, 5, busy=7.0, starved=0.5, blocked=0.5),
    )
    assert waiting(stages, 4.0) == {"read": 0.75, "restore": 0.125}


@pytest.mark.slow
def test_a_wrong_variable_is_an_error_of_the_run_and_not_of_its_help(
    clip: Path, compact: Bundle
) -> None:
    command = [sys.executable, "-m", "resharp", "video"]
    wrong = {**os.environ, "RESHARP_MAX_PIXELS": "many"}
    done = subprocess.run([*command, "--help"], env=wrong, capture_output=True, check=False)
    assert done.returncode == 0
    made = [*command, "in.mp4", "-o", "out.mp4", "-m", str(compact.folder)]
    done = subprocess.run(made, env=wrong, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"RESHARP_MAX_PIXELS must be a positive integer, got 'many'" in done.stderr
    assert b"Traceback" not in done.stderr

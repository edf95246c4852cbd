"""The environment of OpenCV is checked before OpenCV can end the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from resharp.errors import OptionError
from resharp.opencv import check_environment, image_limits

PIXELS = "OPENCV_IO_MAX_IMAGE_PIXELS"


def resharp(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "resharp", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("value", ["abc", "", "-1", "1e9", " 5", "5GB", "9" * 30, "\u0665"])
@pytest.mark.parametrize(
    "name", [PIXELS, "OPENCV_IMGCODECS_WEBP_MAX_FILE_SIZE", "OPENCV_TRACE_DEPTH_OPENCV"]
)
def test_a_number_that_opencv_cannot_parse_is_an_error(name: str, value: str) -> None:
    with pytest.raises(OptionError, match=f"environment variable {name} must be a whole number"):
        check_environment({name: value})


@pytest.mark.parametrize("value", ["yes", "", "2", "on"])
def test_a_switch_that_opencv_cannot_parse_is_an_error(value: str) -> None:
    with pytest.raises(OptionError, match="OPENCV_DUMP_CONFIG must be 0, 1, true or false"):
        check_environment({"OPENCV_DUMP_CONFIG": value})


@pytest.mark.parametrize("value", ["100000", "5MB"])
def test_so_many_threads_that_opencv_hangs_are_an_error(value: str) -> None:
    with pytest.raises(OptionError, match=f"must be a whole number up to 1024, got '{value}'"):
        check_environment({"OPENCV_FOR_THREADS_NUM": value})


def test_valid_values_pass() -> None:
    check_environment({PIXELS: "4000MB", "OPENCV_IO_MAX_IMAGE_WIDTH": "1048576"})
    check_environment({"OPENCV_DUMP_ERRORS": "True", "OPENCV_FOR_THREADS_NUM": "2"})
    check_environment({"OPENCV_LOG_LEVEL": "anything", "OPENCV_OF_TOMORROW": ""})


def test_the_limits_of_images_are_those_of_the_environment() -> None:
    assert image_limits({})[PIXELS] == 1 << 30
    found = image_limits({PIXELS: "2048MB", "OPENCV_IO_MAX_IMAGE_WIDTH": "3kb"})
    assert [*found.values()] == [1 << 31, 3072, 1 << 20]


def test_the_message_is_short() -> None:
    with pytest.raises(OptionError) as found:
        check_environment({PIXELS: "x" * 10_000})
    assert len(str(found.value)) < 250


@pytest.mark.slow
@pytest.mark.parametrize("command", [("upscale", "x.png"), ("video", "x.mp4", "-o", "y.mp4")])
def test_the_command_line_ends_with_one_line(command: tuple[str, ...]) -> None:
    done = resharp(*command, **{PIXELS: "abc"})
    assert done.returncode == 1
    first, *rest = done.stderr.splitlines()
    assert first == (
        f"Error: the environment variable {PIXELS} must be a whole number, optionally with KB or "
        "MB, got 'abc': correct or unset it"
    )
    assert len(rest) == 1
    assert rest[0].startswith("See ")


@pytest.mark.slow
def test_help_needs_no_opencv() -> None:
    done = resharp("--help", **{PIXELS: "abc"})
    assert done.returncode == 0
    assert "upscale" in done.stdout
    assert not done.stderr


def test_an_opencv_that_cannot_be_loaded_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open')")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    done = resharp("upscale", "a.png", "-o", "out", PYTHONPATH=paths)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "Error: resharp needs the package opencv-python-headless, which cannot be imported "
        "(libGL.so.1: cannot open): reinstall it with pip"
    )
    assert "Traceback" not in done.stderr

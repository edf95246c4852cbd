"""Functions to import PyAV on first use, and to open files with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resharp.errors import VideoError
from resharp.optional import require

if TYPE_CHECKING:
    from av.container.input import InputContainer

UNTIMED = {"default_fps": "10"}
"""Demuxer option: show APNG frames without a delay for 100 ms, as browsers do, and FFmpeg does for
GIF."""


def pyav() -> Any:
    """Return the module ``av``.

    Raises:
        MissingExtraError: PyAV is not installed.
    """
    return require("av", feature="Video", extra="video")


def open_file(path: str, mode: str, **options: Any) -> Any:
    """Open a file with PyAV, tolerating tags that are not UTF-8, which are old and harmless.

    PyAV has an option for this up to version 18, and always does it from 19 on.
    """
    if int(pyav().__version__.partition(".")[0]) < 19:
        options["metadata_errors"] = "replace"
    return pyav().open(path, mode, **options)


@contextmanager
def open_video(
    path: str | os.PathLike[str], max_pixels: int | None = None
) -> Iterator[InputContainer]:
    """Open a video file for reading.

    Args:
        path: the file.
        max_pixels: most pixels that a frame may have; None for no limit. FFmpeg decodes frames to
            learn their format, so its decoders get the limit too.

    Raises:
        VideoError: the file cannot be opened; the message says why.
    """
    av = pyav()
    if not os.path.exists(path):
        raise VideoError(f"there is no file {path}")
    if Path(path).stat().st_size == 0:
        raise VideoError(f"{path} is empty")
    try:
        container = open_file(os.fspath(path), "r", options=UNTIMED | limiting(max_pixels))
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(
            f"{path} cannot be read as a video: {reason(error)}. If copying or recording it was "
            "interrupted, its index is missing: copy it again, or repair it first."
        ) from error
    with container:
        yield container


def limiting(max_pixels: int | None) -> dict[str, str]:
    """Return the decoder options of FFmpeg for a limit; empty without a limit."""
    return {} if max_pixels is None else {"max_pixels": str(min(max_pixels, 2**31 - 1))}


def reason(error: BaseException) -> str:
    """Return FFmpeg's error message in one line."""
    return str(getattr(error, "strerror", None) or str(error) or type(error).__name__)

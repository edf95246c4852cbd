"""PyAV: imported when video is wanted, and how files are opened with it."""

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


def pyav() -> Any:
    """The module ``av``.

    Raises:
        MissingExtraError: it is not installed.
    """
    return require("av", feature="Video", extra="video")


def open_file(path: str, mode: str, **options: Any) -> Any:
    """``av.open``, that does not mind tags that are not UTF-8: they are old and harmless.

    PyAV has an option for it up to 18, and does so of itself from 19 on.
    """
    if int(pyav().__version__.partition(".")[0]) < 19:
        options["metadata_errors"] = "replace"
    return pyav().open(path, mode, **options)


@contextmanager
def open_video(path: str | os.PathLike[str]) -> Iterator[InputContainer]:
    """A video file, for reading.

    Raises:
        VideoError: it cannot be opened; the message says why.
    """
    av = pyav()
    if not os.path.exists(path):
        raise VideoError(f"there is no file {path}")
    if Path(path).stat().st_size == 0:
        raise VideoError(f"{path} is empty")
    try:
        container = open_file(os.fspath(path), "r")
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(
            f"{path} cannot be read as a video: {reason(error)}. If it was cut off while it was "
            "copied or recorded, its index is missing: fetch it again, or repair it first"
        ) from error
    with container:
        yield container


def reason(error: BaseException) -> str:
    """What libav said, in one line."""
    return str(getattr(error, "strerror", None) or str(error) or type(error).__name__)

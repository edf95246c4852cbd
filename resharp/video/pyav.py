"""PyAV, imported when video is wanted."""

from __future__ import annotations

from typing import Any

from resharp.optional import require


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


def reason(error: BaseException) -> str:
    """What libav said, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text)

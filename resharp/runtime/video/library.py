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


def reason(error: BaseException) -> str:
    """What libav said, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text)

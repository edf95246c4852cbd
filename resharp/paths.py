"""Paths that were given, and the folders of checkpoints and bundles, by default in the cache."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from resharp.checks import shown
from resharp.errors import OptionError
from resharp.optional import require

HOME = "RESHARP_HOME"
"""Environment variable with the folder in which resharp stores everything."""


LONGEST = 32_767 if os.name == "nt" else 4096
"""Characters of a path, beyond which no system has a file."""


def check_length(text: str, name: str) -> None:
    """Refuse a path that is too long for any file, and for messages that quote paths.

    Raises:
        OptionError: it is.
    """
    if len(text) > LONGEST:
        raise OptionError(
            f"{name} must be a path of at most {LONGEST} characters, got {shown(text)}"
        )


def home() -> Path:
    """Return ``$RESHARP_HOME``, or else the user's cache folder for resharp; it may not exist yet.

    Raises:
        OptionError: the variable is not a valid path.
    """
    chosen = os.environ.get(HOME)
    if chosen:
        return as_path(chosen, HOME)
    platformdirs = require("platformdirs", feature="The default cache folder", extra="")
    return Path(platformdirs.user_cache_dir("resharp", appauthor=False))


def weights_folder(chosen: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of checkpoints: ``chosen``, or else ``weights`` in :func:`home`.

    Raises:
        OptionError: ``chosen``, or the environment variable, is not a valid path.
    """
    return home() / "weights" if chosen in (None, "") else as_path(chosen, "`weights_dir`")


def store_folder(chosen: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of bundles: ``chosen``, or else ``store`` in :func:`home`.

    Raises:
        OptionError: ``chosen``, or the environment variable, is not a valid path.
    """
    return home() / "store" if chosen in (None, "") else as_path(chosen, "`store`")


def as_path(chosen: object, name: str, what: str = "a folder") -> Path:
    """Return a path with ``~`` expanded; it need not exist.

    Args:
        chosen: the path that was passed, of any type.
        name: how the message refers to it.
        what: what it should be, for the message.

    Raises:
        OptionError: it is not a path, or is invalid on every file system.
    """
    text = path_text(chosen, name, what)
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~name of an unknown user
        raise OptionError(f"{name} must be {what}, got {text!r}: {error}") from error


def path_text(path: object, name: str, what: str = "a path") -> str:
    """Return a path as text.

    Args:
        path: what was given, of any type.
        name: what the message calls it.
        what: what it should be, for the message.

    Raises:
        OptionError: it is no path, has a NUL character, or is empty, which would mean the current
            folder.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        raise OptionError(f"{name} must be {what}, got {shown(path)}")
    check_length(text, name)
    if "\0" in text:
        raise OptionError(
            f"{name} must be {what}, got {shown(text)}, which contains a NUL character"
        )
    if not text:
        raise OptionError(
            f"{name} is empty, perhaps because of an unset variable. Name a file or a folder "
            "(. is the current one)"
        )
    return text


def expanded(text: str) -> Path:
    """Return a path with ``~`` and ``~user`` replaced, unless there is no such user."""
    path = Path(text)
    with contextlib.suppress(RuntimeError):
        return path.expanduser()
    return path

"""Folders of checkpoints and bundles; by default inside the user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from resharp.errors import OptionError
from resharp.optional import require

HOME = "RESHARP_HOME"
"""Environment variable with the folder in which resharp stores everything."""


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
    text = os.fspath(chosen) if isinstance(chosen, str | os.PathLike) else None
    if not isinstance(text, str):
        raise OptionError(f"{name} must be {what}, got {chosen!r}")
    if "\0" in text:
        raise OptionError(f"{name} must be {what}, got {text!r}, which contains a null character")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~name of an unknown user
        raise OptionError(f"{name} must be {what}, got {text!r}: {error}") from error

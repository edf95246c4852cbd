"""Folders of checkpoints and bundles; by default inside the user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from resharp.optional import require


def home() -> Path:
    """Return ``$RESHARP_HOME``, or else the cache folder for resharp (it may not exist yet)."""
    chosen = os.environ.get("RESHARP_HOME")
    if chosen:
        return Path(chosen).expanduser()
    platformdirs = require("platformdirs", feature="The default cache folder", extra="")
    return Path(platformdirs.user_cache_dir("resharp", appauthor=False))


def weights_folder(chosen: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of checkpoints: ``chosen``, or else ``weights`` in :func:`home`."""
    return Path(chosen).expanduser() if chosen else home() / "weights"


def store_folder(chosen: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of bundles: ``chosen``, or else ``store`` in :func:`home`."""
    return Path(chosen).expanduser() if chosen else home() / "store"

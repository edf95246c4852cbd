"""Where checkpoints and bundles live: the user's cache folder, or where the user says."""

from __future__ import annotations

import os
from pathlib import Path

from resharp.optional import require


def home() -> Path:
    """``$RESHARP_HOME``, else the platform's cache folder for resharp (it need not exist yet)."""
    chosen = os.environ.get("RESHARP_HOME")
    if chosen:
        return Path(chosen).expanduser()
    platformdirs = require("platformdirs", feature="The default cache folder", extra="")
    return Path(platformdirs.user_cache_dir("resharp", appauthor=False))


def weights_folder(chosen: str | os.PathLike[str] | None = None) -> Path:
    """Folder of checkpoints: ``chosen``, else ``weights`` in :func:`home`."""
    return Path(chosen).expanduser() if chosen else home() / "weights"


def store_folder(chosen: str | os.PathLike[str] | None = None) -> Path:
    """Folder of bundles: ``chosen``, else ``engines`` in :func:`home`."""
    return Path(chosen).expanduser() if chosen else home() / "store"

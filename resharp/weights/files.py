"""The folder of weights: files that appear whole or not at all, one writer at a time.

A file is written as ``.incoming/<key>.part`` under the lock ``.incoming/<key>.lock`` and then
renamed. The lock goes with its process, so a ``.part`` whose lock is free is what a killed process
left behind.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from resharp.errors import OutputError, ResharpError
from resharp.fsutil import PART, locked

INCOMING = ".incoming"

logger = logging.getLogger(__name__)


@contextmanager
def writing(folder: Path, key: str) -> Iterator[Path]:
    """Hold the lock of ``key`` in ``folder``, waiting for it if need be.

    Yields the path to write to, on the file system of ``folder``; what is left there is removed.

    Raises:
        OutputError: the folder cannot be written to, here or in the block.
    """
    part = folder / INCOMING / f"{key}{PART}"

    def tell() -> None:
        logger.info("waiting for another process that writes %s", key)

    try:
        sweep(folder)
        with locked(part.with_suffix(".lock"), on_wait=tell):
            try:
                yield part
            finally:
                with suppress(OSError):
                    part.unlink(missing_ok=True)
    except ResharpError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write to the folder of weights {folder}: {error.strerror or error}; free some "
            "space, or choose another folder with --weights or RESHARP_HOME"
        ) from error


def sweep(folder: Path) -> None:
    """Remove what killed processes left in ``folder``; what cannot be removed stays."""
    for part in (folder / INCOMING).glob(f"*{PART}"):
        # LockTimeoutError is one of the OSErrors: its owner is alive.
        with suppress(OSError), locked(part.with_suffix(".lock"), timeout=0):
            part.unlink(missing_ok=True)
            logger.info("removed %s, left by an interrupted run", part)

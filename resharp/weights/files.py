"""Atomic writes to the weights folder, with one writer at a time.

A file is written as ``.incoming/<key>.part`` under the lock ``.incoming/<key>.lock`` and then
renamed. A lock ends with its process, so a ``.part`` whose lock is free was left by a killed
process.
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
    """Hold the lock of ``key`` in ``folder``, waiting for it if necessary.

    Yields the path to write to, on the file system of ``folder``; a file left there is removed.

    Raises:
        OutputError: the folder cannot be written to, here or in the block.
    """
    part = folder / INCOMING / f"{key}{PART}"

    def tell() -> None:
        logger.info("waiting for another process that is writing %s", key)

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
            f"cannot write to the weights folder {folder}: {error.strerror or error}; free some "
            "space, or choose another folder with `weights_dir` or RESHARP_HOME"
        ) from error


def sweep(folder: Path) -> None:
    """Remove files that killed processes left in ``folder``, as far as possible."""
    parts: list[Path] = []
    with suppress(OSError):  # no permission, for example
        parts += (folder / INCOMING).glob(f"*{PART}")
    for part in parts:
        # LockTimeoutError, an OSError, means that the owner is alive.
        with suppress(OSError), locked(part.with_suffix(".lock"), timeout=0):
            part.unlink(missing_ok=True)
            logger.info("removed %s, left by an interrupted run", part)

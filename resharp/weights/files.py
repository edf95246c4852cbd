"""Files that appear whole or not at all, one writer at a time.

A file is written as ``.incoming/<key>.part`` under the lock ``.incoming/<key>.lock`` and then
renamed. The lock goes with its process, so a ``.part`` whose lock is free is what a killed process
left behind. Lock files stay: to delete one while another process waits for it would let two in.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from resharp.errors import OutputError
from resharp.optional import require

INCOMING = ".incoming"
CHUNK = 1 << 20

logger = logging.getLogger(__name__)


def digest(path: Path) -> str:
    """SHA-256 of a file, as 64 hex digits."""
    state = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            state.update(chunk)
    return state.hexdigest()


@contextmanager
def writing(folder: Path, key: str) -> Iterator[Path]:
    """Hold the lock of ``key`` in ``folder``, waiting for it if need be.

    Yields the path to write to, on the file system of ``folder``; what is left there is removed.

    Raises:
        OutputError: the folder cannot be written to.
    """
    incoming = folder / INCOMING
    try:
        incoming.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        lock = _acquire(incoming, key)
    except OSError as error:
        raise unwritable(folder, error) from error
    part = incoming / f"{key}.part"
    try:
        yield part
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        lock.release()


def commit(part: Path, path: Path) -> None:
    """Give ``part`` its final name, once its bytes are on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without this, a power cut may leave the name in place and the bytes missing.
    with part.open("rb+") as stream:
        os.fsync(stream.fileno())
    part.replace(path)


def sweep(folder: Path) -> None:
    """Remove what killed processes left in ``folder``; what cannot be removed stays."""
    for part in (folder / INCOMING).glob("*.part"):
        lock = _lock(folder / INCOMING, part.stem)
        with suppress(OSError):  # filelock's Timeout is one: its owner is alive
            lock.acquire(timeout=0)
            try:
                part.unlink(missing_ok=True)
                logger.info("removed %s, left by an interrupted run", part)
            finally:
                lock.release()


def unwritable(folder: Path, error: OSError) -> OutputError:
    """The error for a full disk, a missing permission and the like."""
    reason = error.strerror or str(error)
    return OutputError(
        f"cannot write to the folder of weights {folder}: {reason}; free some space, or choose "
        "another folder with --weights or RESHARP_HOME"
    )


def _lock(incoming: Path, key: str) -> Any:
    filelock = require("filelock", feature="Writing weights", extra="")
    return filelock.FileLock(str(incoming / f"{key}.lock"))


def _acquire(incoming: Path, key: str) -> Any:
    lock = _lock(incoming, key)
    timeout = require("filelock", feature="Writing weights", extra="").Timeout
    try:
        lock.acquire(timeout=0)
    except timeout:
        logger.info("waiting for another process that writes %s", key)
        lock.acquire()
    return lock

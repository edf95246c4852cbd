"""A file lock per name, so that two writers never collide; the system frees a killed one's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from resharp.errors import OutputError, StoreBusyError
from resharp.optional import require


@contextlib.contextmanager
def locked(
    folder: Path, name: str, timeout: float = -1, on_wait: Callable[[], object] | None = None
) -> Iterator[None]:
    """Hold the lock ``<folder>/.locks/<name>.lock``.

    Args:
        folder: made if need be.
        name: of the lock.
        timeout: seconds to wait for another writer; negative waits for ever.
        on_wait: called once if another process holds the lock.

    Raises:
        StoreBusyError: another process still held the lock after ``timeout``.
        OutputError: the folder cannot be written.
    """
    filelock: Any = require("filelock", feature="Writing to the store", extra="")
    locks = folder / ".locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the store {folder}: {error}") from error
    lock = filelock.FileLock(locks / f"{name}.lock")
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if on_wait is not None:
                on_wait()
            lock.acquire(timeout=timeout)
    except filelock.Timeout as error:
        raise StoreBusyError(
            f"another process is writing {name!r} in {folder}: wait for it, then again"
        ) from error
    except OSError as error:
        raise OutputError(f"cannot lock {name!r} in {folder}: {error}") from error
    try:
        yield
    finally:
        lock.release()

"""Locks on names in the store, so that two writers never collide."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from resharp import fsutil
from resharp.checks import shown
from resharp.errors import OutputError, StoreBusyError


@contextlib.contextmanager
def locked(
    folder: Path, name: str, timeout: float = -1, on_wait: Callable[[], object] | None = None
) -> Iterator[None]:
    """Hold the lock ``<folder>/.locks/<name>.lock``; see :func:`resharp.fsutil.locked`.

    Raises:
        StoreBusyError: another process still held the lock after ``timeout``.
        OutputError: the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot create the store {folder}: {error}") from error
        path = folder / ".locks" / f"{name}.lock"
        try:
            stack.enter_context(fsutil.locked(path, timeout=timeout, on_wait=on_wait))
        except fsutil.LockTimeoutError as error:
            raise StoreBusyError(
                f"another process is writing {shown(name)} in {folder}: wait for it, then try again"
            ) from error
        except OSError as error:
            raise OutputError(f"cannot lock {shown(name)} in {folder}: {error}") from error
        yield

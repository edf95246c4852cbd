"""Waiting for threads, but not forever for one that hangs in a foreign call."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from resharp.errors import BackendError

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds in which no thread ends, after which the remaining ones are given up."""
_TICK = 0.2
_left: list[threading.Thread] = []


def start(thread: threading.Thread) -> None:
    """Start a thread.

    Raises:
        BackendError: the system has no room for another one.
    """
    try:
        thread.start()
    except RuntimeError as error:
        raise BackendError(
            f"{error}: free some memory, or raise the limits on memory and threads of this process"
        ) from error


def join(threads: Sequence[threading.Thread]) -> bool:
    """Wait for daemon threads that have been asked to end.

    A library that never returns to Python cannot be stopped. After :data:`PATIENCE`, its thread is
    left behind with a warning, and ends with the process.

    Returns:
        Whether all have ended.

    Raises:
        KeyboardInterrupt: an interrupt during the wait; the threads are left behind.
    """
    alive = [thread for thread in threads if thread.is_alive()]
    since = time.monotonic()
    try:
        while alive and time.monotonic() - since < PATIENCE:
            alive[0].join(_TICK)
            left = [thread for thread in alive if thread.is_alive()]
            if len(left) < len(alive):
                since = time.monotonic()
            alive = left
    finally:
        _left.extend(alive)
    if alive:
        names = ", ".join(thread.name for thread in alive)
        logger.warning("gave up waiting for the threads %s, which do not end", names)
    return not alive


def left_behind() -> bool:
    """Whether a thread that was given up is still running, so a regular shutdown is not safe."""
    _left[:] = [thread for thread in _left if thread.is_alive()]
    return bool(_left)

"""How tests wait: for a condition, without a bound that a busy machine could reach."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

LIMIT = 600.0
"""Seconds after which a test gives up waiting. It ends a hang, and decides nothing else."""


def until(
    condition: Callable[[], object],
    what: str = "",
    alive: subprocess.Popen[Any] | None = None,
) -> None:
    """Return once ``condition()`` is true.

    Args:
        condition: asked again and again.
        what: it waits for.
        alive: the process that makes it true.

    Raises:
        AssertionError: it was still false after :data:`LIMIT` seconds, or as the process ended.
    """
    end = time.monotonic() + LIMIT
    while not condition():
        ended = alive is not None and alive.poll() is not None
        assert not ended or condition(), f"the process ended before that: {what or condition}"
        assert time.monotonic() < end, f"it never happened: {what or condition}"
        time.sleep(0.005)


class Watched(threading.Condition):
    """A condition that knows who waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = set[str]()
        """Names of the threads."""

    def wait(self, timeout: float | None = None) -> bool:
        """See :meth:`threading.Condition.wait`."""
        name = threading.current_thread().name
        self.waiting.add(name)
        try:
            return super().wait(timeout)
        finally:
            self.waiting.discard(name)


def joined(*threads: threading.Thread) -> None:
    """Wait for threads that end by themselves.

    Raises:
        AssertionError: one was still running after :data:`LIMIT` seconds.
    """
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive(), f"{thread.name} hangs"

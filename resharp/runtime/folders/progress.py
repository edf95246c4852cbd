"""How far a run is, over all pictures in work."""

from __future__ import annotations

import threading
from collections.abc import Callable

from resharp.runtime.folders.work import Work

OnProgress = Callable[[float, int, str], object]
"""Called as (pictures done, pictures in all, name of one in work), from any thread but never from
two at once; parts of a picture count. Raising in it ends the run."""


class Progress:
    """Adds up the done shares of pictures; safe to use from several threads.

    Args:
        callback: is told.
    """

    def __init__(self, callback: OnProgress | None) -> None:
        self._callback, self._total = callback, 0
        self._lock = threading.Lock()
        self._shares: dict[Work, float] = {}
        self._whole = 0

    def expect(self, count: int) -> None:
        """So many more are to be done; negative: fewer."""
        with self._lock:
            self._total += count

    def at(self, work: Work, share: float) -> None:
        """A picture is done so far, from 0 to 1."""
        with self._lock:
            self._shares[work] = share
            self._tell(work)

    def end(self, work: Work) -> None:
        """A picture is through, or given up."""
        with self._lock:
            self._shares.pop(work, None)
            self._whole += 1
            self._tell(work)

    def _tell(self, work: Work) -> None:
        if self._callback is not None:
            done = self._whole + sum(self._shares.values())
            self._callback(done, self._total, work.job.source.name)

"""How runs share a GPU: a few lanes for any number of threads.

A lane is what one run needs of the device (streams, memory, recordings). A run takes one; while it
waits for its copies, the run on another lane computes. Nothing here knows CUDA.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from resharp.runtime.backends.base import open_guard


class Closes(Protocol):
    """What the pool asks of a lane."""

    def close(self) -> None:
        """Free everything."""


LaneT = TypeVar("LaneT", bound=Closes)


class LanePool(Generic[LaneT]):
    """Hands out lanes; who finds none waits.

    Args:
        lanes: idle ones.
        name: of the backend, for the error of a closed pool.
        finish: called once, after the last lane was closed, by whichever thread closed it.
    """

    def __init__(
        self, lanes: Sequence[LaneT], name: str, finish: Callable[[], None] = lambda: None
    ) -> None:
        self._all, self._free = tuple(lanes), list(lanes)
        self._name, self._finish = name, finish
        self._closed, self._left = False, len(lanes)
        self._holders: list[int] = []  # a thread for each lane that is out
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self) -> Iterator[LaneT]:
        """A lane for one run: the one given back last, whose memory and recordings fit best.

        Raises:
            BackendError: the pool is closed, or was while this waited.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._closed)
            open_guard(not self._closed, self._name)
            lane = self._hold(self._free[-1])
        try:
            yield lane
        finally:
            self._give_back(lane)

    @contextlib.contextmanager
    def spare(self) -> Iterator[list[LaneT]]:
        """All idle lanes; may be none."""
        with self._changed:
            lanes = [self._hold(lane) for lane in tuple(self._free)]
        try:
            yield lanes
        finally:
            for lane in lanes:
                self._give_back(lane)

    def each(self) -> Iterator[LaneT]:
        """All lanes in turn, each as soon as it is idle, the caller's while he has it."""
        for lane in self._all:
            with self._changed:
                while not (lane in self._free or self._closed):
                    self._changed.wait()
                open_guard(not self._closed, self._name)
                self._hold(lane)
            try:
                yield lane
            finally:
                self._give_back(lane)

    def close(self) -> None:
        """Let no one in, wait for the lanes that are out, close them all.

        A lane that this thread holds (a progress callback that closes) is closed when it comes
        back; waiting for it would never end.
        """
        me = threading.get_ident()
        with self._changed:
            self._closed = True
            lanes, self._free = self._free, []
            self._changed.notify_all()
        for lane in lanes:
            self._retire(lane)
        with self._changed:
            self._changed.wait_for(lambda: all(holder == me for holder in self._holders))

    def _hold(self, lane: LaneT) -> LaneT:
        self._free.remove(lane)
        self._holders.append(threading.get_ident())
        return lane

    def _give_back(self, lane: LaneT) -> None:
        with self._changed:
            closed = self._closed
            if not closed:
                self._free.append(lane)
        try:
            if closed:
                self._retire(lane)
        finally:
            with self._changed:
                self._holders.remove(threading.get_ident())
                self._changed.notify_all()

    def _retire(self, lane: LaneT) -> None:
        try:
            lane.close()
        finally:
            with self._changed:
                self._left -= 1
                last = self._left == 0
            if last:
                self._finish()

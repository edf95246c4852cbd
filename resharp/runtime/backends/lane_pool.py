"""How runs share a GPU: a few lanes for any number of threads.

A lane is what one run needs of the device (streams, memory, recordings). A run takes one; while it
waits for its copies, the run on another lane computes. Nothing here knows CUDA.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from resharp.errors import BackendError
from resharp.runtime.backends.base import ensure_open


class SupportsClose(Protocol):
    """What the pool asks of a lane."""

    def close(self) -> None:
        """Free everything."""


LaneT = TypeVar("LaneT", bound=SupportsClose)


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
        self._holders: list[tuple[int, LaneT | None]] = []  # a thread for each lane that is out
        self._changed = threading.Condition()

    @property
    def lanes(self) -> tuple[LaneT, ...]:
        """All of them, also those that are out: to look at."""
        return self._all

    @contextlib.contextmanager
    def take(self) -> Iterator[LaneT]:
        """A lane for one run: the one given back last, whose memory and recordings fit best.

        Raises:
            BackendError: the pool is closed, or was while this waited; or this thread is in the
                midst of a run (a progress callback that restores) and would wait for itself.
        """
        with self._changed:
            if self._mine() and not (self._free or self._closed):
                raise BackendError(
                    "a progress callback restores a picture while all lanes are in use: restore "
                    "it after the call"
                )
            self._changed.wait_for(lambda: self._free or self._closed)
            ensure_open(not self._closed, self._name)
            lane = self._hold(self._free[-1])
        try:
            yield lane
        finally:
            self._give_back(lane)

    @contextlib.contextmanager
    def pin(self) -> Iterator[None]:
        """Keep the pool from finishing, without a lane.

        Raises:
            BackendError: the pool is closed.
        """
        with self._changed:
            ensure_open(not self._closed, self._name)
            self._left += 1
            self._holders.append((threading.get_ident(), None))
        try:
            yield
        finally:
            self._leave(None)

    @contextlib.contextmanager
    def idle(self) -> Iterator[list[LaneT]]:
        """All idle lanes; may be none."""
        with self._changed:
            lanes = [self._hold(lane) for lane in tuple(self._free)]
        try:
            yield lanes
        finally:
            for lane in lanes:
                self._give_back(lane)

    def all_lanes(self) -> Iterator[LaneT]:
        """All lanes in turn, each as soon as no other thread has it, the caller's while he has it.

        Raises:
            BackendError: the pool was closed.
        """
        for lane in self._all:
            with self._changed:
                mine = lane in self._mine()
                while not (mine or lane in self._free or self._closed):
                    self._changed.wait()
                ensure_open(not self._closed, self._name)
                if not mine:
                    self._hold(lane)
            try:
                yield lane
            finally:
                if not mine:
                    self._give_back(lane)

    def close(self, timeout: float | None = None) -> None:
        """Let no one in, wait for the lanes that are out, close them all.

        A lane that this thread holds (a progress callback that closes) is closed when it comes
        back; waiting for it would never end.

        Args:
            timeout: seconds to wait, for who cannot wait for ever; what is out then comes back to
                a closed pool.
        """
        me = threading.get_ident()
        with self._changed:
            self._closed = True
            lanes, self._free = self._free, []
            self._changed.notify_all()
        with contextlib.ExitStack() as each:  # an error of one keeps no other from being closed
            for lane in lanes:
                each.callback(self._retire, lane)
        with self._changed:
            self._changed.wait_for(
                lambda: all(holder == me for holder, _ in self._holders), timeout
            )

    def _mine(self) -> list[LaneT | None]:
        me = threading.get_ident()
        return [lane for holder, lane in self._holders if holder == me and lane is not None]

    def _hold(self, lane: LaneT) -> LaneT:
        self._free.remove(lane)
        self._holders.append((threading.get_ident(), lane))
        return lane

    def _give_back(self, lane: LaneT) -> None:
        with self._changed:
            closed = self._closed
            if not closed:
                self._free.append(lane)
                self._forget_holder(lane)
        if closed:
            try:
                lane.close()
            finally:
                self._leave(lane)

    def _leave(self, lane: LaneT | None) -> None:
        """One that the pool counts on is gone; the last one after the end finishes."""
        try:
            self._count_down()
        finally:
            with self._changed:
                self._forget_holder(lane)

    def _forget_holder(self, lane: LaneT | None) -> None:
        self._holders.remove((threading.get_ident(), lane))
        self._changed.notify_all()

    def _retire(self, lane: LaneT) -> None:
        try:
            lane.close()
        finally:
            self._count_down()

    def _count_down(self) -> None:
        with self._changed:
            self._left -= 1
            last = self._left == 0
        if last:
            self._finish()

"""Pool of a few lanes through which any number of threads share a GPU.

A lane holds what one run needs on the device (streams, memory, CUDA graphs). While one run waits
for its copies, the run on another lane computes. This module does not depend on CUDA.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from resharp.errors import BackendError
from resharp.runtime.backends.base import ensure_open

logger = logging.getLogger(__name__)

PATIENCE = 600.0
"""Seconds that closing a pool waits for runs that hold its lanes."""


class SupportsClose(Protocol):
    """Interface that the pool requires of a lane."""

    def close(self) -> None:
        """Free all resources."""


LaneT = TypeVar("LaneT", bound=SupportsClose)


class LanePool(Generic[LaneT]):
    """Leases lanes; blocks while none is free.

    Args:
        lanes: the lanes, all idle.
        name: the backend's name, for the error that a closed pool raises.
        finish: called once after the last lane was closed, in the thread that closed it.
    """

    def __init__(
        self, lanes: Sequence[LaneT], name: str, finish: Callable[[], None] = lambda: None
    ) -> None:
        self._all, self._free = tuple(lanes), list(lanes)
        self._name, self._finish = name, finish
        self._closed, self._left = False, len(lanes)
        self._holders: list[tuple[int, LaneT | None]] = []  # thread and lane of each lease
        self._changed = threading.Condition()

    @property
    def lanes(self) -> tuple[LaneT, ...]:
        """All lanes, including leased ones; for inspection only."""
        return self._all

    @contextlib.contextmanager
    def take(self) -> Iterator[LaneT]:
        """Lease a lane for one run: the one returned last, whose memory and graphs fit best.

        Raises:
            BackendError: the pool is closed, or was closed while waiting; or no lane is free and
                this thread holds one (a progress callback that restores), which would deadlock.
        """
        with self._changed:
            if self._mine() and not (self._free or self._closed):
                raise BackendError(
                    "cannot restore an image in a progress callback while all lanes are in use: "
                    "restore it after the call"
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
        """Keep the pool from finishing, without leasing a lane.

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
        """Lease all idle lanes, if any."""
        with self._changed:
            lanes = [self._hold(lane) for lane in tuple(self._free)]
        try:
            yield lanes
        finally:
            for lane in lanes:
                self._give_back(lane)

    def all_lanes(self) -> Iterator[LaneT]:
        """Yield each lane once no other thread holds it; this thread's own lanes at once.

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
        """Stop leasing, wait for leased lanes and close them all.

        A lane that this thread holds (a progress callback that closes) is closed when it is
        returned; waiting for it would deadlock.

        Args:
            timeout: seconds to wait, None for :data:`PATIENCE`; lanes still leased then are closed
                when they are returned.
        """
        me = threading.get_ident()
        with self._changed:
            self._closed = True
            lanes, self._free = self._free, []
            self._changed.notify_all()
        with contextlib.ExitStack() as each:  # an error in one does not keep the others open
            for lane in lanes:
                each.callback(self._retire, lane)
        with self._changed:
            idle = self._changed.wait_for(
                lambda: all(holder == me for holder, _ in self._holders),
                PATIENCE if timeout is None else timeout,
            )
        if not idle:
            logger.warning("gave up waiting for runs of %s, which do not end", self._name)

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
        """Count down for a closed lane or a released pin; the last one finishes the pool."""
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

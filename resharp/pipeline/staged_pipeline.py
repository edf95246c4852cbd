"""A staged pipeline: a source and functions that run in their own threads, with bounded queues.

Folders and video use it: reading and writing overlap with inference, each stage takes its items in
order, and at most ``depth`` of them wait between two stages.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from resharp.errors import BackendError
from resharp.joining import join, start

START_TIMEOUT = 10.0
"""Seconds to wait for a thread whose start was interrupted; it starts in milliseconds or never."""
Call = Callable[[Any], Any]
"""Takes an item and returns the item for the next stage; lists of them in a batched stage."""


class Stopped(BaseException):
    """Raised in a stage to end its work because another one failed; not an error itself."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a pipeline."""

    name: str
    """Name for reports, e.g. ``restore``."""
    calls: Sequence[Call]
    """One function per thread; the threads take the items in order."""
    batch: int = 1
    """Maximum number of items per call; above 1, calls take and return lists."""
    can_batch: Callable[[Any, Any], bool] | None = None
    """Whether two items may share a batch; None: all may."""
    cost: Callable[[Any], int] | None = None
    """Bytes that an item holds from here to the end of the pipeline; for one stage at most."""
    budget: int | None = None
    """Maximum of these bytes for all items in flight; a single item may exceed it alone."""


@dataclass(frozen=True)
class StageReport:
    """Work of a stage so far, with times summed over its threads."""

    name: str
    threads: int = 1
    items: int = 0
    """Number of finished items."""
    busy: float = 0.0
    """Seconds spent working."""
    starved: float = 0.0
    """Seconds spent waiting for the previous stage."""
    blocked: float = 0.0
    """Seconds spent waiting for the next stage or for memory."""


class _Channel:
    """The queue between two stages, by item number; guarded by the pipeline's lock."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.items: dict[int, Any] = {}
        self.first = 0
        self.count: int | None = None

    @property
    def ready(self) -> bool:
        """Whether the next item is available."""
        return self.first in self.items

    @property
    def ended(self) -> bool:
        """Whether all items have been taken and none will follow."""
        return self.count is not None and self.first >= self.count

    def has_room(self, number: int) -> bool:
        """Whether there is room for the item with that number."""
        return number < self.first + self.depth


class Pipeline:
    """Runs items through stages, once.

    Args:
        stages: the steps after the source; return values of the last one are discarded.
        depth: number of items that may wait between two stages; at least a stage's batch size.
        source: name of the source, for reports.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        depth: int = 2,
        source: str = "read",
    ) -> None:
        self._stages = tuple(stages)
        self._channels = [_Channel(max(depth, stage.batch)) for stage in stages]
        self._changed = threading.Condition()
        self._costs: dict[int, int] = {}
        self._error: BaseException | None = None
        self._alive = self._begun = 0
        self._reports = [StageReport(source)] + [
            StageReport(stage.name, len(stage.calls)) for stage in stages
        ]

    def run(
        self,
        source: Iterable[Any],
        progress: Callable[[tuple[StageReport, ...]], object] | None = None,
        interval: float = 0.25,
    ) -> tuple[StageReport, ...]:
        """Run all items of ``source``; no thread is left when this returns or raises.

        The exceptions are an interrupt while it waits for the threads to end, and a thread that
        does not come back from a foreign call: see :func:`resharp.joining.join`.

        Args:
            source: read in its own thread, and closed there if it is a generator.
            progress: called regularly from this thread; raising in it stops the pipeline.
            interval: seconds between two calls of ``progress``.

        Returns:
            A report per stage, the source first.

        Raises:
            BaseException: the first error of the source, a stage or ``progress``, or an interrupt
                of this thread. Items in flight are abandoned.
        """
        threads = [self._thread(0, 0, self._read, source)]
        for index, stage in enumerate(self._stages, start=1):
            threads += [
                self._thread(index, number, self._work, index, call)
                for number, call in enumerate(stage.calls)
            ]
        self._alive, tried = len(threads), 0
        try:
            for thread in threads:
                tried += 1
                try:
                    start(thread)
                except BackendError:  # it does not run
                    tried -= 1
                    raise
            while self._wait(interval):
                if progress is not None:
                    progress(self.report())
        except BaseException as error:
            with suppress(RuntimeError):  # an interrupt may have left the lock held
                while True:
                    self._changed.release()
            self._fail(error)
            # If an interrupt came while a thread was being started, it is unknown whether it runs.
            # Only a running thread can be joined; one that was never created times out.
            with suppress(KeyboardInterrupt), self._changed:
                self._changed.wait_for(lambda: self._begun >= tried, START_TIMEOUT)
        join(threads)
        if self._error is not None:
            raise self._error
        return self.report()

    def check(self) -> None:
        """Raise if the pipeline has stopped; long calls check it regularly.

        Raises:
            Stopped: the pipeline has stopped.
        """
        if self._error is not None:
            raise Stopped

    def pause(self, seconds: float) -> None:
        """Sleep in a source that has to wait, but no longer than the pipeline runs.

        Raises:
            Stopped: the pipeline has stopped.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None, seconds)
        self.check()

    def report(self) -> tuple[StageReport, ...]:
        """Return a report per stage on the work so far, the source first."""
        with self._changed:
            return tuple(self._reports)

    def _thread(self, stage: int, number: int, target: Callable[..., None], *args: Any) -> Any:
        name = f"resharp-{self._reports[stage].name}-{number}"
        return threading.Thread(target=target, args=args, name=name, daemon=True)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Run the work of a thread: an error in one stops all."""
        with self._changed:
            self._begun += 1
            self._changed.notify_all()
        try:
            yield
        except Stopped:
            pass
        except BaseException as error:
            self._fail(error)
        finally:
            with self._changed:
                self._alive -= 1
                self._changed.notify_all()

    def _wait(self, seconds: float) -> bool:
        """Wait up to that time for the end, and return whether the pipeline is still running."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alive or self._error is not None, seconds)
            return self._alive > 0 and self._error is None

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._error is None:
                self._error = error
            self._changed.notify_all()

    def _read(self, source: Iterable[Any]) -> None:
        with self._guarded():
            self.check()
            iterator, number = iter(source), 0
            try:
                while True:
                    began = time.perf_counter()
                    try:
                        item = next(iterator)
                    except StopIteration:
                        break
                    ended = time.perf_counter()
                    self._put(0, number, [item])
                    del item  # free it while waiting for the next one
                    number += 1
                    self._count(0, 1, ended - began, 0.0, time.perf_counter() - ended)
            finally:
                close = getattr(iterator, "close", None)
                if close is not None:
                    close()
            self._end(0, number)

    def _work(self, index: int, call: Call) -> None:
        stage, last = self._stages[index - 1], index == len(self._stages)
        with self._guarded():
            self.check()
            while True:
                began = time.perf_counter()
                number, items, blocked = self._take(index - 1)
                if not items:
                    break
                taken = time.perf_counter()
                results = call(items) if stage.batch > 1 else [call(items[0])]
                done = time.perf_counter()
                if last:
                    self._release(number, len(items))
                else:
                    self._put(index, number, results)
                count = len(items)
                del items, results  # free them while waiting for the next ones
                waited = taken - began - blocked
                blocked += time.perf_counter() - done
                self._count(index, count, done - taken, waited, blocked)
            if not last:  # number is that of the next item, so the count of all
                self._end(index, number)

    def _put(self, channel: int, number: int, items: Sequence[Any]) -> None:
        """Pass items to the next stage, each as soon as there is room for it."""
        target = self._channels[channel]
        with self._changed:
            for place, item in enumerate(items, start=number):
                self._until(partial(target.has_room, place))
                target.items[place] = item
                self._changed.notify_all()

    def _take(self, channel: int) -> tuple[int, list[Any], float]:
        """Return the first number, the next items (none at the end), and the wait for memory."""
        source, stage = self._channels[channel], self._stages[channel]
        with self._changed:
            self._until(lambda: source.ended or source.ready)
            began = time.perf_counter()
            if stage.cost is not None:  # wait, or a later item could take its memory
                self._until(lambda: source.ended or (source.ready and self._fits(source, stage)))
            blocked = time.perf_counter() - began
            number, items = source.first, list[Any]()
            while source.ready and len(items) < stage.batch:
                if items and not self._fits(source, stage, items):
                    break
                item = source.items.pop(source.first)
                if stage.cost is not None:
                    self._costs[source.first] = stage.cost(item)
                source.first += 1
                items.append(item)
            self._changed.notify_all()
            return number, items, blocked

    def _fits(self, source: _Channel, stage: Stage, batch: Sequence[Any] = ()) -> bool:
        """Whether the next item fits into the batch and the budget, which one alone may exceed."""
        item = source.items[source.first]
        if batch and stage.can_batch is not None and not stage.can_batch(batch[0], item):
            return False
        if stage.cost is None or stage.budget is None or not self._costs:
            return True
        return sum(self._costs.values()) + stage.cost(item) <= stage.budget

    def _release(self, number: int, count: int) -> None:
        with self._changed:
            for index in range(number, number + count):
                self._costs.pop(index, None)
            self._changed.notify_all()

    def _until(self, ready: Callable[[], bool]) -> None:
        """Wait for a condition, called with the lock held.

        Raises:
            Stopped: the pipeline has stopped.
        """
        self._changed.wait_for(lambda: self._error is not None or ready())
        if self._error is not None:
            raise Stopped

    def _end(self, channel: int, count: int) -> None:
        with self._changed:
            self._channels[channel].count = count
            self._changed.notify_all()

    def _count(self, stage: int, items: int, busy: float, starved: float, blocked: float) -> None:
        with self._changed:
            old = self._reports[stage]
            self._reports[stage] = replace(
                old,
                items=old.items + items,
                busy=old.busy + busy,
                starved=old.starved + starved,
                blocked=old.blocked + blocked,
            )

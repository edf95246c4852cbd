"""Calls over a stream of images: in order, ahead of the consumer, in bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue

import numpy as np

from resharp.checks import check_int
from resharp.joining import join, start
from resharp.types import Image, Progress


class OneByOne:
    """Adds ``batch`` and ``stream`` to a restorer that takes one image at a time."""

    def __call__(self, image: Image) -> Image:
        """Restore one image."""
        raise NotImplementedError

    def batch(
        self, images: Iterable[Image], size: int = 8, *, progress: Progress | None = None
    ) -> list[Image]:
        """Restore several images, one after another.

        Args:
            images: as for a call.
            size: has no effect; for the same signature as ``Upscaler.batch``.
            progress: called with (images done, images in all) from this thread; raising cancels.
        """
        check_int("size", size)
        images, results = list(images), list[Image]()
        for image in images:
            results.append(self(image))
            if progress is not None:
                progress(len(results), len(images))
        return results

    def stream(self, frames: Iterable[Image], *, ahead: int = 2) -> Iterator[Image]:
        """Restore frames in order, working ahead; see ``Upscaler.stream``."""
        return stream(self, frames, ahead=ahead)


def stream(
    call: Callable[[Image], Image], frames: Iterable[Image], *, ahead: int, workers: int = 1
) -> Iterator[Image]:
    """Restore frames in order, working ahead while the caller uses the last one.

    Args:
        call: restores one image; safe to call from several threads if there are several workers.
        frames: images, read one by one, at most ``ahead`` before they are needed.
        ahead: number of frames in flight or waiting.
        workers: most threads that call at once.

    Raises:
        OptionError: ``ahead`` is below 1.
        Exception: what ``call`` or ``frames`` raises, after all earlier frames have come out.
    """
    ahead = check_int("ahead", ahead)
    return _stream(call, frames, ahead, min(workers, ahead))


class _Workers:
    """Daemon threads that run calls; unlike an executor's, they never keep a process alive."""

    def __init__(self, call: Callable[[Image], Image], count: int) -> None:
        self._call, self._count = call, count
        self._tasks: SimpleQueue[tuple[Future[Image], Image] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(self, frame: Image) -> Future[Image]:
        """Schedule a call; its result or exception is set on the future."""
        future: Future[Image] = Future()
        self._tasks.put((future, frame))
        if len(self._threads) < self._count:
            name = f"resharp-stream-{len(self._threads)}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._threads.append(thread)
            start(thread)
        return future

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, frame = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._call(frame))
                except BaseException as error:
                    future.set_exception(error)
            del task, future, frame  # free them while waiting for the next ones

    def close(self) -> None:
        """Wait for the calls in progress."""
        for _ in self._threads:
            self._tasks.put(None)
        join(self._threads)


def _stream(
    call: Callable[[Image], Image], frames: Iterable[Image], ahead: int, workers: int
) -> Iterator[Image]:
    pending: deque[Future[Image]] = deque()
    pool = _Workers(call, workers)
    source, failure = iter(frames), None
    try:
        while True:
            try:
                frame = next(source)
            except StopIteration:
                break
            except Exception as error:  # frames read before it still come out
                failure = error
                break
            # A copy, since video readers often refill one buffer.
            own = np.array(frame) if isinstance(frame, np.ndarray) else frame
            pending.append(pool.submit(own))
            del frame, own  # free them while waiting for the next one
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
        if failure is not None:
            raise failure
    finally:
        for future in pending:
            future.cancel()
        pool.close()

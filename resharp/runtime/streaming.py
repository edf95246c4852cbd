"""Calls over a stream of images: in order, ahead of the consumer, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from numbers import Integral
from typing import Any

import numpy as np

from resharp.errors import OptionError
from resharp.types import Image, Progress


def check_count(name: str, count: Any) -> None:
    """Raise OptionError unless an argument is a positive integer."""
    if not isinstance(count, Integral) or count < 1:
        raise OptionError(f"`{name}` must be a positive integer, got {count!r}")


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
        check_count("size", size)
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
    check_count("ahead", ahead)
    return _stream(call, frames, ahead, min(workers, ahead))


def _stream(
    call: Callable[[Image], Image], frames: Iterable[Image], ahead: int, workers: int
) -> Iterator[Image]:
    pending: deque[Future[Image]] = deque()
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="resharp-stream")
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
            pending.append(pool.submit(call, own))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
        if failure is not None:
            raise failure
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

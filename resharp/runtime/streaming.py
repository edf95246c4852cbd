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


def each(
    call: Callable[[Image], Image], images: Iterable[Image], progress: Progress | None
) -> list[Image]:
    """Restore images one after another; ``progress`` counts images."""
    images, results = list(images), list[Image]()
    for image in images:
        results.append(call(image))
        if progress is not None:
            progress(len(results), len(images))
    return results


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

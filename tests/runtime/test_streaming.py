"""Streams of images: what becomes of the threads, whatever the calls do."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from resharp import joining
from resharp.runtime.streaming import stream
from resharp.types import Image
from tests.waiting import LIMIT, joined, until


def workers() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name.startswith("resharp-stream")]


def images(count: int) -> Iterator[Image]:
    return (np.full((2, 2, 3), number, np.uint8) for number in range(count))


def test_the_results_come_in_order_and_no_thread_is_left() -> None:
    found = list(stream(lambda image: image + 1, images(9), ahead=4, workers=3))
    assert [int(one[0, 0, 0]) for one in found] == list(range(1, 10))
    assert workers() == []


def test_a_call_that_raises_ends_the_stream_after_the_frames_before_it() -> None:
    def call(image: Image) -> Image:
        if image[0, 0, 0] == 2:
            raise SystemExit("even this")
        return image

    results = stream(call, images(9), ahead=3, workers=2)
    assert [int(next(results)[0, 0, 0]) for _ in range(2)] == [0, 1]
    with pytest.raises(SystemExit, match="even this"):
        next(results)
    assert workers() == []


def test_a_call_that_never_returns_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(joining, "PATIENCE", 0.05)
    end, inside = threading.Event(), threading.Event()

    def call(image: Image) -> Image:
        if image[0, 0, 0]:
            inside.set()
            end.wait()
        return image

    results = stream(call, images(9), ahead=2, workers=1)
    try:
        next(results)
        assert inside.wait(LIMIT)
        results.close()  # type: ignore[attr-defined]
        assert "gave up waiting for the threads resharp-stream-0" in caplog.text
        assert all(thread.daemon for thread in workers())  # or the process would never end
    finally:
        end.set()
        joined(*workers())


def test_a_thread_does_not_hold_its_last_image() -> None:
    seen = list["weakref.ref[Image]"]()
    pause = threading.Event()

    def call(image: Image) -> Image:
        seen.append(weakref.ref(image))
        return image[:1].copy()

    def frames() -> Iterator[Image]:
        yield from images(2)
        pause.wait(LIMIT)

    results = stream(call, frames(), ahead=1, workers=1)
    next(results)
    next(results)
    until(lambda: all(one() is None for one in seen), "an image is held")
    pause.set()
    assert list(results) == []

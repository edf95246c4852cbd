"""Closing a pool of lanes while a run does not return."""

from __future__ import annotations

import threading

import pytest

from resharp.runtime.backends import lane_pool
from resharp.runtime.backends.lane_pool import LanePool
from tests.waiting import LIMIT, joined


class Lane:
    """A lane that knows whether it is closed."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_a_run_that_hangs_does_not_keep_a_pool_from_closing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lane_pool, "PATIENCE", 0.05)
    lane, inside, end = Lane(), threading.Event(), threading.Event()
    pool = LanePool([lane], "torch")

    def hang() -> None:
        with pool.take():
            inside.set()
            end.wait(LIMIT)

    thread = threading.Thread(target=hang)
    thread.start()
    assert inside.wait(LIMIT)
    pool.close()
    assert "gave up waiting for runs of torch, which do not end" in caplog.text
    assert not lane.closed  # its run may still use it
    end.set()
    joined(thread)
    assert lane.closed


def test_a_run_that_raises_anything_gives_its_lane_back() -> None:
    pool = LanePool([Lane()], "torch")
    for error in (SystemExit("of a callback"), KeyboardInterrupt(), ValueError()):
        with pytest.raises(type(error)), pool.take():
            raise error
    with pool.take():
        pass
    pool.close()

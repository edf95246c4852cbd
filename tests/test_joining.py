"""Waiting for threads: patiently, but with a way out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from resharp import joining
from tests.waiting import joined


@pytest.fixture
def hung() -> Iterator[threading.Thread]:
    """A thread that ends only after the test, as in a foreign call that does not return."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="resharp-hung-0", daemon=True)
    thread.start()
    yield thread
    end.set()
    joined(thread)
    assert not joining.left_behind()


def test_threads_that_end_are_waited_for() -> None:
    threads = [threading.Thread(target=lambda: None) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert joining.join(threads)
    assert not any(thread.is_alive() for thread in threads)
    assert not joining.left_behind()


def test_a_thread_that_hangs_is_given_up_and_named(
    hung: threading.Thread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(joining, "PATIENCE", 0.05)
    with caplog.at_level(logging.WARNING):
        assert not joining.join([hung])
    words = "gave up waiting for the threads resharp-hung-0, which do not end"
    assert [record.getMessage() for record in caplog.records] == [words]
    assert joining.left_behind()


def test_an_interrupt_ends_the_wait(
    hung: threading.Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            joining.join([hung])
    assert joining.left_behind()

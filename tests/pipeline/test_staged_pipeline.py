"""The staged pipeline: order, bounds, back-pressure, the first error, and no thread left."""

from __future__ import annotations

import os
import signal
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resharp import joining
from resharp.errors import BackendError
from resharp.pipeline.staged_pipeline import Pipeline, Stage, Stopped
from tests.held import start
from tests.waiting import LIMIT, Watched, joined, until

pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def _pipeline(workers: int, batch: int, depth: int, **work: Any) -> tuple[list[int], Pipeline]:
    out: list[int] = []

    def double(items: Any) -> Any:
        time.sleep(0.001 * (threading.get_ident() % 3))  # threads overtake each other
        return [2 * item for item in items] if batch > 1 else 2 * items

    stages = [
        Stage(name="work", calls=[double] * workers, batch=batch, **work),
        Stage(name="write", calls=[out.append]),
    ]
    return out, Pipeline(stages, depth=depth)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(0, 40),
    workers=st.integers(1, 4),
    batch=st.integers(1, 5),
    depth=st.integers(1, 4),
    budget=st.one_of(st.none(), st.integers(1, 12)),
)
def test_all_items_come_through_once_and_in_order(
    count: int, workers: int, batch: int, depth: int, budget: int | None
) -> None:
    weights = {number: 1 + number * 7 % 5 for number in range(count)}
    out, pipeline = _pipeline(workers, batch, depth, cost=weights.__getitem__, budget=budget)
    report = pipeline.run(range(count))
    assert out == [2 * number for number in range(count)]
    assert [stage.items for stage in report] == [count] * 3


def test_a_slow_sink_holds_the_source_back() -> None:
    # three wait in each queue; one is in the source's hand, one in work and one being written
    read, written, worst, most = 0, 0, 0, 3 + 3 + 3

    def source() -> Iterator[int]:
        nonlocal read, worst
        for number in range(60):
            read += 1
            worst = max(worst, read - written)
            yield number

    def write(item: int) -> None:
        nonlocal written
        until(lambda: read - written >= min(most, 60 - written), "the source runs ahead")
        if item == 0:
            time.sleep(0.05)  # a source that is not held back would run on
        written += 1

    work = Stage(name="work", calls=[lambda item: item])
    Pipeline([work, Stage(name="write", calls=[write])], depth=3).run(source())
    assert worst == most


def test_the_budget_bounds_what_is_in_work() -> None:
    held, worst, lock = 0, 0, threading.Lock()

    def work(item: int) -> int:
        nonlocal held, worst
        with lock:
            held += item
            worst = max(worst, held)
        time.sleep(0.001)
        return item

    def write(item: int) -> None:
        nonlocal held
        time.sleep(0.001)
        with lock:
            held -= item

    works = Stage(name="work", calls=[work] * 3, cost=lambda item: item, budget=10)
    pipeline = Pipeline([works, Stage(name="write", calls=[write])], depth=8)
    pipeline.run([4, 3, 4, 2, 9, 1, 1, 12, 3, 8] * 3)
    assert worst == 12  # the one that is larger than the budget ran alone


def test_batches_hold_only_what_is_alike() -> None:
    names = ["a1", "a2", "b1", *(f"a{n}" for n in range(3, 8))]
    seen, given, taken = list[list[str]](), 0, 0

    def source() -> Iterator[str]:
        nonlocal given
        for name in names:
            given += 1
            yield name

    def work(items: list[str]) -> list[str]:
        nonlocal taken
        taken += len(items)
        until(lambda: given - taken > 4 or given == len(names), "the queue is full")
        seen.append(items)
        return items

    stage = Stage(name="work", calls=[work], batch=4, can_batch=lambda a, b: a[0] == b[0])
    Pipeline([stage]).run(source())
    assert [item for group in seen for item in group] == names
    assert all(len({item[0] for item in group}) == 1 for group in seen)
    assert max(map(len, seen)) == 4


@pytest.mark.parametrize("place", ["source", "work", "write", "tick"])
def test_the_first_error_stops_all_and_is_the_one_reported(place: str) -> None:
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            for number in range(10_000):
                if place == "source" and number == 5:
                    raise KeyError("source")
                yield number
        finally:
            closed.set()

    def work(item: int) -> int:
        if place == "work" and item >= 5:
            raise KeyError("work")
        return item

    def write(item: int) -> None:
        while item == 20:  # the first tick comes when it comes
            time.sleep(0.001)
            pipeline.check()
        if place == "write" and item == 5:
            raise KeyError("write")

    def tick(report: Any) -> None:
        if place == "tick" and report[-1].items:  # all have begun; the writer waits at item 20
            raise KeyError("tick")

    stages = [Stage(name="work", calls=[work] * 2), Stage(name="write", calls=[write])]
    pipeline = Pipeline(stages)
    with pytest.raises(KeyError, match=place):
        pipeline.run(source(), tick, interval=0.01)
    assert closed.is_set()
    assert pipeline.report()[0].items < 100
    with pytest.raises(Stopped):
        pipeline.check()


def test_long_work_can_ask_whether_to_go_on() -> None:
    started = threading.Event()

    def work(item: int) -> None:
        if item == 0:
            started.set()
            while True:
                time.sleep(0.001)
                pipeline.check()
        assert started.wait(LIMIT)
        raise KeyError("second")

    pipeline = Pipeline([Stage(name="work", calls=[work, work])])
    with pytest.raises(KeyError, match="second"):
        pipeline.run(range(2))


def test_the_report_tells_who_waits_for_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, begun, changed = 0.0, 0, Watched()

    def idle() -> bool:
        """Whether the source and the work have run as far ahead as they may, and stand still."""
        alive = {thread.name for thread in threading.enumerate()}
        return {"resharp-read-0", "resharp-work-0"} & alive <= changed.waiting

    def source() -> Iterator[int]:
        nonlocal begun
        for number in range(30):
            begun += 1
            yield number

    def write(item: int) -> None:
        nonlocal clock
        until(lambda: begun >= min(30, item + 5) and idle())
        clock += 1.0

    # made-up seconds, which pass only while all others wait
    monkeypatch.setattr("resharp.pipeline.staged_pipeline.time.perf_counter", lambda: clock)
    stages = [
        Stage(name="work", calls=[lambda item: item]),
        Stage(name="write", calls=[write]),
    ]
    pipeline = Pipeline(stages, depth=1)
    pipeline._changed = changed
    read, work, last = pipeline.run(source())
    assert (last.busy, last.starved) == (30.0, 0.0)
    assert read.blocked > 15
    assert work.blocked > 15
    assert read.busy + work.busy + work.starved < 15


def test_an_interrupt_that_comes_as_the_lock_is_taken_ends_it() -> None:
    ticked, raised = threading.Event(), list[BaseException]()

    class Interrupted(threading.Condition):
        def __enter__(self) -> bool:
            entered = super().__enter__()
            if ticked.is_set() and threading.current_thread() is runner:
                ticked.clear()
                raise KeyboardInterrupt
            return entered

    def work(item: int) -> None:
        time.sleep(0.001)
        pipeline.check()

    def run() -> None:
        try:
            pipeline.run(iter(int, 1), lambda report: ticked.set(), interval=0.01)
        except KeyboardInterrupt as error:
            raised.append(error)

    pipeline = Pipeline([Stage(name="work", calls=[work] * 2)])
    pipeline._changed = Interrupted()
    runner = threading.Thread(target=run, daemon=True)
    runner.start()
    joined(runner)
    assert len(raised) == 1


def test_an_interrupt_while_threads_are_started_leaves_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It comes after the system made the thread, and before Python knows of it."""
    own, seen = threading.Thread.start, list[int]()
    late = list[threading.Thread]()
    pipeline = Pipeline([Stage(name="work", calls=[lambda item: item, seen.append])])

    def begin() -> None:
        until(lambda: pipeline._error is not None)
        time.sleep(0.05)  # for a pipeline that does not wait to be through
        own(late[0])

    def start(thread: threading.Thread) -> None:
        if thread.name != "resharp-work-1":
            own(thread)
            return
        late.append(thread)
        own(beginning)
        raise KeyboardInterrupt

    beginning = threading.Thread(target=begin)
    monkeypatch.setattr("resharp.pipeline.staged_pipeline.START_TIMEOUT", LIMIT)
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(iter(range(9)))
    assert late[0].ident is not None
    assert not late[0].is_alive()
    assert seen == []  # it has done nothing
    joined(beginning)


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_an_interrupt_ends_it_and_leaves_no_thread() -> None:
    script = textwrap.dedent(
        """
        import threading, time
        from resharp.pipeline.staged_pipeline import Pipeline, Stage
        def work(item):
            if item == 3:
                print("working", flush=True)
            while item >= 3:
                time.sleep(0.001)
                pipeline.check()
        try:
            pipeline = Pipeline([Stage(name="work", calls=[work] * 2)])
            pipeline.run(range(9999))
        except KeyboardInterrupt:
            print("left", [t.name for t in threading.enumerate() if t.name != "MainThread"])
        """
    )
    with start("-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "left []\n"
    assert process.returncode == 0


def test_a_thread_that_never_returns_is_given_up_with_the_name_of_its_stage(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(joining, "PATIENCE", 0.05)
    end, inside, threads = threading.Event(), threading.Event(), list[threading.Thread]()

    def hang(item: int) -> None:
        threads.append(threading.current_thread())
        inside.set()
        end.wait()

    def fail(reports: Any) -> None:
        if inside.is_set():
            raise ValueError("enough")

    pipeline = Pipeline([Stage(name="restore", calls=[hang])])
    try:
        with pytest.raises(ValueError, match="enough"):
            pipeline.run(range(3), fail, 0.01)
        assert "gave up waiting for the threads resharp-restore-0" in caplog.text
    finally:
        end.set()
        joined(*threads)


def test_a_second_interrupt_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    end, inside, threads = threading.Event(), threading.Event(), list[threading.Thread]()

    def hang(item: int) -> None:
        threads.append(threading.current_thread())
        inside.set()
        end.wait()

    def interrupt(*args: Any) -> None:
        if inside.is_set():
            raise KeyboardInterrupt

    pipeline = Pipeline([Stage(name="restore", calls=[hang])])
    try:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "join", interrupt)
            with pytest.raises(KeyboardInterrupt):
                pipeline.run(range(3), interrupt, 0.01)
        assert threads[0].is_alive()
    finally:
        end.set()
        joined(*threads)


def test_an_item_is_not_held_until_the_next_one_comes() -> None:
    """A watched folder may be idle for hours, and its last images may be large."""
    held, written = list["weakref.ref[_Item]"](), threading.Event()

    def source() -> Iterator[_Item]:
        yield _item()
        assert written.wait(LIMIT)
        until(lambda: all(one() is None for one in held), "an item is still held")

    def _item() -> _Item:
        made = _Item()
        held.append(weakref.ref(made))
        return made

    def again(item: _Item) -> _Item:
        return _item()

    stages = [Stage(name="a", calls=[again] * 2), Stage(name="b", calls=[again])]
    Pipeline([*stages, Stage(name="c", calls=[lambda item: written.set()])]).run(source())
    assert len(held) == 3


class _Item:
    """Something that a weak reference may be made to."""


@pytest.mark.parametrize("room", [0, 1, 3])
def test_a_system_without_room_for_a_thread_is_an_error_at_once(
    monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    started: list[threading.Thread] = []
    real = threading.Thread.start

    def full(thread: threading.Thread) -> None:
        if len(started) == room:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", full)
    _, pipeline = _pipeline(4, 1, 2)
    begun = time.monotonic()
    with pytest.raises(BackendError, match="can't start new thread: free some memory, or raise"):
        pipeline.run(range(10))
    assert time.monotonic() - begun < 5

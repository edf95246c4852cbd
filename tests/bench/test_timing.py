"""Pairs, disturbances, intervals."""

from __future__ import annotations

import random
import statistics as plain
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resharp.bench import pairs, quiet
from resharp.bench.cases import Effort
from resharp.bench.pairs import Pair, alternate, choose
from resharp.bench.quiet import GRAIN, Mark, disturbance, mark
from resharp.bench.records import Spread
from resharp.bench.statistics import chained, own_width, ratios, spread, width
from resharp.runtime.devices import usable_threads

times = st.lists(st.floats(0.001, 100), min_size=1, max_size=40)


@given(times)
def test_the_interval_holds_the_median(values: list[float]) -> None:
    found = spread(values)
    assert found.low <= found.median <= found.high
    assert found.median == plain.median(values)
    assert found.values == tuple(values)
    assert {found.low, found.high} <= set(values)


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    source = random.Random(5)
    for count in (7, 15, 31):
        hits = 0
        for _ in range(600):
            found = spread([source.lognormvariate(0, 0.3) for _ in range(count)])
            hits += found.low <= 1 <= found.high
        assert hits / 600 >= 0.94


def test_an_outlier_moves_nothing() -> None:
    steady = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0, 1.01, 0.99]
    found = spread([*steady, 40.0])
    assert found.high < 1.03


@given(times, st.floats(0.5, 2))
def test_a_factor_on_every_time_is_the_ratio(values: list[float], factor: float) -> None:
    found = ratios([factor * value for value in values], values)
    assert found.median == pytest.approx(factor)
    assert own_width(found) == pytest.approx(0, abs=1e-9)
    assert width(ratios(values, values)) == 0


def test_widths_and_chains() -> None:
    ratio = Spread(median=1.1, low=1.0, high=1.21)
    assert own_width(ratio) == pytest.approx(0.1)
    assert width(ratio) == pytest.approx(0.21)
    whole = chained(ratio, Spread(median=2.0, low=1.5, high=2.5))
    assert (whole.median, whole.low, whole.high) == pytest.approx((2.2, 1.5, 3.025))


class FakeSeat:
    """Takes turns in no time and notes them."""

    pid = 0

    def __init__(self, name: str, log: list[str], seconds: float) -> None:
        self._name, self._log, self._seconds = name, log, seconds

    def seconds(self, calls: int = 1) -> tuple[float, float | None]:
        self._log.append(f"{self._name}{calls}")
        return self._seconds, 5.0

    def rest(self) -> None:
        self._log.append(f"{self._name} rests")


def turns(effort: Effort, **options: float) -> tuple[pairs.Turns, list[str]]:
    log: list[str] = []
    first = FakeSeat("a", log, options.get("first", 0.5))
    second = FakeSeat("b", log, options.get("second", 0.01))
    return alternate(first, second, effort), log  # type: ignore[arg-type]


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "disturbance", lambda before, after: 0.0)
    monkeypatch.setattr("resharp.bench.pairs.time.sleep", lambda seconds: None)


@pytest.mark.usefixtures("calm")
def test_neither_always_goes_first_and_each_rests_after_its_turn() -> None:
    found, log = turns(Effort(pairs=3, most_pairs=3, seconds=0, limit=9))
    assert log[:4] == ["a1", "a rests", "b1", "b rests"]  # how long a call takes
    assert log[4:] == [  # short ones are repeated
        *("b8", "b rests", "a1", "a rests"),
        *("a1", "a rests", "b8", "b rests"),
        *("b8", "b rests", "a1", "a rests"),
    ]
    assert (len(found.first), len(found.second), found.disturbed) == (3, 3, 0)
    assert found.joules == 5.0


@pytest.mark.usefixtures("calm")
def test_pairs_end_at_the_most_or_when_the_time_is_over() -> None:
    found, _ = turns(Effort(pairs=2, most_pairs=6, seconds=60, limit=60))
    assert len(found.first) == 6
    found, _ = turns(Effort(pairs=2, most_pairs=6, seconds=0, limit=60))
    assert len(found.first) == 2


def test_disturbed_pairs_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.0, 0.0] + [0.5, 0.0] + [0.0] * 40)
    monkeypatch.setattr(pairs, "disturbance", lambda before, after: next(shares))
    monkeypatch.setattr("resharp.bench.pairs.time.sleep", lambda seconds: None)
    found, _ = turns(Effort(pairs=4, most_pairs=9, seconds=0, limit=60))
    assert (len(found.first), found.disturbed) == (4, 1)


def test_on_a_busy_machine_the_calmest_pairs_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "disturbance", lambda before, after: 0.5)
    monkeypatch.setattr("resharp.bench.pairs.time.sleep", lambda seconds: None)
    found, _ = turns(Effort(pairs=3, most_pairs=9, seconds=0, limit=0))
    assert len(found.first) == 3  # they end at the limit, and something is said all the same


@given(st.lists(st.floats(0, 1), min_size=3, max_size=20), st.integers(1, 3))
def test_the_calm_ones_are_chosen_whatever_their_times(shares: list[float], least: int) -> None:
    taken = [Pair((1.0, float(i)), None, share) for i, share in enumerate(shares)]
    found = choose(taken, least)
    assert len(found) >= least
    assert [pair.seconds[1] for pair in found] == sorted(pair.seconds[1] for pair in found)
    left = [pair.disturbance for pair in taken if pair not in found]
    assert all(share >= max(pair.disturbance for pair in found) for share in left)


def test_disturbance_is_what_others_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "usable_threads", lambda: 2)
    monkeypatch.setattr("resharp.bench.quiet.os.cpu_count", lambda: 2)
    start = Mark(10.0, 100.0, 50.0)
    assert disturbance(start, Mark(11.0, 102.0, 52.0)) == 0  # all ours
    half = disturbance(start, Mark(11.0, 102.0, 51.0))
    assert half == pytest.approx((1 - GRAIN) / 2)
    monkeypatch.setattr("resharp.bench.quiet.os.cpu_count", lambda: 8)
    assert disturbance(start, Mark(11.0, 104.0, 51.0)) == 0  # six others were free
    assert disturbance(start, Mark(11.0, 109.0, 51.0)) == pytest.approx((2 - GRAIN) / 2)
    assert disturbance(None, start) == 0
    assert disturbance(start, start) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_another_programs_burst_is_seen() -> None:
    burn = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(burn) for _ in range(usable_threads())]
    try:
        time.sleep(0.3)
        before = mark(time.monotonic(), [])
        time.sleep(0.5)
        found = disturbance(before, mark(time.monotonic(), []))
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert found > 0.3


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_our_own_work_is_counted_as_ours() -> None:
    before, began = mark(time.monotonic(), []), time.process_time()
    while time.process_time() < began + 0.3:
        pass
    after = mark(time.monotonic(), [])
    assert before is not None
    assert after is not None
    assert after.own - before.own == pytest.approx(0.3, abs=0.05)
    assert after.all - before.all >= 0.2

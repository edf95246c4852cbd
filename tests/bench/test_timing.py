"""Pairs, contention, intervals."""

from __future__ import annotations

import os
import random
import statistics as plain
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resharp.bench.cases import Budget
from resharp.bench.measure import cpu_contention, paired_timing
from resharp.bench.measure.cpu_contention import RESOLUTION, CpuSample, contention, sample_cpu
from resharp.bench.measure.estimates import (
    deviation,
    estimate,
    half_width,
    paired_ratio,
    product,
)
from resharp.bench.measure.paired_timing import TimedPair, alternate, choose
from resharp.bench.records import Estimate
from tests.bench.fake_machine import Clock

times = st.lists(st.floats(0.001, 100), min_size=1, max_size=40)


@given(times)
def test_the_interval_holds_the_median(values: list[float]) -> None:
    found = estimate(values)
    assert found.low <= found.median <= found.high
    assert found.median == plain.median(values)
    assert found.values == tuple(values)
    assert {found.low, found.high} <= set(values)


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    source = random.Random(5)
    for count in (7, 15, 31):
        hits = 0
        for _ in range(600):
            found = estimate([source.lognormvariate(0, 0.3) for _ in range(count)])
            hits += found.low <= 1 <= found.high
        assert hits / 600 >= 0.94


def test_an_outlier_moves_nothing() -> None:
    steady = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0, 1.01, 0.99]
    found = estimate([*steady, 40.0])
    assert found.high < 1.03


@given(times, st.floats(0.5, 2))
def test_a_factor_on_every_time_is_the_ratio(values: list[float], factor: float) -> None:
    found = paired_ratio([factor * value for value in values], values)
    assert found.median == pytest.approx(factor)
    assert half_width(found) == pytest.approx(0, abs=1e-9)
    assert deviation(paired_ratio(values, values)) == 0


def test_widths_and_chains() -> None:
    ratio = Estimate(median=1.1, low=1.0, high=1.21)
    assert half_width(ratio) == pytest.approx(0.1)
    assert deviation(ratio) == pytest.approx(0.21)
    whole = product(ratio, Estimate(median=2.0, low=1.5, high=2.5))
    assert (whole.median, whole.low, whole.high) == pytest.approx((2.2, 1.5, 3.025))


class FakeTimer:
    """Takes turns of made-up times and notes them."""

    pid = 0

    def __init__(self, name: str, log: list[str], seconds: float, clock: Clock) -> None:
        self._name, self._log, self._seconds, self._clock = name, log, seconds, clock

    def seconds(self, calls: int = 1) -> tuple[float, float | None]:
        self._log.append(f"{self._name}{calls}")
        self._clock.now += self._seconds * calls
        return self._seconds, 5.0

    def suspend(self) -> None:
        self._log.append(f"{self._name} rests")


def turns(clock: Clock, budget: Budget) -> tuple[paired_timing.PairedTimes, list[str]]:
    """Of one that takes 0.5 s and one of 0.01 s, which has eight calls in a turn: 0.58 s a pair."""
    log: list[str] = []
    first, second = FakeTimer("a", log, 0.5, clock), FakeTimer("b", log, 0.01, clock)
    return alternate(first, second, budget), log  # type: ignore[arg-type]


def test_neither_always_goes_first_and_each_rests_after_its_turn(clock: Clock) -> None:
    found, log = turns(clock, Budget(pairs=3, most_pairs=3, seconds=0, limit=9))
    assert log[:4] == ["a1", "a rests", "b1", "b rests"]  # how long a call takes
    assert log[4:] == [  # short ones are repeated
        *("b8", "b rests", "a1", "a rests"),
        *("a1", "a rests", "b8", "b rests"),
        *("b8", "b rests", "a1", "a rests"),
    ]
    assert (len(found.first), len(found.second), found.disturbed) == (3, 3, 0)
    assert found.joules == 5.0


def test_pairs_end_at_the_most_or_when_the_time_is_over(clock: Clock) -> None:
    found, _ = turns(clock, Budget(pairs=2, most_pairs=6, seconds=60, limit=60))
    assert len(found.first) == 6
    found, _ = turns(clock, Budget(pairs=2, most_pairs=6, seconds=0, limit=60))
    assert len(found.first) == 2
    found, _ = turns(clock, Budget(pairs=2, most_pairs=6, seconds=2, limit=60))
    assert len(found.first) == 4
    found, _ = turns(clock, Budget(pairs=2, most_pairs=6, seconds=60, limit=2.5))
    assert len(found.first) == 5


def test_disturbed_pairs_are_left_out(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.0, 0.0] + [0.5, 0.0] + [0.0] * 40)
    monkeypatch.setattr(paired_timing, "contention", lambda before, after: next(shares))
    found, _ = turns(clock, Budget(pairs=4, most_pairs=9, seconds=0, limit=60))
    assert (len(found.first), found.disturbed) == (4, 1)


def test_on_a_busy_machine_the_calmest_pairs_count(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paired_timing, "contention", lambda before, after: 0.5)
    found, _ = turns(clock, Budget(pairs=3, most_pairs=9, seconds=0, limit=0))
    assert len(found.first) == 3  # they end at the limit, and something is said all the same
    began = clock.now
    found, _ = turns(clock, Budget(pairs=3, most_pairs=9, seconds=0, limit=20))
    assert len(found.first) > 9  # none is calm, so the most does not end them
    assert 20 < clock.now - began < 22


@given(st.lists(st.floats(0, 1), min_size=3, max_size=20), st.integers(1, 3))
def test_the_calm_ones_are_chosen_whatever_their_times(shares: list[float], least: int) -> None:
    taken = [TimedPair((1.0, float(i)), None, share) for i, share in enumerate(shares)]
    found = choose(taken, least)
    assert len(found) >= least
    assert [pair.seconds[1] for pair in found] == sorted(pair.seconds[1] for pair in found)
    left = [pair.contention for pair in taken if pair not in found]
    assert all(share >= max(pair.contention for pair in found) for share in left)


def test_disturbance_is_what_others_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_contention, "usable_threads", lambda: 2)
    monkeypatch.setattr("resharp.bench.measure.cpu_contention.os.cpu_count", lambda: 2)
    start = CpuSample(10.0, 100.0, 50.0)
    assert contention(start, CpuSample(11.0, 102.0, 52.0)) == 0  # all ours
    half = contention(start, CpuSample(11.0, 102.0, 51.0))
    assert half == pytest.approx((1 - RESOLUTION) / 2)
    monkeypatch.setattr("resharp.bench.measure.cpu_contention.os.cpu_count", lambda: 8)
    assert contention(start, CpuSample(11.0, 104.0, 51.0)) == 0  # six others were free
    assert contention(start, CpuSample(11.0, 109.0, 51.0)) == pytest.approx((2 - RESOLUTION) / 2)
    assert contention(None, start) == 0
    assert contention(start, start) == 0


TICK = 100
"""Of the made-up kernel, in a second."""


class Kernel:
    """Processor time in ticks, as Linux counts it."""

    def __init__(self, stat: Path) -> None:
        self.stat = stat
        self.own = {os.getpid(): 700, 7: 40}
        self.columns = dict.fromkeys(
            ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"), 1000
        )

    def marked(self, at: float) -> CpuSample | None:
        """Return the sample at one moment when process 7 is measured."""
        counts = " ".join(map(str, self.columns.values()))
        self.stat.write_text(f"cpu  {counts} 5 6\ncpu0 {counts} 5 6\nintr 1 2\n")
        return sample_cpu(at, [7])


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """One of a machine with two processors."""
    made_up = Kernel(tmp_path / "stat")
    monkeypatch.setattr(cpu_contention, "_STAT", made_up.stat)
    monkeypatch.setattr(cpu_contention, "_ticks", lambda pid: made_up.own[pid])
    monkeypatch.setattr(cpu_contention, "usable_threads", lambda: 2)
    monkeypatch.setattr("resharp.bench.measure.cpu_contention.os.cpu_count", lambda: 2)
    monkeypatch.setattr(
        "resharp.bench.measure.cpu_contention.os.sysconf", lambda name: TICK, raising=False
    )
    return made_up


@pytest.mark.parametrize("column", ["user", "nice", "system", "irq", "softirq", "steal"])
def test_another_programs_burst_is_seen(kernel: Kernel, column: str) -> None:
    before = kernel.marked(50.0)
    kernel.columns[column] += TICK  # in half a second, on two processors
    assert contention(before, kernel.marked(50.5)) == pytest.approx((1 - RESOLUTION) / 0.5 / 2)


@pytest.mark.parametrize("pid", [7, pytest.param(os.getpid(), id="ours")])
def test_our_own_work_is_counted_as_ours(kernel: Kernel, pid: int) -> None:
    before = kernel.marked(50.0)
    kernel.columns["user"] += TICK
    kernel.own[pid] += TICK
    after = kernel.marked(50.5)
    assert before is not None
    assert after is not None
    assert (after.own - before.own, after.total - before.total) == (1.0, 1.0)
    assert contention(before, after) == 0
    kernel.columns["system"] += TICK // 4  # used by other programs
    assert contention(before, kernel.marked(50.5)) == pytest.approx((0.25 - RESOLUTION) / 0.5 / 2)


def test_processors_that_wait_are_free(kernel: Kernel) -> None:
    before = kernel.marked(50.0)
    kernel.columns["idle"] += TICK
    kernel.columns["iowait"] += TICK
    assert contention(before, kernel.marked(51.0)) == 0


def test_a_count_that_cannot_be_read_disturbs_nobody(kernel: Kernel) -> None:
    before = kernel.marked(50.0)
    for text in ("", "cpu 1 2", "cpu one two three four five six seven eight"):
        kernel.stat.write_text(text)
        assert sample_cpu(51.0, [7]) is None
    kernel.stat.unlink()
    assert sample_cpu(51.0, [7]) is None
    assert contention(before, None) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_kernel_counts_our_work() -> None:
    """Bounded on both sides by the clock of this process, which stands while others run."""
    outside = time.process_time()
    before, began = sample_cpu(0.0, []), time.process_time()
    while time.process_time() < began + 0.1:
        pass
    inside = time.process_time() - began
    after = sample_cpu(1.0, [])
    outside = time.process_time() - outside
    assert before is not None
    assert after is not None
    grain = 2 / os.sysconf("SC_CLK_TCK")  # user and system time are each rounded down
    assert inside - grain <= after.own - before.own <= outside + grain
    assert after.total >= before.total

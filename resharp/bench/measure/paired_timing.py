"""Two cases in turns, so that what the machine does meanwhile meets both."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from resharp.bench.cases import Budget
from resharp.bench.measure.cpu_contention import contention, sample_cpu
from resharp.bench.worker_process import WorkerProcess

TURN = 0.08
"""Seconds that a turn should take at least; short calls are repeated."""
PAUSE = 0.005
"""Seconds between two turns: the threads of one stop spinning before the other begins."""
MOST_CALLS = 64
CALM = 0.04
"""Share of the processors that others may have in a turn that counts."""


@dataclass(frozen=True)
class PairedTimes:
    """Seconds of one picture in each turn, pair by pair; only pairs that count."""

    first: tuple[float, ...]
    second: tuple[float, ...]
    joules: float | None = None
    """Of one picture of the second, the mean over its turns; None where it is not known."""
    disturbed: int = 0
    """Pairs that were left out, since others had the processor meanwhile."""


def joined(parts: Sequence[PairedTimes]) -> PairedTimes:
    """Several as one."""
    return PairedTimes(
        first=tuple(value for part in parts for value in part.first),
        second=tuple(value for part in parts for value in part.second),
        joules=_mean(part.joules for part in parts),
        disturbed=sum(part.disturbed for part in parts),
    )


@dataclass(frozen=True)
class TimedPair:
    """Two turns, one after the other."""

    seconds: tuple[float, float]
    joules: float | None
    contention: float
    """The larger one of the two turns."""


def alternate(first: WorkerProcess, second: WorkerProcess, budget: Budget) -> PairedTimes:
    """Time two cases in pairs; neither always goes first.

    Goes on until there are enough calm pairs, or the time is over; then the calmest ones count.
    """
    calls = (_calls(first), _calls(second))
    pairs: list[TimedPair] = []
    began = time.monotonic()
    while not _enough(pairs, budget, time.monotonic() - began):
        order = (0, 1) if len(pairs) % 2 else (1, 0)
        pairs.append(_pair((first, second), calls, order))
    chosen = choose(pairs, budget.pairs)
    return PairedTimes(
        first=tuple(pair.seconds[0] for pair in chosen),
        second=tuple(pair.seconds[1] for pair in chosen),
        joules=_mean(pair.joules for pair in chosen),
        disturbed=len(pairs) - len(chosen),
    )


def choose(pairs: Sequence[TimedPair], least: int) -> list[TimedPair]:
    """The calm pairs; if these are too few, the calmest ones, in the order they were taken in."""
    limit = max(CALM, sorted(pair.contention for pair in pairs)[least - 1])
    return [pair for pair in pairs if pair.contention <= limit]


def _enough(pairs: Sequence[TimedPair], budget: Budget, elapsed: float) -> bool:
    if len(pairs) < budget.pairs:
        return False
    calm = sum(pair.contention <= CALM for pair in pairs)
    if calm >= budget.most_pairs or elapsed >= budget.limit:
        return True
    return calm >= budget.pairs and elapsed >= budget.seconds


def _pair(
    processes: tuple[WorkerProcess, WorkerProcess], calls: tuple[int, int], order: tuple[int, int]
) -> TimedPair:
    taken, joules, worst = [0.0, 0.0], None, 0.0
    for which in order:
        time.sleep(PAUSE)
        process = processes[which]
        before = sample_cpu(time.monotonic(), [process.pid])
        taken[which], energy = process.seconds(calls[which])
        process.suspend()
        worst = max(worst, contention(before, sample_cpu(time.monotonic(), [process.pid])))
        if which:
            joules = energy
    return TimedPair((taken[0], taken[1]), joules, worst)


def _calls(process: WorkerProcess) -> int:
    """Calls of one turn."""
    seconds, _ = process.seconds()
    process.suspend()
    return max(1, min(int(TURN / max(seconds, 1e-6)), MOST_CALLS))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None

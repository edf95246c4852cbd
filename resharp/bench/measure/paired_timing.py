"""Paired timing: two cases take turns, so that changes of the machine's load affect both."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from resharp.bench.cases import Budget
from resharp.bench.measure.cpu_contention import contention, sample_cpu
from resharp.bench.worker_process import WorkerProcess

TURN = 0.08
"""Minimum length of a turn, in seconds; short calls are repeated."""
PAUSE = 0.005
"""Seconds between two turns, so that the threads of one stop spinning before the next."""
MOST_CALLS = 64
"""Maximum number of calls in a turn."""
CALM = 0.04
"""Maximum fraction of the CPUs that other programs may use in an undisturbed turn."""


@dataclass(frozen=True)
class PairedTimes:
    """Seconds per image of two cases, turn by turn; disturbed pairs are left out."""

    first: tuple[float, ...]
    """Seconds per image of the first case, in the order of the pairs."""
    second: tuple[float, ...]
    """Seconds per image of the second case, in the same order."""
    joules: float | None = None
    """Energy per image of the second case, the mean over its turns; None if unknown."""
    disturbed: int = 0
    """Number of pairs left out because other programs used the CPU."""


def joined(parts: Sequence[PairedTimes]) -> PairedTimes:
    """Concatenate several series of pairs."""
    return PairedTimes(
        first=tuple(value for part in parts for value in part.first),
        second=tuple(value for part in parts for value in part.second),
        joules=_mean(part.joules for part in parts),
        disturbed=sum(part.disturbed for part in parts),
    )


@dataclass(frozen=True)
class TimedPair:
    """One turn of each case."""

    seconds: tuple[float, float]
    """Seconds per image of the first and the second case."""
    joules: float | None
    """Energy per image of the second case; None if unknown."""
    contention: float
    """The larger CPU contention of the two turns."""


def alternate(first: WorkerProcess, second: WorkerProcess, budget: Budget) -> PairedTimes:
    """Time two cases in pairs, alternating which of them goes first.

    Continues until there are enough undisturbed pairs or the time is up; if there are too few, the
    least disturbed pairs are used.
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
    """Return the undisturbed pairs, or the ``least`` calmest if there are fewer, in their order."""
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
    """Return the number of calls per turn."""
    seconds, _ = process.seconds()
    process.suspend()
    return max(1, min(int(TURN / max(seconds, 1e-6)), MOST_CALLS))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None

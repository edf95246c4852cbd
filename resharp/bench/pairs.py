"""Two cases in turns, so that what the machine does meanwhile meets both."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from resharp.bench.cases import Effort
from resharp.bench.quiet import disturbance, mark
from resharp.bench.seat import Seat

TURN = 0.08
"""Seconds that a turn should take at least; short calls are repeated."""
PAUSE = 0.005
"""Seconds between two turns: the threads of one stop spinning before the other begins."""
MOST_CALLS = 64
CALM = 0.04
"""Share of the processors that others may have in a turn that counts."""


@dataclass(frozen=True)
class Turns:
    """Seconds of one picture in each turn, pair by pair; only pairs that count."""

    first: tuple[float, ...]
    second: tuple[float, ...]
    joules: float | None = None
    """Of one picture of the second, the mean over its turns; None where it is not told."""
    disturbed: int = 0
    """Pairs that were left out, since others had the processor meanwhile."""


def joined(parts: Sequence[Turns]) -> Turns:
    """Several as one."""
    energies = [part.joules for part in parts if part.joules is not None]
    return Turns(
        first=tuple(value for part in parts for value in part.first),
        second=tuple(value for part in parts for value in part.second),
        joules=sum(energies) / len(energies) if energies else None,
        disturbed=sum(part.disturbed for part in parts),
    )


@dataclass(frozen=True)
class Pair:
    """Two turns, one after the other."""

    seconds: tuple[float, float]
    joules: float | None
    disturbance: float
    """The larger one of the two turns."""


def alternate(first: Seat, second: Seat, effort: Effort) -> Turns:
    """Time two cases in pairs; neither always goes first.

    Goes on until there are enough pairs without a disturbance, or the time is over; then the
    least disturbed ones count.
    """
    seats = (first, second)
    calls = (_calls(first), _calls(second))
    pairs: list[Pair] = []
    began = time.monotonic()
    while not _enough(pairs, effort, time.monotonic() - began):
        order = (0, 1) if len(pairs) % 2 else (1, 0)
        pairs.append(_pair(seats, calls, order))
    chosen = choose(pairs, effort.pairs)
    energies = [pair.joules for pair in chosen if pair.joules is not None]
    return Turns(
        tuple(pair.seconds[0] for pair in chosen),
        tuple(pair.seconds[1] for pair in chosen),
        sum(energies) / len(energies) if energies else None,
        len(pairs) - len(chosen),
    )


def choose(pairs: Sequence[Pair], least: int) -> list[Pair]:
    """The calm pairs; if these are too few, the calmest ones, in the order they were taken in."""
    calm = [pair for pair in pairs if pair.disturbance <= CALM]
    if len(calm) >= least:
        return calm
    limit = sorted(pair.disturbance for pair in pairs)[least - 1]
    return [pair for pair in pairs if pair.disturbance <= limit]


def _enough(pairs: Sequence[Pair], effort: Effort, elapsed: float) -> bool:
    if len(pairs) < effort.pairs:
        return False
    calm = sum(pair.disturbance <= CALM for pair in pairs)
    if calm >= effort.most_pairs or elapsed >= effort.limit:
        return True
    return calm >= effort.pairs and elapsed >= effort.seconds


def _pair(seats: tuple[Seat, Seat], calls: tuple[int, int], order: tuple[int, int]) -> Pair:
    taken, joules, worst = [0.0, 0.0], None, 0.0
    for which in order:
        time.sleep(PAUSE)
        seat = seats[which]
        before = mark(time.monotonic(), [seat.pid])
        taken[which], energy = seat.seconds(calls[which])
        seat.rest()
        worst = max(worst, disturbance(before, mark(time.monotonic(), [seat.pid])))
        if which:
            joules = energy
    return Pair((taken[0], taken[1]), joules, worst)


def _calls(seat: Seat) -> int:
    """Calls of one turn."""
    seconds, _ = seat.seconds()
    seat.rest()
    return max(1, min(int(TURN / max(seconds, 1e-6)), MOST_CALLS))

"""Medians with intervals, of times and of paired ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from resharp.bench.records import Estimate

COVERAGE = 0.95
"""Chance that an interval holds the median, at least where there are enough values."""


def estimate(values: Sequence[float]) -> Estimate:
    """The median and its interval, from the order of the values alone, so that a few outliers (a
    busy machine) say nothing.

    With fewer than six values the interval is from the least to the greatest.
    """
    ordered = sorted(values)
    rank = _rank(len(ordered))
    return Estimate(
        median=statistics.median(ordered),
        low=ordered[rank],
        high=ordered[-1 - rank],
        values=tuple(values),
    )


def paired_ratio(baseline: Sequence[float], case: Sequence[float]) -> Estimate:
    """Baseline's seconds over the case's, pair by pair."""
    return estimate([one / two for one, two in zip(baseline, case, strict=True)])


def product(one: Estimate, two: Estimate) -> Estimate:
    """The product of two ratios, with the widest interval that theirs allow."""
    return Estimate(median=one.median * two.median, low=one.low * two.low, high=one.high * two.high)


def deviation(ratio: Estimate) -> float:
    """Relative distance from 1 that a ratio of two like things may have by its interval."""
    return math.exp(max(abs(math.log(ratio.low)), abs(math.log(ratio.high)))) - 1


def largest_deviation(ratios: Iterable[Estimate]) -> float:
    """Relative distance from 1 of the median that is farthest from it."""
    return math.exp(max(abs(math.log(ratio.median)) for ratio in ratios)) - 1


def largest_gap(ratios: Iterable[Estimate]) -> float:
    """Relative distance of the two medians that are farthest apart: one case in several
    processes."""
    medians = [ratio.median for ratio in ratios]
    return max(medians) / min(medians) - 1


def half_width(ratio: Estimate) -> float:
    """Relative half width of a ratio's interval about its median."""
    return max(ratio.high / ratio.median, ratio.median / ratio.low) - 1


def _rank(count: int) -> int:
    """Place of the interval's lower end: the binomial distribution of values below the median."""
    below, rank = 0.0, 0
    for place in range(count // 2):
        below += math.comb(count, place) / 2**count
        if 2 * below > 1 - COVERAGE:
            break
        rank = place + 1
    return max(rank - 1, 0)

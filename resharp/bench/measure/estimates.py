"""Medians of times and of paired ratios, with confidence intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from resharp.bench.records import Estimate

COVERAGE = 0.95
"""Probability that an interval contains the median, given enough values."""


def estimate(values: Sequence[float]) -> Estimate:
    """Return the median and its interval.

    Both depend only on the order of the values, so a few outliers from a busy machine do not affect
    them. With fewer than six values the interval spans all of them.
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
    """Estimate the ratio of the baseline's time to the case's, pair by pair."""
    return estimate([one / two for one, two in zip(baseline, case, strict=True)])


def product(one: Estimate, two: Estimate) -> Estimate:
    """Return the product of two ratios, with the widest interval that their intervals allow."""
    return Estimate(median=one.median * two.median, low=one.low * two.low, high=one.high * two.high)


def deviation(ratio: Estimate) -> float:
    """Return the largest relative distance from 1 within the ratio's interval."""
    return math.exp(max(abs(math.log(ratio.low)), abs(math.log(ratio.high)))) - 1


def largest_deviation(ratios: Iterable[Estimate]) -> float:
    """Return the relative distance from 1 of the median that is farthest from 1."""
    return math.exp(max(abs(math.log(ratio.median)) for ratio in ratios)) - 1


def largest_gap(ratios: Iterable[Estimate]) -> float:
    """Return the relative distance between the smallest and the largest median."""
    medians = [ratio.median for ratio in ratios]
    return max(medians) / min(medians) - 1


def half_width(ratio: Estimate) -> float:
    """Return the half-width of a ratio's interval relative to its median."""
    return max(ratio.high / ratio.median, ratio.median / ratio.low) - 1


def _rank(count: int) -> int:
    """Return the index of the interval's lower end, by the binomial distribution."""
    below, rank = 0.0, 0
    for place in range(count // 2):
        below += math.comb(count, place) / 2**count
        if 2 * below > 1 - COVERAGE:
            break
        rank = place + 1
    return max(rank - 1, 0)

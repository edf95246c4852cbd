"""Comparison of two runs: changes beyond the noise, and regressions.

Speeds are compared as ratios to the baseline that alternated with the case in the same run, so a
machine that slows both down does not affect the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from resharp.bench.records import ABSENT, MEASURED, Record, Records
from resharp.errors import OptionError

THRESHOLD = 0.10
"""Default relative change of speed below which nothing counts as a regression."""
MEMORY_THRESHOLD = 0.10
"""Relative increase of memory below which nothing counts as a regression."""
LEAST_BYTES = 32 << 20
"""Increase of memory, in bytes, below which nothing counts as a regression."""

SAME, SLOWER, FASTER = "same", "slower", "faster"
LOST, MORE_MEMORY = "lost", "more memory"
REGRESSIONS = (SLOWER, LOST, MORE_MEMORY)


@dataclass(frozen=True, kw_only=True)
class Change:
    """Change of one case between two runs."""

    id: str
    verdict: str
    """:data:`SAME`, :data:`SLOWER`, :data:`FASTER`, :data:`LOST` or :data:`MORE_MEMORY`."""
    ratio: float | None = None
    """New speed over the old one: above 1 is faster. None if either run lacks it."""
    noise: float | None = None
    """Relative change that the noise of the two runs can explain."""
    note: str = ""
    ours: bool = True
    """Whether the subject is resharp's: changes of a baseline are not regressions."""

    @property
    def regressed(self) -> bool:
        """Whether the change is a regression."""
        return self.ours and self.verdict in REGRESSIONS


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Result of comparing two runs."""

    changes: tuple[Change, ...]
    warnings: tuple[str, ...] = ()
    """Reasons why the two runs may not be comparable."""
    only: Mapping[str, int] = field(default_factory=dict)
    """Number of cases that only one of the runs has, by ``old`` and ``new``."""

    @property
    def regressions(self) -> tuple[Change, ...]:
        """Changes that are regressions."""
        return tuple(change for change in self.changes if change.regressed)


def compare(old: Records, new: Records, threshold: float = THRESHOLD) -> Comparison:
    """Compare two runs.

    Args:
        old: the earlier run.
        new: the run to check for regressions.
        threshold: relative loss of speed up to which nothing counts as a regression. A larger loss
            counts only if it also exceeds the noise of both runs.

    Raises:
        OptionError: the runs have no measured case in common.
    """
    before, after = (
        {record.case.id: record for record in run.cases if not record.twin} for run in (old, new)
    )
    common = [name for name in before if name in after]
    if not any(before[name].status == MEASURED for name in common):
        raise OptionError(
            "the runs have no measured case in common: compare two runs of the same suite and model"
        )
    return Comparison(
        changes=tuple(_change(before[name], after[name], threshold) for name in common),
        warnings=tuple(_warnings(old, new)),
        only={"old": len(before) - len(common), "new": len(after) - len(common)},
    )


def _change(old: Record, new: Record, threshold: float) -> Change:
    name, ours = new.case.id, not new.case.is_baseline
    if old.status != MEASURED or new.status != MEASURED:
        lost = old.status == MEASURED and new.status != ABSENT
        note = f"{old.status}, now {new.status}{f': {new.reason}' if new.reason else ''}"
        return Change(id=name, verdict=LOST if lost else SAME, note=note, ours=ours)
    ratio, noise, note = _speed(old, new)
    verdict = SAME
    if ratio is not None and noise is not None and abs(math.log(ratio)) > math.log1p(noise):
        if ratio < 1 / (1 + threshold):
            verdict = SLOWER
        elif ratio > 1 + threshold:
            verdict = FASTER
    more = _more_memory(old, new)
    if more and verdict != SLOWER:
        verdict = MORE_MEMORY
    note = "; ".join(filter(None, [note, more]))
    return Change(id=name, verdict=verdict, ratio=ratio, noise=noise, note=note, ours=ours)


def _speed(old: Record, new: Record) -> tuple[float | None, float | None, str]:
    """Return the new speed over the old one, its noise, and a note on how it was determined."""
    noise = math.hypot(old.noise or 0.0, new.noise or 0.0)
    if old.kin_ratio is not None and new.kin_ratio is not None and old.kin == new.kin:
        return new.kin_ratio.median / old.kin_ratio.median, noise, ""
    if old.case.is_baseline:
        return None, None, "reference for the other cases"
    if old.seconds is None or new.seconds is None:
        return None, None, ""
    widths = [math.log(one.high / one.low) / 2 for one in (old.seconds, new.seconds)]
    note = "compared by absolute time: the runs share no baseline for this case"
    return old.seconds.median / new.seconds.median, math.expm1(math.hypot(*widths)), note


def _more_memory(old: Record, new: Record) -> str:
    for name in ("device", "host"):
        one = getattr(old.memory, name, None)
        two = getattr(new.memory, name, None)
        if one and two and two > one * (1 + MEMORY_THRESHOLD) and two - one > LEAST_BYTES:
            return f"{name} memory {one / 2**20:.0f} -> {two / 2**20:.0f} MiB"
    return ""


def _warnings(old: Records, new: Records) -> list[str]:
    found = []
    for text, keys in (("processor", ("cpu", "threads")), ("GPU", ("gpu",))):
        one, two = ([_named(r.run.environment.get(k)) for k in keys] for r in (old, new))
        if one != two:
            found.append(f"different {text}: {one[0]} and {two[0]}; ratios may not be comparable")
    if any(records.run.seconds is None for records in (old, new)):
        found.append("one of the runs is incomplete: cases are missing")
    return found


def _named(value: object) -> object:
    return value.get("name") if isinstance(value, Mapping) else value

"""Two runs against each other: what changed beyond the noise, and what got worse.

Speeds are compared as ratios to the baseline that took turns with the case in its own run, so that
a machine that was slower meanwhile, and slowed both, changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from resharp.bench.records import ABSENT, MEASURED, Record, Records
from resharp.errors import OptionError

THRESHOLD = 0.10
"""Relative change of speed under which nothing is called a regression, unless told."""
MEMORY_THRESHOLD = 0.10
LEAST_BYTES = 32 << 20
"""Memory that may come and go without being one."""

SAME, SLOWER, FASTER = "same", "slower", "faster"
LOST, MORE_MEMORY = "lost", "more memory"
REGRESSIONS = (SLOWER, LOST, MORE_MEMORY)


@dataclass(frozen=True, kw_only=True)
class Change:
    """What became of one case."""

    id: str
    verdict: str
    """One of the words above."""
    ratio: float | None = None
    """New speed over the old one: above 1 is faster. None: one of the two has none."""
    noise: float | None = None
    """Relative change that means nothing."""
    note: str = ""
    ours: bool = True
    """Whether it is resharp's: a baseline's change is no regression."""

    @property
    def regressed(self) -> bool:
        """Whether it got worse."""
        return self.ours and self.verdict in REGRESSIONS


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All changes, by case."""

    changes: tuple[Change, ...]
    warnings: tuple[str, ...] = ()
    """What makes the two runs hard to compare."""
    only: Mapping[str, int] = field(default_factory=dict)
    """Cases that one run has and the other has not, by ``old`` and ``new``."""

    @property
    def regressions(self) -> tuple[Change, ...]:
        """Those that got worse."""
        return tuple(change for change in self.changes if change.regressed)


def compare(old: Records, new: Records, threshold: float = THRESHOLD) -> Comparison:
    """Compare two runs.

    Args:
        old: the run to compare with.
        new: the run in question.
        threshold: relative loss of speed up to which nothing is called a regression. Beyond it, a
            change counts if it is beyond the noise of both runs too.

    Raises:
        OptionError: they have no case in common.
    """
    before, after = (
        {record.case.id: record for record in run.cases if not record.twin} for run in (old, new)
    )
    common = [name for name in before if name in after]
    if not any(before[name].status == MEASURED for name in common):
        raise OptionError(
            "the two runs have no measured case in common: give two runs of one suite and model"
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
    """New over old, the noise of it, and how it was found."""
    noise = math.hypot(old.noise or 0.0, new.noise or 0.0)
    if old.kin_ratio is not None and new.kin_ratio is not None and old.kin == new.kin:
        return new.kin_ratio.median / old.kin_ratio.median, noise, ""
    if old.case.is_baseline:
        return None, None, "the others' measure"
    if old.seconds is None or new.seconds is None:
        return None, None, ""
    widths = [math.log(one.high / one.low) / 2 for one in (old.seconds, new.seconds)]
    note = "by the clock alone: it took turns with no baseline, or with another one"
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
            found.append(f"another {text}: {one[0]} and {two[0]}; ratios need not agree")
    if any(records.run.seconds is None for records in (old, new)):
        found.append("one of the runs did not end: cases are missing")
    return found


def _named(value: object) -> object:
    return value.get("name") if isinstance(value, Mapping) else value

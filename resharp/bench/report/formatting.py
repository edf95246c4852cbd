"""Figures and cases as short text, shared by the plots, the HTML report and the Markdown pages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from resharp.bench.cases import SUBJECTS
from resharp.bench.records import CaseParity, Estimate, Record, group_by
from resharp.engines.reference import PERFECT_DB

NONE = "-"
"""Placeholder for a missing measurement."""
FIRST_KEYS = ("cpu", "threads", "gpu", "system", "resharp", "commit")
"""Keys of an environment that are listed first; the rest follows by name."""
BYTES = " (bytes)"
"""Suffix of the keys of an environment that are sizes."""

READING = (
    "A ratio is a relative speed: the baseline's time divided by the case's time, measured pair by "
    "pair in the same run. Above 1 is faster than the baseline. The range in parentheses is the "
    "95 % confidence interval of the median.\n"
    "Noise is how much the ratio varies without a real change: the difference between two "
    "measurements of the baseline, or the spread of the case's own pairs and processes if that is "
    "larger. Changes within the noise are not significant.\n"
    "Parity is checked first: a case whose PSNR to the reference is below its floor is dropped and "
    "has no figures.\n"
    "Compare ratios rather than milliseconds: times from different machines, or from a busy one, "
    "are not comparable."
).splitlines()
"""Explanation of how to read the figures, one paragraph per item."""


def digits(value: float | None, count: int = 3) -> str:
    """Format a number with ``count`` significant digits, without an exponent."""
    if value is None:
        return NONE
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    rounded = float(f"{value:.{count - 1}e}")
    decimals = count - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:.{max(decimals, 0)}f}"


def gigaflops(value: float | None) -> str:
    """Format operations per second as GFLOP/s."""
    return NONE if value is None else digits(value / 1e9)


def estimate(value: Estimate | None, factor: float = 1.0) -> str:
    """Format a median and its interval: ``2.31 (2.20 to 2.41)``."""
    if value is None:
        return NONE
    low, high = digits(value.low * factor), digits(value.high * factor)
    return f"{digits(value.median * factor)} ({low} to {high})"


def percent(share: float | None) -> str:
    """Format a fraction as a percentage."""
    return NONE if share is None else f"{digits(100 * share)} %"


def mebibytes(size: int | None) -> str:
    """Format bytes as whole MiB."""
    return NONE if size is None else f"{size / 2**20:.0f}"


def decibels(parity: CaseParity | None) -> str:
    """Format the PSNR with its unit: ``66.0 dB``."""
    if parity is None:
        return NONE
    return "identical" if parity.psnr >= PERFECT_DB else f"{parity.psnr:.1f} dB"


def parity(value: CaseParity | None) -> str:
    """Format the PSNR and the largest difference: ``66.0 dB, 1 level``."""
    if value is None or value.psnr >= PERFECT_DB:
        return decibels(value)
    return f"{decibels(value)}, {value.levels} level{'' if value.levels == 1 else 's'}"


def tile(record: Record) -> str:
    """Format the tile that was used, in pixels, with ``(auto)`` if it was chosen automatically."""
    if record.actual is None:
        return NONE if record.case.is_baseline else str(record.case.tile)
    used = "whole" if record.actual.tile is None else str(record.actual.tile)
    return f"{used} (auto)" if _is_auto(record) else used


def _is_auto(record: Record) -> bool:
    return record.case.tile == "auto" and not record.case.is_baseline


def batch(record: Record) -> str:
    """Format the batch that was used, or else the requested one."""
    used = record.actual.batch if record.actual else None
    found = record.case.batch if used is None else used
    return NONE if found is None else str(found)


def _settings(record: Record, names: Mapping[str, str]) -> list[str]:
    """Return the settings that differ from their defaults, each prefixed with its name."""
    defaults = {"precision": "auto", "threads": None, "batch": None, "lanes": 1}
    values = {name: getattr(record.case, name) for name in names}
    return [f"{names[name]}{value}" for name, value in values.items() if value != defaults[name]]


def subject(record: Record) -> str:
    """Format the subject, with its precision and threads if they are not the defaults."""
    return ", ".join(
        [record.case.subject, *_settings(record, {"precision": "", "threads": "threads "})]
    )


def series(record: Record) -> str:
    """Format everything but the tile, which is what the cases of one line have in common."""
    return ", ".join([subject(record), *_settings(record, {"batch": "batch ", "lanes": "lanes "})])


def point(record: Record) -> str:
    """Format a short label of tile, batch and lanes, e.g. ``512 b4 L2``; ones are omitted."""
    used = record.actual.tile if record.actual else None
    parts = ["whole" if used is None else str(used)]
    if _is_auto(record):
        parts.append("auto")
    if batch(record) not in (NONE, "1"):
        parts.append(f"b{batch(record)}")
    return " ".join([*parts, *_settings(record, {"lanes": "L", "threads": "t", "precision": ""})])


def title(record: Record) -> str:
    """Format the subject and the short label; baselines that run whole images have no label."""
    label = point(record)
    whole = record.case.is_baseline and label == "whole"
    return record.case.subject if whole else f"{record.case.subject} {label}"


def best(records: Iterable[Record]) -> dict[str, Record]:
    """Return the fastest case of each subject, in the order of :data:`SUBJECTS`.

    Cases are compared by their ratios, which are more stable than rates because they are measured
    in pairs, or by their rates if any case of the subject has no ratio. The first one wins a tie.
    """
    timed = (record for record in records if record.rates is not None)
    groups = group_by(timed, lambda record: record.case.subject)
    found = {}
    for name in sorted(groups, key=SUBJECTS.index):
        ratios = [record.ratio.median for record in groups[name] if record.ratio is not None]
        rates = [record.megapixels or 0.0 for record in groups[name]]
        values = ratios if len(ratios) == len(rates) else rates
        found[name] = groups[name][values.index(max(values))]
    return found


def ordered(records: Iterable[Record]) -> list[Record]:
    """Sort records by subject, then by the parts of their labels, numbers numerically."""

    def key(record: Record) -> tuple[Any, ...]:
        case, used = record.case, record.actual.tile if record.actual else None
        place = (SUBJECTS.index(case.subject), case.precision, case.threads or 0)
        return (*place, case.lanes, case.batch or 0, used is None, used or 0)

    return sorted(records, key=key)


def by_device(records: Iterable[Record]) -> list[tuple[bool, list[Record]]]:
    """Group records, sorted, into those on the GPU and the others; empty groups are omitted."""
    groups = group_by(ordered(records), lambda record: record.on_gpu)
    return [(gpu, groups[gpu]) for gpu in (True, False) if gpu in groups]


def environment_rows(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Format an environment as rows of name and text, the machine first, sizes in GiB."""

    def rank(key: str) -> tuple[int, str]:
        return FIRST_KEYS.index(key) if key in FIRST_KEYS else len(FIRST_KEYS), key

    names = sorted(environment, key=rank)
    return [(name.removesuffix(BYTES), _value(name, environment[name])) for name in names]


def _value(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        parts = (f"{key.removesuffix(BYTES)} {_value(key, value[key])}" for key in sorted(value))
        return ", ".join(parts) or NONE
    if isinstance(value, list | tuple):
        return ", ".join(_value(name, item) for item in value) or NONE
    if value is None or value == "":
        return NONE
    if name.endswith(BYTES) and isinstance(value, int):
        return f"{value / 2**30:.1f} GiB"
    return digits(value, 4) if isinstance(value, float) else str(value)

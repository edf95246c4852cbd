"""Figures and cases as short text, the same in plots, in the page and in the Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from resharp.bench.cases import SUBJECTS
from resharp.bench.records import CaseParity, Estimate, Record, group_by
from resharp.engines.reference import PERFECT_DB

NONE = "-"
"""Stands for what was not measured."""
FIRST_KEYS = ("cpu", "threads", "gpu", "system", "resharp", "commit")
"""Of an environment: what a reader looks for first; the rest follows by name."""
BYTES = " (bytes)"
"""Ends the names of sizes in an environment."""

READING = (
    "A ratio is a speed: the baseline's time over the case's, taken pair by pair in the same run; "
    "above 1 is faster than the baseline, and the interval in brackets is the 95 % one of the "
    "median.\n"
    "Noise is what the baseline differed by when it was measured twice, or what the case's own "
    "pairs and processes differed by, if that is more: a change of a ratio within it says nothing."
    "\nParity comes first: a case whose output is further from the reference than its floor is "
    "dropped, and has no figures.\n"
    "Compare ratios rather than milliseconds: the times of another machine, or of a busy one, do "
    "not compare."
).splitlines()
"""How figures are to be read, in sentences."""


def digits(value: float | None, count: int = 3) -> str:
    """A number with ``count`` significant digits, without an exponent."""
    if value is None:
        return NONE
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    rounded = float(f"{value:.{count - 1}e}")
    decimals = count - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:.{max(decimals, 0)}f}"


def gigaflops(value: float | None) -> str:
    """Operations per second, as GFLOP/s."""
    return NONE if value is None else digits(value / 1e9)


def estimate(value: Estimate | None, factor: float = 1.0) -> str:
    """Median and interval: ``2.31 (2.20 to 2.41)``."""
    if value is None:
        return NONE
    low, high = digits(value.low * factor), digits(value.high * factor)
    return f"{digits(value.median * factor)} ({low} to {high})"


def percent(share: float | None) -> str:
    """A share as per cent."""
    return NONE if share is None else f"{digits(100 * share)} %"


def mebibytes(size: int | None) -> str:
    """Bytes as whole MiB."""
    return NONE if size is None else f"{size / 2**20:.0f}"


def decibels(parity: CaseParity | None) -> str:
    """PSNR, with its unit."""
    if parity is None:
        return NONE
    return "identical" if parity.psnr >= PERFECT_DB else f"{parity.psnr:.1f} dB"


def parity(value: CaseParity | None) -> str:
    """PSNR and the largest difference: ``66.0 dB, 1 level``."""
    if value is None or value.psnr >= PERFECT_DB:
        return decibels(value)
    return f"{decibels(value)}, {value.levels} level{'' if value.levels == 1 else 's'}"


def tile(record: Record) -> str:
    """The tile that was used, in pixels, and ``auto`` where that was asked for."""
    if record.actual is None:
        return NONE if record.case.is_baseline else str(record.case.tile)
    used = "whole" if record.actual.tile is None else str(record.actual.tile)
    return f"{used} (auto)" if _is_auto(record) else used


def _is_auto(record: Record) -> bool:
    return record.case.tile == "auto" and not record.case.is_baseline


def batch(record: Record) -> str:
    """Tiles of one run of the network, as used or else as asked for."""
    used = record.actual.batch if record.actual else None
    found = record.case.batch if used is None else used
    return NONE if found is None else str(found)


def _settings(record: Record, names: Mapping[str, str]) -> list[str]:
    """Those of the case's settings that are not the default, each after its name."""
    defaults = {"precision": "auto", "threads": None, "batch": None, "lanes": 1}
    values = {name: getattr(record.case, name) for name in names}
    return [f"{names[name]}{value}" for name, value in values.items() if value != defaults[name]]


def subject(record: Record) -> str:
    """The subject, with its precision and threads where those were asked for."""
    return ", ".join(
        [record.case.subject, *_settings(record, {"precision": "", "threads": "threads "})]
    )


def series(record: Record) -> str:
    """What the cases of one line have in common: all but the tile."""
    return ", ".join([subject(record), *_settings(record, {"batch": "batch ", "lanes": "lanes "})])


def point(record: Record) -> str:
    """A label of few letters: ``512 b4 L2`` for tile, batch and lanes; ones are left out."""
    used = record.actual.tile if record.actual else None
    parts = ["whole" if used is None else str(used)]
    if _is_auto(record):
        parts.append("auto")
    if batch(record) not in (NONE, "1"):
        parts.append(f"b{batch(record)}")
    return " ".join([*parts, *_settings(record, {"lanes": "L", "threads": "t", "precision": ""})])


def title(record: Record) -> str:
    """Subject and the point's label; for a baseline of whole pictures the subject alone."""
    label = point(record)
    whole = record.case.is_baseline and label == "whole"
    return record.case.subject if whole else f"{record.case.subject} {label}"


def best(records: Iterable[Record]) -> dict[str, Record]:
    """The fastest case of each subject, in the order of :data:`SUBJECTS`.

    By the ratio, which is taken pair by pair and so is steadier than the rate, where all cases of
    the subject have one; otherwise by the rate. The first wins a draw.
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
    """By subject, then what the label says, numbers as numbers."""

    def key(record: Record) -> tuple[Any, ...]:
        case, used = record.case, record.actual.tile if record.actual else None
        place = (SUBJECTS.index(case.subject), case.precision, case.threads or 0)
        return (*place, case.lanes, case.batch or 0, used is None, used or 0)

    return sorted(records, key=key)


def by_device(records: Iterable[Record]) -> list[tuple[bool, list[Record]]]:
    """Those on the GPU and the others, in order; what has none is left out."""
    groups = group_by(ordered(records), lambda record: record.on_gpu)
    return [(gpu, groups[gpu]) for gpu in (True, False) if gpu in groups]


def environment_rows(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """An environment as rows of name and text, the machine first; bytes as GiB."""

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

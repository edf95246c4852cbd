"""Figures and cases as short text, the same in plots, in the page and in the Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from resharp.bench.cases import SUBJECTS
from resharp.bench.records import Parity, Record, Spread
from resharp.bench.records import on_gpu as on_gpu
from resharp.bench.records import peak as peak

NONE = "-"
"""Stands for what was not measured."""
MIB = 2**20
IDENTICAL = 200.0
"""PSNR in dB that records give to identical pictures."""
FIRST_KEYS = ("cpu", "threads", "gpu", "system", "resharp", "commit")
"""Of an environment: what a reader looks for first; the rest follows by name."""
BYTES = " (bytes)"
"""Ends the names of sizes in an environment."""

READING = (
    (
        "A ratio is a speed: the baseline's time over the case's, taken pair by pair in the same "
        "run; above 1 is faster than the baseline, and the interval in brackets is the 95 % one of "
        "the median."
    ),
    (
        "Noise is what the baseline differed by when it was measured twice, or what the case's own "
        "pairs and processes differed by, if that is more: a change of a ratio within it says "
        "nothing."
    ),
    (
        "Parity comes first: a case whose output is further from the reference than its floor is "
        "dropped, and has no figures."
    ),
    (
        "Compare ratios rather than milliseconds: the times of another machine, or of a busy one, "
        "do not compare."
    ),
)
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


def spread(value: Spread | None, factor: float = 1.0) -> str:
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
    return NONE if size is None else f"{size / MIB:.0f}"


def decibels(parity: Parity | None) -> str:
    """PSNR, with its unit."""
    if parity is None:
        return NONE
    return "identical" if parity.psnr >= IDENTICAL else f"{parity.psnr:.1f} dB"


def parity(value: Parity | None) -> str:
    """PSNR and the largest difference: ``66.0 dB, 1 level``."""
    if value is None or value.psnr >= IDENTICAL:
        return decibels(value)
    return f"{decibels(value)}, {value.levels} level{'' if value.levels == 1 else 's'}"


def tile(record: Record) -> str:
    """The tile that was used, in pixels, and ``auto`` where it was asked for so."""
    if record.actual is None:
        return NONE if record.case.is_baseline else str(record.case.tile)
    used = "whole" if record.actual.tile is None else str(record.actual.tile)
    return f"{used} (auto)" if _chosen(record) else used


def _chosen(record: Record) -> bool:
    return record.case.tile == "auto" and not record.case.is_baseline


def batch(record: Record) -> str:
    """Tiles of one run of the network, as used or else as asked for."""
    used = record.actual.batch if record.actual else None
    found = record.case.batch if used is None else used
    return NONE if found is None else str(found)


def subject(record: Record) -> str:
    """The subject, with its precision and threads where those were asked for."""
    parts = [record.case.subject]
    if record.case.precision != "auto":
        parts.append(record.case.precision)
    if record.case.threads is not None:
        parts.append(f"threads {record.case.threads}")
    return ", ".join(parts)


def series(record: Record) -> str:
    """What the cases of one line have in common: all but the tile."""
    parts = [subject(record)]
    if record.case.batch is not None:
        parts.append(f"batch {record.case.batch}")
    if record.case.lanes != 1:
        parts.append(f"lanes {record.case.lanes}")
    return ", ".join(parts)


def point(record: Record) -> str:
    """A label of few letters: ``512 b4 L2`` for tile, batch and lanes; ones are left out."""
    used = record.actual.tile if record.actual else None
    parts = ["whole" if used is None else str(used)]
    if _chosen(record):
        parts.append("auto")
    if batch(record) not in (NONE, "1"):
        parts.append(f"b{batch(record)}")
    if record.case.lanes != 1:
        parts.append(f"L{record.case.lanes}")
    if record.case.threads is not None:
        parts.append(f"t{record.case.threads}")
    if record.case.precision != "auto":
        parts.append(record.case.precision)
    return " ".join(parts)


def title(record: Record) -> str:
    """Subject and the point's label; for a baseline of whole pictures the subject alone."""
    label = point(record)
    whole = record.case.is_baseline and label == "whole"
    return record.case.subject if whole else f"{record.case.subject} {label}"


def speed(record: Record) -> float | None:
    """Input megapixels per second."""
    return record.rates.input_megapixels if record.rates else None


def best(records: Iterable[Record]) -> dict[str, Record]:
    """The fastest case of each subject, by rising order of :data:`SUBJECTS`.

    By the ratio, which is taken pair by pair and so is steadier than the rate, where all cases of
    the subject have one; otherwise by the rate. The first wins a draw.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record.rates is not None:
            groups.setdefault(record.case.subject, []).append(record)
    return {name: _fastest(groups[name]) for name in SUBJECTS if name in groups}


def _fastest(records: Sequence[Record]) -> Record:
    ratios = [record.ratio.median for record in records if record.ratio is not None]
    rates = [speed(record) or 0.0 for record in records]
    values = ratios if len(ratios) == len(records) else rates
    return records[max(range(len(records)), key=values.__getitem__)]


def ordered(records: Iterable[Record]) -> list[Record]:
    """By subject, then what the label says, numbers as numbers."""

    def key(record: Record) -> tuple[Any, ...]:
        used = record.actual.tile if record.actual else None
        case = record.case
        whole = used is None
        return (
            SUBJECTS.index(case.subject),
            case.precision,
            case.threads or 0,
            case.lanes,
            case.batch or 0,
            whole,
            used or 0,
        )

    return sorted(records, key=key)


def facts(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """An environment as rows of name and text, the machine first; bytes as GiB."""
    names = sorted(environment, key=lambda key: (_rank(key), key))
    return [(name.removesuffix(BYTES), _fact(name, environment[name])) for name in names]


def _rank(key: str) -> int:
    return FIRST_KEYS.index(key) if key in FIRST_KEYS else len(FIRST_KEYS)


def _fact(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        parts = (f"{key.removesuffix(BYTES)} {_fact(key, value[key])}" for key in sorted(value))
        return ", ".join(parts) or NONE
    if isinstance(value, list | tuple):
        return ", ".join(_fact(name, item) for item in value) or NONE
    if value is None or value == "":
        return NONE
    if name.endswith(BYTES) and isinstance(value, int):
        return f"{value / 2**30:.1f} GiB"
    return digits(value, 4) if isinstance(value, float) else str(value)

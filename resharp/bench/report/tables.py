"""The tables of the page, as HTML with all text escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from resharp.bench.records import MEASURED, Record, Records, Run, by_model
from resharp.bench.report import words

CASES = (
    "subject",
    "tile",
    "batch",
    "lanes",
    "parity",
    "ms per picture (95 %)",
    "ratio (95 %)",
    "to",
    "noise",
    "MP/s in",
    "frames/s",
    "GFLOP/s",
    "matrix rate",
    "J/MP",
    "GPU MiB",
    "host MiB",
)
TEXTS = 1
"""Columns at the start that are text; the others are figures, set to the right."""


def escape(text: str) -> str:
    """Text for a page, quotes included."""
    return html.escape(text, quote=True)


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "", texts: int = 99
) -> str:
    """A table; columns from ``texts`` on are figures."""
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "\n".join(f"<tr>{_cells(row, texts)}</tr>" for row in rows)
    return (
        f'<div class="wide"><table>{title}<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cells(row: Sequence[str], texts: int) -> str:
    kinds = ("" if index < texts else ' class="n"' for index in range(len(row)))
    return "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))


def environment(run: Run) -> list[tuple[str, str]]:
    """Rows of the environment, with the matrix rates of the run."""
    rates = ((f"matrix rate, {key}", value) for key, value in sorted(run.matrix_rate.items()))
    return [
        ("suite", run.suite),
        ("date", run.began),
        *words.facts(run.environment),
        *((key, f"{words.digits(value / 1e9)} GFLOP/s") for key, value in rates),
    ]


def measured(records: Records) -> str:
    """A table of each model and size."""
    groups = by_model(records.measured())
    if not groups:
        return "<p>No case has figures.</p>"
    return "\n".join(
        table(
            CASES,
            [_row(record) for record in words.ordered(group)],
            caption=f"{model}, picture of {width}x{height}",
            texts=TEXTS,
        )
        for (model, height, width), group in groups.items()
    )


def _row(record: Record) -> tuple[str, ...]:
    rates, memory = record.rates, record.memory
    return (
        words.subject(record),
        words.tile(record),
        words.batch(record),
        str(record.case.lanes),
        words.parity(record.parity),
        words.spread(record.seconds, 1000.0),
        words.spread(record.ratio),
        record.baseline or words.NONE,
        words.percent(record.noise),
        words.digits(rates.input_megapixels if rates else None),
        words.digits(rates.frames if rates else None),
        words.digits(rates.flops / 1e9 if rates and rates.flops is not None else None),
        words.percent(rates.matrix_share if rates else None),
        words.digits(rates.joules_per_megapixel if rates else None),
        words.mebibytes(memory.device if memory else None),
        words.mebibytes(memory.host if memory else None),
    )


def without_figures(records: Records) -> str:
    """A table of the cases that have none, with the reason."""
    rows = [
        (record.case.id, record.status, words.decibels(record.parity), record.reason or words.NONE)
        for record in records.cases
        if record.status != MEASURED
    ]
    if not rows:
        return "<p>None: every case has figures.</p>"
    return table(("case", "status", "parity", "reason"), rows)


def checks(records: Records) -> str:
    """What two measurements of a case differed by, and how near the memory is to the truth."""
    return _noise(records) + "\n" + _memory(records.run)


def _noise(records: Records) -> str:
    twins = {_size(twin): words.spread(twin.ratio) for twin in records.twins()}
    rows = [
        (key, words.percent(value), twins.get(key, words.NONE))
        for key, value in sorted(records.run.noise.items())
    ]
    head = ("model and size", "noise of a ratio", "ratio of the baseline to itself (95 %)")
    return table(head, rows, texts=1) if rows else "<p>Noise was not measured.</p>"


def _size(record: Record) -> str:
    return f"{record.case.model} {record.case.width}x{record.case.height}"


def _memory(run: Run) -> str:
    rows = [_check(kind, value) for kind, value in sorted(run.memory_check.items())]
    head = ("memory of the", "allocated, MiB", "measured, MiB", "error")
    if not rows:
        return "<p>The measurement of memory was not checked.</p>"
    return table(head, rows, texts=1)


def _check(kind: str, value: Any) -> tuple[str, str, str, str]:
    return (
        kind,
        words.mebibytes(value.get("allocated")),
        words.mebibytes(value.get("measured")),
        words.percent(value.get("error")),
    )

"""The time of a picture, split by stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resharp.bench.records import Record
from resharp.bench.report import canvas, words
from resharp.bench.report.canvas import Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STAGES = ("read", "upload", "compute", "download", "write")
FILLS = {
    "read": ("#cfe3f3", "///"),
    "upload": ("#7fb2dd", "..."),
    "compute": ("#0072b2", ""),
    "download": ("#e8b26a", "xxx"),
    "write": ("#f6e3c5", "\\\\\\"),
}
"""Colour and hatch of each stage: light and dark alternate, for print without colour."""
PER_PLOT = 24
"""Bars in one figure, so that it fits on a page."""


def draw(name: str, records: Sequence[Record]) -> list[Plot]:
    """The plots, of the GPU's cases and of the others, in parts of so many bars."""
    known = [r for r in words.ordered(records) if _parts(r)]
    groups = [(gpu, [r for r in known if words.on_gpu(r) is gpu]) for gpu in (True, False)]
    return [plot for gpu, group in groups if group for plot in _pages(name, group, gpu)]


def _pages(name: str, records: Sequence[Record], gpu: bool) -> list[Plot]:
    count = -(-len(records) // PER_PLOT)
    size = -(-len(records) // count)
    longest = max(sum(_parts(r).values()) for r in records)  # one scale for all
    found = []
    for number in range(count):
        title = f"Time by stage on the {'GPU' if gpu else 'CPU'}: {name}"
        file = canvas.stem("stages", "gpu" if gpu else "cpu", name)
        if count > 1:
            title, file = f"{title} ({number + 1} of {count})", f"{file}-{number + 1}"
        page = records[number * size : (number + 1) * size]
        found.append(_plot(title, f"{file}.png", page, longest))
    return found


def _parts(record: Record) -> dict[str, float]:
    """Milliseconds by stage, of those measured."""
    values = {stage: getattr(record.stages, stage, None) for stage in STAGES}
    return {stage: 1000 * value for stage, value in values.items() if value is not None}


def _plot(title: str, file: str, records: Sequence[Record], longest: float) -> Plot:
    made, axes = canvas.figure(1.7 + 0.29 * len(records), title)
    rows = [_parts(record) for record in records]
    for stage in STAGES:
        if any(stage in row for row in rows):
            _bars(axes, stage, rows)
    for index, row in enumerate(rows):
        total = sum(row.values())
        axes.text(total + 0.01 * longest, index, words.digits(total), va="center", fontsize=8.5)
    axes.set_xlim(0, longest * 1.13 or 1.0)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [canvas.literal(words.title(r)) for r in records])
    axes.grid(visible=False, axis="y")
    canvas.name_axes(axes, "milliseconds per picture", "")
    canvas.legend(made, axes, columns=5)
    return Plot(file, title, _alt(records, rows), _caption(records), canvas.to_png(made))


def _bars(axes: Axes, stage: str, rows: Sequence[dict[str, float]]) -> None:
    before = STAGES[: STAGES.index(stage)]
    color, hatch = FILLS[stage]
    axes.barh(
        range(len(rows)),
        [row.get(stage, 0.0) for row in rows],
        left=[sum(row.get(other, 0.0) for other in before) for row in rows],
        height=0.68,
        color=color,
        hatch=hatch,
        edgecolor="#333333",
        linewidth=0.5,
        label=stage,
    )


def _alt(records: Sequence[Record], rows: Sequence[dict[str, float]]) -> str:
    texts = []
    for record, row in zip(records, rows, strict=True):
        stages = ", ".join(f"{stage} {words.digits(value)}" for stage, value in row.items())
        texts.append(f"{words.title(record)}: {stages}")
    return f"Milliseconds by stage. {'; '.join(texts)}."


def _caption(records: Sequence[Record]) -> str:
    text = (
        "Each stage was measured alone, so a bar's sum, written at its end, is more than the time "
        "of a picture where stages overlap. A stage without a bar was not measured."
    )
    ways = sorted({r.stages.by for r in records if r.stages and r.stages.by})
    return f"{text} How they were told apart: {'; '.join(ways)}." if ways else text

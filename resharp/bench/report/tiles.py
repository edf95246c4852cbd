"""Throughput against the size of the tile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resharp.bench.records import Record
from resharp.bench.report import canvas, words
from resharp.bench.report.canvas import Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LINES = 9
"""In one plot; more are parted by lanes."""
DASHES = (
    *("-", (0, (4, 3)), (0, (1, 1.5)), (0, (6, 2, 1, 2))),
    *((0, (8, 2, 1, 2, 1, 2)), (0, (10, 4)), (0, (1, 5))),
)
"""Of a subject's lines, in turn: they differ by batch, lanes, threads or precision."""
FLAT = ((0, (5, 4)), (0, (2, 3)), (0, (7, 3, 1, 3)), (0, (3, 2, 3, 5)))
"""Of the baselines."""


def draw(name: str, records: Sequence[Record]) -> list[Plot]:
    """Plots for what ran on the GPU and for the rest, of those that have two sizes of tile."""
    known = [r for r in words.ordered(records) if words.speed(r) is not None]
    groups = [[r for r in known if words.on_gpu(r) is gpu] for gpu in (True, False)]
    return [plot for group in groups if _scales(group) for plot in _plots(name, group)]


def _scales(records: Sequence[Record]) -> bool:
    return len({_side(r) for r in records if not r.case.is_baseline}) > 1


def _plots(name: str, records: Sequence[Record]) -> list[Plot]:
    place = "GPU" if words.on_gpu(records[0]) else "CPU"
    title, stem = f"Throughput by size of tile on the {place}", f"tiles-{place.lower()}"
    flat = [r for r in records if r.case.is_baseline]
    tiled = [r for r in records if not r.case.is_baseline]
    if len(_series(tiled)) <= MOST_LINES:
        return [_plot(f"{title}: {name}", canvas.stem(stem, name), tiled, flat, records)]
    found = []
    for lanes in sorted({r.case.lanes for r in tiled}):
        chosen = [r for r in tiled if r.case.lanes == lanes]
        file = canvas.stem(f"{stem}-lanes-{lanes}", name)
        found.append(_plot(f"{title}, lanes {lanes}: {name}", file, chosen, flat, records))
    return found


def _plot(
    title: str,
    stem: str,
    tiled: Sequence[Record],
    flat: Sequence[Record],
    limits: Sequence[Record],
) -> Plot:
    """A plot with the axes that ``limits`` need, so that those of a group compare."""
    lines = _series(tiled)
    made, axes = canvas.figure(4.4 + 0.11 * (len(lines) + len(flat)), title)
    sides = [_side(r) for r in limits if not r.case.is_baseline]
    _limits(axes, sides, [words.speed(r) or 0.0 for r in limits])
    for label, line in lines.items():
        _line(axes, label, line)
    for index, record in enumerate(flat):
        _flat(axes, record, FLAT[index % len(FLAT)])
    canvas.name_axes(
        axes, "side of a tile, input pixels", "throughput, input megapixels per second"
    )
    canvas.legend(made, axes)
    return Plot(f"{stem}.png", title, _alt(tiled), _caption(tiled), canvas.to_png(made))


def _side(record: Record) -> int:
    """Largest side of a tile; of a whole picture its own."""
    used = record.actual.tile if record.actual else None
    return max(record.case.height, record.case.width) if used is None else used


def _limits(axes: Axes, sides: Sequence[int], rates: Sequence[float]) -> None:
    low, high = min(sides), max(sides)
    axes.set_xscale("log")
    factor = (high / low) ** 0.08 if high > low else 1.5
    axes.set_xlim(low / factor, high * factor)
    canvas.fixed_ticks(axes, sides)
    canvas.scale(axes, "y", rates)
    if axes.get_yscale() == "linear":
        axes.set_ylim(0.0, max(rates) * 1.12)  # heights compare only from zero


def _series(records: Sequence[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(words.series(record), []).append(record)
    return {label: sorted(line, key=_side) for label, line in found.items()}


def _line(axes: Axes, label: str, line: Sequence[Record]) -> None:
    subject = line[0].case.subject
    earlier = [text.split(",")[0] for text in axes.get_legend_handles_labels()[1]]
    rates = [words.speed(r) or 0.0 for r in line]
    axes.errorbar(
        [_side(r) for r in line],
        rates,
        yerr=_whiskers(line, rates),
        color=canvas.look(subject).color,
        linestyle=DASHES[earlier.count(subject) % len(DASHES)],
        linewidth=1.4,
        marker=canvas.look(subject).marker,
        markersize=6,
        capsize=2.5,
        elinewidth=0.9,
        label=label,
    )


def _whiskers(line: Sequence[Record], rates: Sequence[float]) -> list[list[float]]:
    """Below and above each rate: the interval of the seconds, turned into rates."""
    below, above = [], []
    for record, rate in zip(line, rates, strict=True):
        time = record.seconds
        below.append(max(0.0, rate - rate * time.median / time.high) if time else 0.0)
        above.append(max(0.0, rate * time.median / time.low - rate) if time else 0.0)
    return [below, above]


def _flat(axes: Axes, record: Record, dashes: object) -> None:
    """A baseline: one speed whatever the tile."""
    look, rate = canvas.look(record.case.subject), words.speed(record) or 0.0
    axes.plot(
        axes.get_xlim(),
        [rate, rate],
        color=look.color,
        linestyle=dashes,
        linewidth=1.3,
        marker=look.marker,
        markerfacecolor="white",
        markersize=7,
        clip_on=False,
        label=f"{words.series(record)} (baseline)",
    )


def _alt(tiled: Sequence[Record]) -> str:
    parts = []
    for label, line in _series(tiled).items():
        top = max(line, key=lambda r: words.speed(r) or 0.0)
        parts.append(f"{label}: fastest at {_side(top)}, {words.digits(words.speed(top))} MP/s")
    return "Throughput by tile. " + "; ".join(parts) + "."


def _caption(tiled: Sequence[Record]) -> str:
    text = (
        "Dashed lines across are baselines, which take the picture as they do by themselves. "
        "Whiskers are the 95 % interval of the median."
    )
    if any(r.actual and r.actual.tile is None for r in tiled):
        text += " A picture that ran whole stands at its longer side."
    return text

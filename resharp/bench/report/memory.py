"""Throughput against peak memory, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from resharp.bench.records import Record, front
from resharp.bench.report import canvas, words
from resharp.bench.report.canvas import Plot
from resharp.bench.report.labels import Box, along, place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKER = 8.0
"""Points across a marker."""
PLACES = {True: "of the GPU", False: "of the host"}

READING = (
    "Left and up is better. The stepped line is the Pareto front, the most speed found within each "
    "amount of memory. Labels are tiles in pixels; b: batch, L: lanes, t: threads; hollow markers "
    "are baselines."
)

Point = tuple[float, float]


def draw(name: str, records: Sequence[Record]) -> list[Plot]:
    """One plot for cases on the GPU and one for the others: their memories do not compare."""
    known = [r for r in records if words.peak(r) is not None and words.speed(r) is not None]
    groups = [(gpu, [r for r in known if words.on_gpu(r) is gpu]) for gpu in (True, False)]
    return [_plot(name, words.ordered(group), gpu) for gpu, group in groups if group]


def _plot(name: str, records: Sequence[Record], gpu: bool) -> Plot:
    where = PLACES[gpu]
    title = f"Throughput against peak memory {where}: {name}"
    made, axes = canvas.figure(5.2, title)
    points = [((words.peak(r) or 0) / words.MIB, words.speed(r) or 0.0) for r in records]
    canvas.scale(axes, "x", [x for x, _ in points], margin=0.13)
    canvas.scale(axes, "y", [y for _, y in points], margin=0.12)
    best = front(points)
    _front(axes, [points[i] for i in best])
    _points(axes, records, points)
    canvas.name_axes(axes, f"peak memory {where}, MiB", "throughput, input megapixels per second")
    canvas.legend(made, axes)
    left_out = _label(made, axes, records, points, best)
    return Plot(
        file=f"{canvas.stem('memory', 'gpu' if gpu else 'host', name)}.png",
        title=title,
        alt=_alt(records, points, best, where),
        caption=_caption(records, left_out),
        png=canvas.to_png(made),
    )


def _front(axes: Axes, best: Sequence[Point]) -> None:
    """The most speed within each amount of memory, as steps to the edge of the plot."""
    xs, ys = [x for x, _ in best], [y for _, y in best]
    xs.append(axes.get_xlim()[1])
    ys.append(ys[-1])
    axes.step(xs, ys, where="post", color="#555555", linewidth=1.3, zorder=1, label="Pareto front")


def _points(axes: Axes, records: Sequence[Record], points: Sequence[Point]) -> None:
    for subject in dict.fromkeys(r.case.subject for r in records):
        chosen = [i for i, r in enumerate(records) if r.case.subject == subject]
        axes.plot(
            [points[i][0] for i in chosen],
            [points[i][1] for i in chosen],
            linestyle="none",
            marker=canvas.look(subject).marker,
            markersize=MARKER,
            markeredgecolor=canvas.look(subject).color,
            markerfacecolor=canvas.face(subject, baseline=records[chosen[0]].case.is_baseline),
            markeredgewidth=1.2,
            label=subject,
            zorder=3,
        )


def _label(
    made: Figure,
    axes: Axes,
    records: Sequence[Record],
    points: Sequence[Point],
    best: Sequence[int],
) -> int:
    """Label the points, those of the front first; the number that found no room."""
    made.draw_without_rendering()
    made.set_layout_engine("none")  # the places below hold for the layout as it is now
    order = [*best, *(i for i in range(len(points)) if i not in best)]
    pixels = [tuple(axes.transData.transform(points[i])) for i in order]
    texts = [words.point(records[i]) for i in order]
    places = place(
        pixels,
        [_size(made, text) for text in texts],
        frame=Box(*axes.get_window_extent().extents).grown(-2.0),
        radius=MARKER * canvas.DPI / 72 * 0.62,
        lines=_steps(axes, [points[i] for i in best]),
    )
    for pixel, text, spot in zip(pixels, texts, places, strict=True):
        if spot is not None:
            line = {"arrowstyle": "-", "color": "#888888", "linewidth": 0.6, "shrinkB": 4.0}
            axes.annotate(
                canvas.literal(text),
                pixel,
                (spot.x, spot.y),
                xycoords="figure pixels",
                textcoords="figure pixels",
                fontsize=8,
                ha="center",
                va="center",
                arrowprops=line if spot.far else None,
                zorder=2,
            )
    return places.count(None)


def _size(made: Figure, text: str) -> tuple[float, float]:
    """Width and height of a label in pixels, with a little air."""
    drawn = made.text(0, 0, canvas.literal(text), fontsize=8)
    extent = drawn.get_window_extent()
    drawn.remove()
    return float(extent.width) + 4.0, float(extent.height) + 3.0


def _steps(axes: Axes, best: Sequence[Point]) -> list[Box]:
    """The front's line in pixels."""
    corners = []
    for index, (x, y) in enumerate(best):
        corners += [(x, best[index - 1][1])] * (index > 0) + [(x, y)]
    corners.append((axes.get_xlim()[1], best[-1][1]))
    pixels = [tuple(axes.transData.transform(corner)) for corner in corners]
    return [box for start, end in pairwise(pixels) for box in along(*start, *end)]


def _alt(
    records: Sequence[Record], points: Sequence[Point], best: Sequence[int], where: str
) -> str:
    named = (
        f"{words.title(records[i])} ({points[i][0]:.0f} MiB, {words.digits(points[i][1])} MP/s)"
        for i in best
    )
    count = f"{len(points)} case{'' if len(points) == 1 else 's'}"
    return (
        f"{count} by peak memory {where} and throughput. On the Pareto front: {'; '.join(named)}."
    )


def _caption(records: Sequence[Record], left_out: int) -> str:
    parts = [READING]
    devices = {r.memory.device_by for r in records if words.on_gpu(r) and r.memory}
    if any("device" in by for by in devices):
        parts.append(
            "The memory is what the whole GPU held beyond what it held before the case: its driver "
            "does not tell processes apart."
        )
    if left_out:
        parts.append(f"{left_out} labels had no room; the table of cases has all.")
    return " ".join(parts)

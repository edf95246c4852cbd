"""Printable figures: sizes, colors, markers, labels and PNG output.

Only this file imports matplotlib. It does not use pyplot, whose global state a service may be using
for its own figures.
"""

from __future__ import annotations

import base64
import io
import itertools
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from resharp.bench.records import Record
from resharp.optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.5
"""Width in inches, slightly wider than the text of an A4 page, so it prints at about 0.9."""
DPI = 150
TITLE_LETTERS = 64
"""Characters per line of a title, at its font size."""
MARKER = 8.0
"""Diameter of a marker, in points."""
AROUND = ((0, 1), (1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (0, -1), (-1, -1))
"""Directions from a marker to try for its label, in order of preference."""
DISTANCES = (6.5, 8.5)
"""Distances from a marker's center to its label to try, in points."""

Point = tuple[float, float]

LOOKS = {
    "tensorrt": ("#d55e00", "o"),
    "tensorrt_rtx": ("#b07a00", "s"),
    "torch": ("#0072b2", "^"),
    "torch-eager": ("#3c9ad6", "v"),
    "onnx": ("#009e73", "D"),
    "onnx-cuda": ("#5a8f00", "P"),
    "upstream": ("#000000", "X"),
    "onnxruntime": ("#a8457f", "*"),
    "pytorch": ("#3c9ad6", "p"),
    "openvino": ("#6a3d9a", "<"),
    "ncnn": ("#666666", ">"),
}
"""Color and marker of each subject: Okabe and Ito's colors, darkened where they are too light for
white paper."""


@dataclass(frozen=True)
class Plot:
    """A drawn figure."""

    file: str
    """Name of the PNG."""
    title: str
    alt: str
    """Description of what the figure shows, for readers who cannot see it."""
    caption: str
    """Explanation of how to read the figure."""
    png: bytes

    @property
    def base64(self) -> str:
        """The PNG in base64, for embedding in a page."""
        return base64.b64encode(self.png).decode("ascii")


def figure(height: float, title: str, x: str, y: str = "") -> tuple[Figure, Axes]:
    """Create an empty figure with one pair of axes.

    Args:
        height: height in inches.
        title: title of the figure; wrapped, and may contain any characters.
        x: label of the x axis.
        y: label of the y axis.
    """
    made = _library("figure").Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    _library("backends.backend_agg").FigureCanvasAgg(made)
    lines = "\n".join(textwrap.wrap(_printable(title), TITLE_LETTERS))
    made.suptitle(lines, fontsize=12, fontweight="bold", parse_math=False)
    axes = made.add_subplot()
    axes.set(xlabel=x, ylabel=y)
    axes.tick_params(labelsize=9)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return made, axes


def _printable(text: str) -> str:
    """Return the text on one line, with question marks for characters missing from the font."""
    manager = _library("font_manager")
    font = manager.get_font(manager.findfont("DejaVu Sans"))
    return "".join(c if font.get_char_index(ord(c)) else "?" for c in " ".join(text.split()))


def look(record: Record) -> dict[str, Any]:
    """Return the color and the marker of a record's subject; baselines have hollow markers."""
    color, marker = LOOKS[record.case.subject]
    face = "white" if record.case.is_baseline else color
    return {"color": color, "marker": marker, "markerfacecolor": face}


def rows(axes: Axes, names: Sequence[str]) -> None:
    """Label the y axis with the names of bars, the first one at the top."""
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False, axis="y")


def legend(made: Figure, axes: Axes, columns: int = 3) -> None:
    """Add a legend below the axes, where it covers nothing, if there is anything to list."""
    labels = axes.get_legend_handles_labels()[1]
    if labels:
        widest = max(len(label) for label in labels)
        style: dict[str, Any] = {"loc": "outside lower center", "fontsize": 9, "handlelength": 3}
        made.legend(ncols=max(1, min(columns, len(labels), 100 // (widest + 8))), **style)


def scale(axes: Axes, name: str, values: Sequence[float], margin: float = 0.1) -> None:
    """Fit the limits of axis ``x`` or ``y`` to values.

    The axis is logarithmic, with ticks at 1, 2 and 5, if the values span more than a factor of 12.
    """
    low, high = min(values), max(values)
    if low > 0 and high / low > 12:
        ticker, factor = _library("ticker"), (high / low) ** margin
        axes.set(**{f"{name}scale": "log", f"{name}lim": (low / factor, high * factor)})
        axis = axes.xaxis if name == "x" else axes.yaxis
        axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(ticker.NullFormatter())
    else:
        room = margin * ((high - low) or abs(high) or 1.0)
        axes.set(**{f"{name}lim": (max(low - room, 0.0), high + room)})


def log_ticks(axes: Axes, values: Sequence[int]) -> None:
    """Make the x axis logarithmic, with ticks at increasing values that are not too close."""
    span = values[-1] / values[0]
    kept = list(values[:1])
    for value in values[1:]:
        if value / kept[-1] >= span**0.06:
            kept.append(value)
    axes.set(xscale="log", xlim=(values[0] / span**0.08, values[-1] * span**0.08))
    axes.set_xticks(kept, [str(value) for value in kept])
    axes.set_xticks([], minor=True)


def label_points(
    made: Figure, axes: Axes, points: Sequence[Point], texts: Sequence[str], steps: Sequence[Point]
) -> int:
    """Label points in their order, without covering markers, labels or the line through ``steps``.

    Returns:
        The number of labels left out for lack of space.
    """
    made.draw_without_rendering()
    made.set_layout_engine("none")  # freeze the layout: the positions below depend on it
    bbox, radius = _library("transforms").Bbox, 0.6 * MARKER * DPI / 72
    taken = [bbox([[x, y], [x, y]]).padded(radius) for x, y in axes.transData.transform(points)]
    for (x0, y0), (x1, y1) in itertools.pairwise(axes.transData.transform(steps)):
        taken += [bbox([[x0, y0], [x1, y0]]).padded(1), bbox([[x1, y0], [x1, y1]]).padded(1)]
    frame, left_out = axes.get_window_extent(), 0
    for point, text in zip(points, texts, strict=True):
        label = axes.annotate(text, point, (0, 0), textcoords="offset points", fontsize=8)
        for distance, (x, y) in itertools.product(DISTANCES, AROUND):
            horizontal, vertical = ("center", "left", "right")[x], ("center", "bottom", "top")[y]
            label.set(position=(distance * x, distance * y), ha=horizontal, va=vertical)
            box = label.get_window_extent().padded(1)
            inside = frame.x0 < box.x0 and box.x1 < frame.x1
            inside = inside and frame.y0 < box.y0 and box.y1 < frame.y1
            if inside and not box.count_overlaps(taken):
                taken.append(box)
                break
        else:
            label.remove()
            left_out += 1
    return left_out


def to_png(made: Figure) -> bytes:
    """Return the figure as a PNG."""
    stream = io.BytesIO()
    made.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()


def stem(*parts: str) -> str:
    """Join parts into a file name without suffix that is valid on every system."""
    return re.sub(r"[^a-z0-9.]+", "-", "-".join(parts).lower()).strip("-.")[:80]


def _library(module: str) -> ModuleType:
    return require(f"matplotlib.{module}", feature="Drawing the report", extra="bench")

"""Figures for paper: sizes, colors, markers, labels, PNG. Only this file imports matplotlib.

The figures are made without pyplot, so a service that draws its own is not disturbed.
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
"""Inches: a little more than the text of an A4 page, so that it is printed at about 0.9."""
DPI = 150
TITLE_LETTERS = 64
"""Of a title's line, at the size used."""
MARKER = 8.0
"""Points across a marker."""
AROUND = ((0, 1), (1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (0, -1), (-1, -1))
"""Directions from a point in which its label is tried."""
DISTANCES = (6.5, 8.5)
"""Points from a marker's center to its label."""

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
"""Color and marker of each subject: Okabe and Ito's colors, darkened where white paper swallows
them."""


@dataclass(frozen=True)
class Plot:
    """A drawn figure."""

    file: str
    """Name of the PNG."""
    title: str
    alt: str
    """What it shows, for readers who cannot see it."""
    caption: str
    """How it is read."""
    png: bytes

    @property
    def base64(self) -> str:
        """The PNG, for a page that holds it."""
        return base64.b64encode(self.png).decode("ascii")


def figure(height: float, title: str, x: str, y: str = "") -> tuple[Figure, Axes]:
    """An empty figure of so many inches, with one pair of axes, their titles and a title in any
    letters, which is wrapped."""
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
    """Text on one line, with question marks for letters that the font lacks."""
    manager = _library("font_manager")
    font = manager.get_font(manager.findfont("DejaVu Sans"))
    return "".join(c if font.get_char_index(ord(c)) else "?" for c in " ".join(text.split()))


def look(record: Record) -> dict[str, Any]:
    """Color and marker of a record's subject; hollow for baselines."""
    color, marker = LOOKS[record.case.subject]
    face = "white" if record.case.is_baseline else color
    return {"color": color, "marker": marker, "markerfacecolor": face}


def rows(axes: Axes, names: Sequence[str]) -> None:
    """Make the y axis one of named bars, the first at the top."""
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False, axis="y")


def legend(made: Figure, axes: Axes, columns: int = 3) -> None:
    """A legend below the axes, where it covers nothing; none where there is nothing to say."""
    labels = axes.get_legend_handles_labels()[1]
    if labels:
        widest = max(len(label) for label in labels)
        style: dict[str, Any] = {"loc": "outside lower center", "fontsize": 9, "handlelength": 3}
        made.legend(ncols=max(1, min(columns, len(labels), 100 // (widest + 8))), **style)


def scale(axes: Axes, name: str, values: Sequence[float], margin: float = 0.1) -> None:
    """Limits of the axis ``x`` or ``y`` around values; logarithmic where they span a lot, with
    ticks at 1, 2 and 5."""
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
    """Make the x axis logarithmic, with ticks at rising values that are not too near."""
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
    """Write a text beside each point, the first points first, over no marker, no other text and
    not on the line through ``steps``.

    Returns:
        How many found no room, and were left out.
    """
    made.draw_without_rendering()
    made.set_layout_engine("none")  # the places below hold for the layout as it is now
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
    """The figure as the bytes of a PNG."""
    stream = io.BytesIO()
    made.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()


def stem(*parts: str) -> str:
    """Parts as a file's name without suffix, in letters that every system takes."""
    return re.sub(r"[^a-z0-9.]+", "-", "-".join(parts).lower()).strip("-.")[:80]


def _library(module: str) -> ModuleType:
    return require(f"matplotlib.{module}", feature="Drawing the report", extra="bench")

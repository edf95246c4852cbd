"""Figures for paper: sizes, colours, markers, PNG. The only file here that imports matplotlib.

The figures are made without pyplot, so a service that draws its own is not disturbed.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from resharp.optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.5
"""Inches: a little more than the text of an A4 page, so that it is printed at about 0.9."""
DPI = 150
TITLE_LETTERS = 64
"""Of a title's line, at the size used."""


@dataclass(frozen=True)
class Plot:
    """A drawn figure."""

    file: str
    """Name of the PNG."""
    title: str
    alt: str
    """What it shows, for who cannot see it."""
    caption: str
    """How it is read."""
    png: bytes


@dataclass(frozen=True)
class Look:
    """How a subject is drawn everywhere; hollow markers are baselines."""

    color: str
    marker: str


LOOKS = {
    "tensorrt": Look("#d55e00", "o"),
    "tensorrt_rtx": Look("#b07a00", "s"),
    "torch": Look("#0072b2", "^"),
    "torch-eager": Look("#3c9ad6", "v"),
    "onnx": Look("#009e73", "D"),
    "onnx-cuda": Look("#5a8f00", "P"),
    "upstream": Look("#000000", "X"),
    "onnxruntime": Look("#a8457f", "*"),
    "pytorch": Look("#3c9ad6", "p"),
    "openvino": Look("#6a3d9a", "<"),
    "ncnn": Look("#666666", ">"),
}
"""Okabe and Ito's colours, darkened where white paper swallows them, by subject."""
OTHER = Look("#444444", "h")


def look(subject: str) -> Look:
    """The look of a subject."""
    return LOOKS.get(subject, OTHER)


def face(subject: str, *, baseline: bool) -> str:
    """The colour inside of a marker."""
    return "white" if baseline else look(subject).color


def figure(height: float, title: str) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes.

    Args:
        height: in inches.
        title: in any letters; long ones are wrapped.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    made = _library("figure").Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    _library("backends.backend_agg").FigureCanvasAgg(made)
    made.suptitle(wrapped(title), fontsize=12, fontweight="bold")
    axes = made.add_subplot()
    axes.tick_params(labelsize=9)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return made, axes


def name_axes(axes: Axes, x: str, y: str) -> None:
    """Title both axes, units included."""
    axes.set_xlabel(x, fontsize=10)
    axes.set_ylabel(y, fontsize=10)


def legend(made: Figure, axes: Axes, columns: int = 3) -> None:
    """A legend below the axes, where it covers nothing; none where there is nothing to say."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        widest = max(len(label) for label in labels)
        columns = max(1, min(columns, len(labels), 100 // (widest + 8)))
        made.legend(
            handles, labels, loc="outside lower center", ncols=columns, fontsize=9, handlelength=3
        )


def scale(axes: Axes, name: str, values: Sequence[float], *, margin: float = 0.1) -> None:
    """Limits of the axis ``x`` or ``y`` around values; logarithmic where they span a lot."""
    low, high = min(values), max(values)
    if low > 0 and high / low > 12:
        _logarithmic(axes, name)
        factor = (high / low) ** margin
        axes.set(**{f"{name}lim": (low / factor, high * factor)})
    else:
        room = margin * ((high - low) or abs(high) or 1.0)
        axes.set(**{f"{name}lim": (max(low - room, 0.0), high + room)})


def _logarithmic(axes: Axes, name: str) -> None:
    """Ticks at 1, 2 and 5, written as plain numbers."""
    ticker = _library("ticker")
    axes.set(**{f"{name}scale": "log"})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def fixed_ticks(axes: Axes, values: Sequence[float]) -> None:
    """Ticks of a logarithmic x axis at values; those too near to the one before are left out."""
    ticker = _library("ticker")
    low, high = min(values), max(values)
    kept: list[float] = []
    for value in sorted(set(values)):
        if not kept or value / kept[-1] >= (high / low) ** 0.06:
            kept.append(value)
    axes.xaxis.set_major_locator(ticker.FixedLocator(kept))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())


def literal(text: str) -> str:
    """Text with its dollar signs kept from being read as formulas, and no missing letters."""
    manager = _library("font_manager")
    font = manager.get_font(manager.findfont("DejaVu Sans"))
    letters = (c if font.get_char_index(ord(c)) else "?" for c in " ".join(text.split()))
    return "".join(letters).replace("$", r"\$")


def wrapped(text: str, letters: int = TITLE_LETTERS) -> str:
    """Literal text in lines of at most so many letters."""
    return literal_lines(textwrap.wrap(text, letters))


def literal_lines(lines: Sequence[str]) -> str:
    """Lines as one literal text."""
    return "\n".join(literal(line) for line in lines)


def to_png(made: Figure) -> bytes:
    """The figure as the bytes of a PNG."""
    stream = io.BytesIO()
    made.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()


def stem(*parts: str) -> str:
    """Parts as a file's name without suffix: letters that every system takes."""
    text = "-".join(parts).lower()
    return re.sub(r"[^a-z0-9.]+", "-", text).strip("-.")[:80]


def _library(module: str) -> ModuleType:
    return require(f"matplotlib.{module}", feature="Drawing the report", extra="bench")

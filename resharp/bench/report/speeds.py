"""The best case of each subject, against the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resharp.bench.records import Record, Spread
from resharp.bench.report import canvas, words
from resharp.bench.report.canvas import Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ONE = Spread(median=1.0, low=1.0, high=1.0)


def draw(name: str, records: Sequence[Record]) -> list[Plot]:
    """The plot, where some case was paired with a baseline."""
    best = words.best(records)
    paired = [r for r in best.values() if r.baseline and r.ratio and r.case.subject != r.baseline]
    if not paired:
        return []
    bases = sorted({r.baseline for r in paired if r.baseline})
    shown = [r for r in best.values() if r in paired or r.case.subject in bases]
    place = "" if any(words.on_gpu(r) for r in records) else " on the CPU"
    title = f"Speed{place} against {' or '.join(bases)}: {name}"
    made, axes = canvas.figure(1.7 + 0.42 * len(shown), title)
    ratios = [(r.ratio if r in paired else None) or ONE for r in shown]
    top = max(1.0, *(ratio.high for ratio in ratios))
    for index, (record, ratio) in enumerate(zip(shown, ratios, strict=True)):
        _bar(axes, index, record, ratio, top)
    axes.axvline(1.0, color="#000000", linewidth=1.1, linestyle=(0, (4, 2)), zorder=2.5)
    axes.set_xlim(0, top * 1.24)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    labels = [_label(r, bases, paired) for r in shown]
    axes.set_yticks(range(len(shown)), labels)
    axes.grid(visible=False, axis="y")
    canvas.name_axes(axes, f"speed as a ratio to {' or '.join(bases)}: above 1 is faster", "")
    left_out = [subject for subject, r in best.items() if r not in shown]
    file = f"{canvas.stem('speed', name)}.png"
    alt = _alt(shown, ratios)
    return [Plot(file, title, alt, _caption(left_out), canvas.to_png(made))]


def _bar(axes: Axes, index: int, record: Record, ratio: Spread, top: float) -> None:
    look, hollow = canvas.look(record.case.subject), record.case.is_baseline
    axes.barh(
        index,
        ratio.median,
        height=0.62,
        color="#ffffff" if hollow else look.color,
        edgecolor=look.color,
        hatch="////" if hollow else "",
        linewidth=1.0,
        zorder=2,
    )
    if ratio is not ONE:
        ends = [[max(0.0, ratio.median - ratio.low)], [max(0.0, ratio.high - ratio.median)]]
        axes.errorbar(
            ratio.median, index, xerr=ends, color="#000000", capsize=4, elinewidth=1.2, zorder=3
        )
    text = "1 (baseline)" if ratio is ONE else words.digits(ratio.median)
    end = max(ratio.high, ratio.median) + 0.015 * top
    if end < 1.0 < end + 0.1 * top:  # not through the line at 1
        end = 1.0 + 0.015 * top
    axes.text(end, index, text, va="center", fontsize=9, zorder=4)


def _label(record: Record, bases: Sequence[str], paired: Sequence[Record]) -> str:
    text = words.title(record)
    if len(bases) > 1 and record in paired:
        text += f" (to {record.baseline})"
    return canvas.literal(text)


def _alt(shown: Sequence[Record], ratios: Sequence[Spread]) -> str:
    texts = [
        f"{words.title(record)} {'1, the baseline' if ratio is ONE else words.spread(ratio)}"
        for record, ratio in zip(shown, ratios, strict=True)
    ]
    return f"Speed as a ratio to the baseline. {'; '.join(texts)}."


def _caption(left_out: Sequence[str]) -> str:
    text = (
        "The fastest case of each subject. Whiskers are the 95 % interval of the median ratio, "
        "taken pair by pair; hatched bars are not resharp."
    )
    return f"{text} Not paired, so not shown: {', '.join(left_out)}." if left_out else text

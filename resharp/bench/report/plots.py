"""Which plots a run has: four kinds for each model and size of picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from resharp.bench.records import Record, Records, by_model
from resharp.bench.report import memory, speeds, stages, tiles
from resharp.bench.report.canvas import Plot
from resharp.optional import require

Draw = Callable[[str, Sequence[Record]], list[Plot]]

KINDS: dict[str, Draw] = {
    "throughput against memory": memory.draw,
    "scaling with tile size": tiles.draw,
    "time by stage": stages.draw,
    "speed against the baseline": speeds.draw,
}
"""Each draws the plots of one model and size; none where the records have no data for it."""


@dataclass(frozen=True)
class Drawn:
    """All plots of a run."""

    plots: tuple[Plot, ...]
    missing: tuple[str, ...]
    """Those without data, in words."""


def draw_all(records: Records) -> Drawn:
    """Draw the plots of a run.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", feature="Drawing the report", extra="bench")
    plots: list[Plot] = []
    missing: list[str] = []
    for (model, height, width), group in by_model(records.measured()).items():
        name = f"{model}, {width}x{height}"
        for kind, draw in KINDS.items():
            drawn = draw(name, group)
            plots += drawn
            missing += [] if drawn else [f"{name}: {kind}"]
    return Drawn(_told_apart(plots), tuple(missing))


def _told_apart(plots: Sequence[Plot]) -> tuple[Plot, ...]:
    """With a number in the name of each file that another plot has too."""
    seen: dict[str, int] = {}
    found = []
    for plot in plots:
        seen[plot.file] = seen.get(plot.file, 0) + 1
        again = seen[plot.file]
        name = plot.file if again == 1 else f"{plot.file.removesuffix('.png')}_{again}.png"
        found.append(replace(plot, file=name))
    return tuple(found)

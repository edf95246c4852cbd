"""HTML report of a run with its plots: throughput, memory, stages, parity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from resharp.bench.records import MEASURED, Record, Records, group_by_model
from resharp.bench.report import formatting as fmt
from resharp.bench.report import plots
from resharp.bench.report.figures import Plot
from resharp.fsutil import write_whole
from resharp.optional import require

__all__ = ["write_report"]

KINDS: dict[str, Callable[[str, Sequence[Record]], list[Plot]]] = {
    "throughput against memory": plots.draw_memory,
    "scaling with tile size": plots.draw_tiles,
    "time by stage": plots.draw_stages,
    "speed against the baseline": plots.draw_speeds,
}
"""Functions that draw the plots of one model and size; empty if the records lack the data."""
COLUMNS: dict[str, Callable[[Record], str]] = {
    "subject": fmt.subject,
    "tile": fmt.tile,
    "batch": fmt.batch,
    "lanes": lambda record: str(record.case.lanes),
    "parity": lambda record: fmt.parity(record.parity),
    "ms per image (95 %)": lambda record: fmt.estimate(record.seconds, 1000.0),
    "ratio (95 %)": lambda record: fmt.estimate(record.ratio),
    "baseline": lambda record: record.baseline or fmt.NONE,
    "noise": lambda record: fmt.percent(record.noise),
    "input MP/s": lambda record: fmt.digits(record.megapixels),
    "frames/s": lambda record: fmt.digits(getattr(record.rates, "frames", None)),
    "GFLOP/s": lambda record: fmt.gigaflops(getattr(record.rates, "flops", None)),
    "of matrix rate": lambda record: fmt.percent(getattr(record.rates, "matrix_share", None)),
    "J/MP": lambda record: fmt.digits(getattr(record.rates, "joules_per_megapixel", None)),
    "GPU MiB": lambda record: fmt.mebibytes(getattr(record.memory, "device", None)),
    "host MiB": lambda record: fmt.mebibytes(getattr(record.memory, "host", None)),
}
"""Columns of the tables of cases."""


def write_report(records: Records, folder: Path) -> tuple[Path, ...]:
    """Write a self-contained ``report.html`` to a folder, and its plots as PNG files next to it.

    Existing files of the same names are replaced.

    Returns:
        The written files, starting with the page.

    Raises:
        MissingExtraError: matplotlib or Jinja2 is not installed.
        OutputError: a file cannot be written; no partial file is left behind.
    """
    require("matplotlib", feature="Drawing the report", extra="bench")
    drawn, missing = _draw(records)
    files = [(folder / "report.html", _page(records, drawn, missing).encode())]
    files += [(folder / plot.file, plot.png) for plot in drawn]
    for path, data in files:
        write_whole(path, data, parents=True)
    return tuple(path for path, _ in files)


def _draw(records: Records) -> tuple[list[Plot], list[str]]:
    """Draw all plots of a run under unique file names; also return the titles of missing ones."""
    found: list[Plot] = []
    missing: list[str] = []
    seen: dict[str, int] = {}
    for (model, height, width), group in group_by_model(records.measured()).items():
        name = f"{model}, {width}x{height}"
        for kind, draw in KINDS.items():
            drawn = draw(name, group)
            missing += [] if drawn else [f"{name}: {kind}"]
            for plot in drawn:
                again = seen[plot.file] = seen.get(plot.file, 0) + 1
                stem = plot.file.removesuffix(".png")
                found.append(plot if again == 1 else replace(plot, file=f"{stem}_{again}.png"))
    return found, missing


def _page(records: Records, drawn: Sequence[Plot], missing: Sequence[str]) -> str:
    jinja2 = require("jinja2", feature="Writing the report", extra="bench")
    loader, undefined = jinja2.PackageLoader("resharp.bench.report"), jinja2.StrictUndefined
    options = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    templates = jinja2.Environment(loader=loader, undefined=undefined, **options)
    twins = {f"{t.case.model} {t.case.width}x{t.case.height}": t.ratio for t in records.twins()}
    html: str = templates.get_template("report.html").render(
        fmt=fmt,
        run=records.run,
        columns=COLUMNS,
        groups=group_by_model(records.measured()),
        failures=[record for record in records.cases if record.status != MEASURED],
        twins=twins,
        plots=drawn,
        missing=missing,
    )
    return html

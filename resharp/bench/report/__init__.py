"""A run as one HTML file with its plots: throughput, memory, stages, parity."""

from __future__ import annotations

from pathlib import Path

from resharp.bench.records import Records
from resharp.bench.report.page import page
from resharp.bench.report.plots import draw_all
from resharp.engines import write_whole

__all__ = ["write_report"]


def write_report(records: Records, folder: Path) -> tuple[Path, ...]:
    """Write ``report.html``, which needs no other file, and its plots as PNG beside it.

    Returns:
        The files written, the page first. Files of the same names are replaced.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the disk refused; no file is left in part.
    """
    drawn = draw_all(records)
    files = [(folder / "report.html", page(records, drawn).encode())]
    files += [(folder / plot.file, plot.png) for plot in drawn.plots]
    for path, data in files:
        write_whole(path, data)
    return tuple(path for path, _ in files)

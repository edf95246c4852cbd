"""The report as one HTML file: text, tables and the plots, nothing from outside."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from resharp.bench.records import Records
from resharp.bench.report import tables, words
from resharp.bench.report.canvas import Plot
from resharp.bench.report.plots import Drawn
from resharp.bench.report.tables import escape, table

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid #ccc; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .82rem; }
th, td { border: 1px solid #ccc; padding: .2rem .45rem; text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }
th { background: #f0f0f0; overflow-wrap: normal; }
td.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: bold; padding: .5rem 0 .2rem; }
figure { margin: 1.5rem 0; }
figure img { width: 100%; max-width: 1000px; height: auto; }
figcaption { max-width: 1000px; font-size: .9rem; color: #333; }
@page { size: A4 landscape; margin: 12mm; }
@media print {
  body { font-size: 10pt; max-width: none; margin: 0; padding: 0; }
  .wide { overflow: visible; }
  table { font-size: 7pt; }
  th, td { padding: .1rem .2rem; }
  thead { display: table-header-group; }
  tr, figure { break-inside: avoid; }
  h2, caption { break-after: avoid; }
  figure img { width: auto; max-width: 100%; max-height: 155mm; }
}
"""


def page(records: Records, drawn: Drawn) -> str:
    """The whole HTML."""
    run = records.run
    title = f"resharp bench: suite {run.suite}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>Run {escape(run.run)}, began {escape(run.began)}{_took(run.seconds)}.</p>",
        _section("Environment", table(("what", "value"), tables.environment(run))),
        _section("How to read it", "".join(f"<p>{escape(text)}</p>" for text in words.READING)),
        _section("Cases", tables.measured(records)),
        _section("Dropped, failed and absent", tables.without_figures(records)),
        _section("Noise and memory check", tables.checks(records)),
        _section("Plots", _plots(drawn)),
    ]
    return _document(title, "\n".join(parts))


def _document(title: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _took(seconds: float | None) -> str:
    return "" if seconds is None else f", took {seconds / 60:.1f} minutes"


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"


def _plots(drawn: Drawn) -> str:
    parts = [_figure(plot) for plot in drawn.plots]
    if not drawn.plots:
        parts.append("<p>There is no plot: no case has figures.</p>")
    if drawn.missing:
        parts.append(_list("Not drawn, as too few cases have the data:", drawn.missing))
    return "\n".join(parts)


def _list(head: str, items: Sequence[str]) -> str:
    rows = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<p>{escape(head)}</p><ul>{rows}</ul>"


def _figure(plot: Plot) -> str:
    data = base64.b64encode(plot.png).decode("ascii")
    image = f'<img alt="{escape(plot.alt)}" src="data:image/png;base64,{data}">'
    text = f"<strong>{escape(plot.title)}.</strong> {escape(plot.caption)}"
    return f"<figure>\n{image}\n<figcaption>{text}</figcaption>\n</figure>"

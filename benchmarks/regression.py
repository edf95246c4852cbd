"""``python -m benchmarks.regression``: whether ``bench compare`` finds real regressions only.

Runs the quick suite repeatedly, unchanged and with a sleep planted in the tile loop of every
backend (a fraction of each tile's own time). Every pair of unchanged runs is compared in both
directions, and each unchanged run is compared with each planted one.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from benchmarks.common import json_option, report
from resharp.bench.compare import THRESHOLD, compare
from resharp.bench.records import Records, read

PLANT = """
import importlib.abc, importlib.util, sys, time

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "resharp.runtime.backends.base":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        own = spec.loader.exec_module
        def load(module):
            own(module)
            paste, stack, began = module.paste, module.stack, [0.0]
            def begin(windows):
                began[0] = time.perf_counter()
                return stack(windows)
            def slow(*args):
                time.sleep({share} * (time.perf_counter() - began[0]))
                paste(*args)
                began[0] = time.perf_counter()
            module.stack, module.paste = begin, slow
        spec.loader.exec_module = load
        return spec

sys.meta_path.insert(0, Finder())
"""


@click.command()
@click.option("--runs", default=11, show_default=True, help="Number of unchanged runs.")
@click.option("--planted", default=3, show_default=True, help="Number of runs with the sleep.")
@click.option("--share", default=0.15, show_default=True, help="Sleep as a fraction of tile time.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder to keep the records in."
)
@json_option
def main(runs: int, planted: int, share: float, out: Path | None, json_file: Path | None) -> None:
    """Measure with and without a planted regression, and count the verdicts of compare."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        (Path(scratch) / "sitecustomize.py").write_text(PLANT.format(share=share))
        same, slow = [], []
        for index in range(max(runs, planted)):  # in turns, so that drift affects both kinds
            if index < runs:
                same.append(_run(folder / f"same-{index:02}.jsonl", None))
            if index < planted:
                slow.append(_run(folder / f"planted-{index:02}.jsonl", Path(scratch)))
        _tell(same, slow, share, json_file)


def _tell(same: list[Records], slow: list[Records], share: float, json_file: Path | None) -> None:
    own = [compare(one, two) for one, two in itertools.permutations(same, 2)]
    caught = [compare(one, two) for one in same for two in slow]
    false = [x.id for comparison in own for x in comparison.regressions]
    rows = []
    for case in (record.case for record in same[0].measured() if not record.case.is_baseline):
        ratios = [x.ratio for c in own for x in c.changes if x.id == case.id and x.ratio]
        planted = [x.ratio for c in caught for x in c.changes if x.id == case.id and x.ratio]
        rows.append(
            (case.id, max(ratios), min(planted), max(planted))
            if planted
            else (case.id, max(ratios), float("nan"), float("nan"))
        )
    summary = {
        "threshold": THRESHOLD,
        "runs as they are": len(same),
        "comparisons of these": len(own),
        "of them flagged": sum(bool(comparison.regressions) for comparison in own),
        "cases flagged by mistake": ", ".join(sorted(set(false))) or "none",
        "runs with a sleep": len(slow),
        "comparisons with these": len(caught),
        "of them caught": sum(bool(comparison.regressions) for comparison in caught),
        "twins within the noise they state": _within(same),
        "twins": sum(len(records.twins()) for records in same),
    }
    columns = ("case", "largest change of like runs", "planted, least", "planted, most")
    report(f"bench compare, with a sleep of {share:.0%}", columns, rows, summary, json_file)


def _within(same: list[Records]) -> int:
    twins = [twin for records in same for twin in records.twins()]
    return sum(
        twin.ratio is not None
        and twin.noise is not None
        and max(twin.ratio.median, 1 / twin.ratio.median) <= 1 + twin.noise + 1e-9
        for twin in twins
    )


def _run(path: Path, site: Path | None) -> Records:
    click.echo(path.name, err=True)
    places = [str(site)] if site else []
    places += filter(None, [os.environ.get("PYTHONPATH")])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, "-m", "resharp", "bench", "run", "--quick", "-o", str(path)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return read(path)


if __name__ == "__main__":
    main()

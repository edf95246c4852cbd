"""``python -m benchmarks.imports``: import time of resharp on top of numpy and OpenCV."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

import click

from benchmarks.common import json_option, report

SCRIPT = """
import time
first = time.perf_counter()
import numpy, cv2
second = time.perf_counter()
from resharp import Upscaler
print(second - first, time.perf_counter() - second)
"""


@click.command()
@click.option("--runs", default=11, show_default=True, help="Number of processes to start.")
@json_option
def main(runs: int, json_file: Path | None) -> None:
    """Import both in new processes and report the median times and their ratio."""
    rows = []
    for index in range(runs):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
        )
        base, own = map(float, done.stdout.split())
        rows.append((index, base, own, own / base))
    summary = {
        "resharp (s)": statistics.median(row[2] for row in rows),
        "median ratio": statistics.median(row[3] for row in rows),
    }
    columns = ("run", "numpy and OpenCV (s)", "resharp (s)", "ratio")
    report("Importing resharp", columns, rows, summary, json_file)


if __name__ == "__main__":
    main()

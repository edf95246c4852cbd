"""``python -m tests.drill [--short] [--seed S] [NAME...]``."""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NO_COLOR="1")

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from tests.drill import interruptions, options, sharing
from tests.drill.kit import Drill
from tests.fuzz.prepared import import_everything

DRILLS: dict[str, tuple[Callable[[Drill], str], int, int]] = {
    "folders": (interruptions.folders, 20, 3),
    "clips": (interruptions.clips, 20, 3),
    "processes": (sharing.processes, 5, 1),
    "threads": (sharing.threads, 100, 20),
    "calls": (sharing.calls, 2000, 200),
    "options": (options.options, 1, 61),
}
"""Each drill with its count, and the count of its short form."""


def run(name: str, *, short: bool = False, seed: int = 0) -> str:
    """Run a drill and return its line.

    Raises:
        AssertionError: it has found something.
    """
    drill, *counts = DRILLS[name]
    folder = Path(tempfile.mkdtemp(prefix="resharp-drill-"))
    try:
        return drill(Drill(folder, Random(f"{name}:{seed}"), counts[short]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run drills; return 1 if one has found a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.drill", description="Drill resharp.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(DRILLS))
    parser.add_argument("--short", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    import_everything()
    failed = 0
    for name in chosen.names or DRILLS:
        begun = time.monotonic()
        try:
            line = run(name, short=chosen.short, seed=chosen.seed)
        except AssertionError as error:
            line, failed = f"FAULT: {error}", 1
        print(f"{name:10} {time.monotonic() - begun:5.1f} s  {line}", flush=True)  # noqa: T201
    return failed


if __name__ == "__main__":
    sys.exit(main())

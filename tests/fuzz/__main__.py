"""``python -m tests.fuzz [--minutes M] [--seed S] [--kinds a,b] [--jobs N] [CASE...]``."""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NO_COLOR="1")

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.fuzz.campaign import Campaign, CaseResult, kinds_named, numbered
from tests.fuzz.child import MEMORY, TIME
from tests.fuzz.kinds import KINDS
from tests.fuzz.prepared import import_everything
from tests.fuzz.trials import CaseId

ROOT = Path(__file__).parents[2]
KEEP = Path("build/fuzz")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the fuzzer; return 1 if a case has a fault."""
    options = _parser().parse_args(arguments)
    cases = [CaseId.parse(text) for text in options.cases]
    names = {case.kind for case in cases} or options.kinds.split(",")
    import_everything()
    begun = time.monotonic()
    # Not TemporaryDirectory, which every forked child would remove at its end.
    scratch = Path(tempfile.mkdtemp(prefix="resharp-fuzz-"))
    try:
        run = Campaign(
            kinds_named(names),
            scratch,
            options.keep,
            jobs=options.jobs,
            seconds=options.seconds,
            memory=options.memory << 20,
        )
        minutes = options.minutes or (1.0 if options.count is None else None)
        until = None if minutes is None else begun + 60 * minutes
        kinds = list(run.kinds.values())
        wanted: Iterable[CaseId] = cases or numbered(
            kinds, options.seed, options.count, until, lambda name: run.totals[name].spent
        )
        for result in run.run(wanted):
            if result.faults or cases:
                _show(result, options.keep)
        return _sum_up(run, time.monotonic() - begun, options.seed)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz resharp.")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="repeat cases: pictures:7:123")
    parser.add_argument(
        "--minutes", type=float, help="duration (default: 1, or unlimited with --count)"
    )
    parser.add_argument("--count", type=int, help="number of cases of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(kind.name for kind in KINDS))
    parser.add_argument("--jobs", type=int, default=2, help="number of parallel cases")
    parser.add_argument(
        "--keep", type=Path, default=KEEP, help="folder for the files of failed cases"
    )
    parser.add_argument("--seconds", type=float, default=TIME, help="time limit per case")
    parser.add_argument(
        "--memory", type=int, default=MEMORY >> 20, help="memory limit per case, MiB"
    )
    return parser


def _show(result: CaseResult, keep: Path) -> None:
    _say(
        f"{result.case}: exit code {result.code}, {result.seconds:.1f} s, {result.memory >> 20} MiB"
    )
    for fault in result.faults:
        _say(f"  FAULT: {fault}")
    if result.faults:
        place = keep / str(result.case).replace(":", "-")
        _say(f"  repeat: python -m tests.fuzz {result.case}    (its files are in {place})")
    else:
        _say("  " + result.printed.strip().replace("\n", "\n  "))


def _sum_up(run: Campaign, seconds: float, seed: int) -> int:
    _say(
        f"\n{'kind':12}{'cases':>7}{'refused':>9}{'accepted':>10}{'faults':>8}{'slowest':>9}{'memory':>10}"
    )
    for name, row in run.totals.items():
        _say(
            f"{name:12}{row.cases:7}{row.refused:9}{row.accepted:10}{row.faults:8}"
            f"{row.slowest:7.1f} s{row.memory >> 20:6} MiB"
        )
    cases = sum(row.cases for row in run.totals.values())
    _say(f"{cases} cases in {seconds:.0f} s, {cases / seconds:.1f} per second, seed {seed}")
    return int(any(row.faults for row in run.totals.values()))


def _say(text: str) -> None:
    print(text.encode("utf-8", "backslashreplace").decode(), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())

"""A run: the machine first, then every group of cases; the file is whole after each record."""

from __future__ import annotations

import logging
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from resharp.bench.agree import scene
from resharp.bench.bundles import Bundles
from resharp.bench.cases import Case, Suite
from resharp.bench.environment import environment
from resharp.bench.group import Group
from resharp.bench.records import FAILED, Record, Records, Run
from resharp.bench.seat import Seat
from resharp.errors import ResharpError

log = logging.getLogger(__name__)


class Bench:
    """One run of some cases.

    Args:
        suite: for its effort and stand-ins.
        cases: those of the suite to run, or others.
        out: file of the records.
        engines: folder of the store.
        report: told in a line what happens next.
    """

    def __init__(
        self,
        suite: Suite,
        cases: Sequence[Case],
        out: Path,
        engines: Path | None = None,
        report: Callable[[str], object] = log.info,
    ) -> None:
        self._suite, self._cases, self._out = suite, tuple(cases), out
        self._engines, self._report = engines, report
        self._records: list[Record] = []
        began = datetime.now(timezone.utc)
        self._run = Run(
            run=f"{began:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}",
            began=began.isoformat(timespec="seconds"),
            suite=suite.name,
            environment={},
        )

    def run(self) -> Records:
        """Measure everything.

        Raises:
            OutputError: the records cannot be written.
            OptionError: an environment variable makes no sense, before anything is written.
        """
        began = time.monotonic()
        with Seat() as seat:
            self._report("looking at the machine")
            self._note(environment=environment())
            self._note(matrix_rate=seat.ask("rates"), memory_check=seat.ask("memory_check"))
        with tempfile.TemporaryDirectory(prefix="resharp-bench-") as folder:
            bundles = Bundles(Path(folder), self._suite.stand_ins, self._engines, self._report)
            for group in _groups(self._cases):
                self._group(group, bundles, Path(folder))
        self._note(seconds=time.monotonic() - began)
        return Records(self._run, tuple(self._records))

    def _group(self, cases: Sequence[Case], bundles: Bundles, folder: Path) -> None:
        first = cases[0]
        try:
            shared = scene(
                bundles.find(first.model), first.height, first.width, folder, self._report
            )
        except ResharpError as error:
            self._report(f"{first.model}: {error}")
            for case in cases:
                self._add(Record(run=self._run.run, case=case, status=FAILED, reason=str(error)))
            return
        effort = self._suite.effort
        with Group(cases, shared, effort, bundles, self._run, self._add, self._report) as group:
            first_record = len(self._records)
            noise = group.measure()
            self._records[first_record:] = map(group.paced, self._records[first_record:])
        if noise is not None:
            key = f"{first.model} {first.width}x{first.height}"
            self._note(noise={**self._run.noise, key: noise})

    def _add(self, record: Record) -> None:
        self._records.append(record)
        self._write()

    def _note(self, **facts: Any) -> None:
        self._run = replace(self._run, **facts)
        self._write()

    def _write(self) -> None:
        Records(self._run, tuple(self._records)).write(self._out)


def _groups(cases: Sequence[Case]) -> list[list[Case]]:
    """Cases of one model and size together."""
    groups: dict[tuple[str, int, int], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.model, case.height, case.width), []).append(case)
    return list(groups.values())

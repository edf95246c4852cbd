"""One benchmark run: the machine, then each group of cases; every record is saved at once."""

from __future__ import annotations

import logging
import secrets
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from resharp.bench.bundle_provider import BundleProvider
from resharp.bench.case_group import CaseGroup
from resharp.bench.cases import Case, Suite
from resharp.bench.machine_info import machine_info
from resharp.bench.parity_check import make_reference
from resharp.bench.records import FAILED, Record, Records, RunInfo, group_by
from resharp.bench.worker_process import WorkerProcess
from resharp.errors import ResharpError
from resharp.types import Log

logger = logging.getLogger(__name__)


class Benchmark:
    """One run of a set of cases.

    Args:
        suite: provides the budget and the stand-ins.
        cases: cases to run, from the suite or elsewhere.
        out: file to write the records to; complete after each record.
        store: store folder.
        log: called with a progress line before each step.
    """

    def __init__(
        self,
        suite: Suite,
        cases: Sequence[Case],
        out: Path,
        store: Path | None = None,
        log: Log = logger.info,
    ) -> None:
        self._suite, self._cases, self._out = suite, tuple(cases), out
        self._store, self._log = store, log
        self._records: list[Record] = []
        began = datetime.now(timezone.utc)
        self._run = RunInfo(
            run=f"{began:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}",
            began=began.isoformat(timespec="seconds"),
            suite=suite.name,
            environment={},
        )

    def run(self) -> Records:
        """Measure all cases and return the records.

        Raises:
            OutputError: the records cannot be written.
            OptionError: an environment variable is invalid; nothing has been written yet.
        """
        began = time.monotonic()
        with WorkerProcess() as process:
            self._log("collecting machine information")
            self._note(environment=machine_info())
            self._note(
                matrix_rate=process.request("rates"), memory_check=process.request("memory_check")
            )
        groups = group_by(self._cases, lambda case: (case.model, case.height, case.width))
        with tempfile.TemporaryDirectory(prefix="resharp-bench-") as scratch:
            folder = Path(scratch)
            bundles = BundleProvider(folder, self._suite.stand_ins, self._store, self._log)
            for group in groups.values():
                self._measure(group, bundles, folder)
        self._note(seconds=time.monotonic() - began)
        return Records(self._run, tuple(self._records))

    def _measure(self, cases: Sequence[Case], bundles: BundleProvider, folder: Path) -> None:
        """Measure the cases of one model and image size."""
        model, height, width = cases[0].model, cases[0].height, cases[0].width
        try:
            reference = make_reference(bundles.find(model), height, width, folder, self._log)
        except ResharpError as error:
            self._log(f"{model}: {error}")
            for case in cases:
                self._add(Record(run=self._run.run, case=case, status=FAILED, reason=str(error)))
            return
        budget, add, log = self._suite.budget, self._add, self._log
        with CaseGroup(cases, reference, budget, bundles, self._run, add, log) as group:
            first_record = len(self._records)
            noise = group.measure()
            self._records[first_record:] = map(group.paced, self._records[first_record:])
        if noise is not None:
            self._note(noise={**self._run.noise, f"{model} {width}x{height}": noise})

    def _add(self, record: Record) -> None:
        self._records.append(record)
        self._write()

    def _note(self, **facts: Any) -> None:
        self._run = replace(self._run, **facts)
        self._write()

    def _write(self) -> None:
        Records(self._run, tuple(self._records)).write(self._out)

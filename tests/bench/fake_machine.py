"""A machine with made-up times: cases run and agree in this process, only the clock is invented."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Mapping
from typing import Any

import pytest

from resharp.bench import benchmark, case_group, parity_check
from resharp.bench.case_worker import CaseWorker, handle
from resharp.bench.cases import Case
from resharp.bench.measure import paired_timing
from resharp.bench.worker_process import WorkerProcess
from resharp.errors import BackendError, MissingExtraError

MIB = 2**20
MADE_UP: dict[str, dict[str, Any]] = {
    "rates": {"cpu fp32": 1e11},
    "memory_check": {"host": {"allocated": 256 * MIB, "measured": 256 * MIB, "error": 0.0}},
    "memory": {
        "host": 300 * MIB,
        "host_before": 100 * MIB,
        "device": None,
        "device_by": "",
        "framework": None,
    },
}
"""Answers to requests that depend on the real machine and on this process."""


class Clock:
    """Stands in for the module ``time``. It moves only when the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Machine:
    """Processes whose times come from a table.

    Args:
        seconds: of one image, by the end of a case's id: ``onnx/56x48/tile-32``.
        jitter: standard deviation of each turn's time, as a fraction of it. Each process adds its
            own factor, half as large.
        seed: seed of the jitter: two runs of one machine have different seeds.
        drift: fraction by which the whole machine becomes slower and faster again every minute.
    """

    def __init__(
        self, seconds: Mapping[str, float], jitter: float = 0.0, seed: int = 0, drift: float = 0.0
    ) -> None:
        self._seconds, self._jitter, self._drift = seconds, jitter, drift
        self._random = random.Random(seed)
        self.clock = Clock()
        self.made: list[FakeProcess] = []
        """Every process so far."""

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Run every case of a run here."""
        for module in (parity_check, case_group, benchmark):
            patch.setattr(module, "WorkerProcess", self.process)
        patch.setattr(paired_timing, "time", self.clock)
        patch.setattr(
            paired_timing, "sample_cpu", lambda at, pids: None
        )  # the real machine may be busy

    def process(self) -> FakeProcess:
        """Start a new process."""
        self.made.append(FakeProcess(self))
        return self.made[-1]

    def left_open(self) -> list[FakeProcess]:
        """Return the processes that were not closed."""
        return [process for process in self.made if not process.closed]

    def factor(self, share: float = 1.0) -> float:
        """Return a random factor near 1."""
        return self._random.lognormvariate(0.0, self._jitter * share)

    def take(self, case: Case, calls: int, pace: float) -> float:
        """Seconds of one image in a turn; the clock moves on by all of them."""
        usual = next(value for end, value in self._seconds.items() if case.id.endswith(end))
        slow = 1 + self._drift * math.sin(self.clock.now / 60 * math.tau)
        seconds = usual * pace * slow * self.factor()
        self.clock.now += seconds * calls
        return seconds


class FakeProcess(WorkerProcess):
    """A worker without a process."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._worker = machine, CaseWorker()
        self._pace = machine.factor(0.5)
        self._case: Case | None = None
        self.asked: list[str] = []
        self.closed = False

    @property
    def pid(self) -> int:
        return os.getpid()

    def suspend(self) -> None:
        self.asked.append("suspend")

    def request(self, do: str, **options: Any) -> dict[str, Any]:
        assert not self.closed
        self.asked.append(do)
        if do == "open":
            self._case = Case(**options["case"])
        if do in ("warm", "time"):
            assert self._case is not None
            seconds = self._machine.take(self._case, options.get("calls", 1), self._pace)
            return {"seconds": seconds, "joules": None} if do == "time" else {}
        if do in MADE_UP:
            return MADE_UP[do]
        found = handle({"do": do, **options}, self._worker)
        if "error" in found:
            raise (MissingExtraError if found["absent"] else BackendError)(found["error"])
        real: dict[str, Any] = found["answer"]
        return real

    def close(self) -> None:
        self.closed = True
        self._worker.close()

    def __exit__(self, *error: object) -> None:
        self.close()

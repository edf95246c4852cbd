"""NVIDIA's management library with one GPU, whose memory a test sets."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace
from typing import Any

from resharp.bench.measure.nvml import Nvml
from tests.waiting import until


class Error(Exception):
    """Stand-in for NVMLError."""


class FakeNvml:
    """NVIDIA's library with one GPU, whose memory the test sets."""

    NVMLError = Error
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self) -> None:
        self.mine: int | None = 0
        self.used = 1000
        self.blind = False
        self.answers = 0
        """Number of answered queries for the memory in use."""

    def looked_at(self) -> None:
        """Wait until the memory as it is now has been asked for: the first answer may be older."""
        enough = self.answers + 2
        until(lambda: self.answers >= enough, "the memory is looked at")

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetHandleByPciBusId(self, bus: bytes) -> str:  # noqa: N802
        if bus != b"0000:01:00.0":
            raise Error("Not Found")
        return "handle"

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:  # noqa: N802
        if self.blind:
            raise Error("Not Supported")
        found = [
            SimpleNamespace(pid=1, usedGpuMemory=9999),
            SimpleNamespace(pid=os.getpid(), usedGpuMemory=self.mine),
        ]
        self.answers += 1
        return found

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:  # noqa: N802
        found = SimpleNamespace(used=self.used)
        self.answers += 1
        return found

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        return 4500

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:  # noqa: N802
        return 1000 * kind

    def nvmlDeviceGetMaxClockInfo(self, handle: str, kind: int) -> int:  # noqa: N802
        raise Error("Not Supported")

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:  # noqa: N802
        return 350_000

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:  # noqa: N802
        return 40

    def nvmlSystemGetDriverVersion(self) -> bytes:  # noqa: N802
        return b"580.1"


def nvml() -> Nvml:
    """Open the fake GPU, with the library installed as ``pynvml``."""
    return Nvml("0000:01:00.0")


def watchers() -> list[threading.Thread]:
    """Threads that look at the memory."""
    return [thread for thread in threading.enumerate() if thread.name == "resharp-nvml"]

"""Memory figures against allocations of known size; NVML by a stand-in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from resharp.bench import memory
from resharp.bench.memory import DevicePeak, Nvml, check_device
from resharp.errors import MissingExtraError
from tests.waiting import LIMIT, until

SCRIPT = """
import json, sys
import numpy as np
from resharp.bench.memory import HostPeak
large = np.ones(500 << 20, np.uint8)  # an older, higher peak, which is forgotten
del large
peak = HostPeak()
block = np.ones(int(sys.argv[1]) << 20, np.uint8)
del block
print(json.dumps([peak.before, peak.read()]))
"""


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets an older peak")
@pytest.mark.parametrize("size", [64, 400])
def test_a_known_allocation_is_measured_within_five_per_cent(size: int) -> None:
    command = [sys.executable, "-c", SCRIPT, str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT)
    before, peak = json.loads(done.stdout)
    assert peak - before == pytest.approx(size << 20, rel=0.05)


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_self_check_agrees() -> None:
    """In a process of its own, as in a run: other tests' threads give memory back here."""
    script = "import json; from resharp.bench.memory import check_host as c; print(json.dumps(c()))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=LIMIT
    )
    found = json.loads(done.stdout)
    assert found["allocated"] == memory.CHECKED
    assert found["error"] <= 0.05


class Error(Exception):
    """As NVML's own."""


class FakeNvml:
    """NVIDIA's library with one GPU, whose memory the test sets."""

    NVMLError = Error
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self) -> None:
        self.mine: int | None = 0
        self.used = 1000
        self.blind = False
        self.answers = 0
        """How often it has answered how much memory is in use."""

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


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def nvml() -> Nvml:
    return Nvml("0000:01:00.0")


def test_facts_leave_out_what_a_gpu_does_not_tell(card: FakeNvml) -> None:
    assert nvml().facts() == {
        "sm clock (MHz)": 1000,
        "memory clock (MHz)": 2000,
        "power limit (mW)": 350_000,
        "temperature (C)": 40,
        "driver": "580.1",
    }
    assert nvml().joules() == 4.5


@pytest.mark.processes
def test_a_peak_between_two_looks_of_ours_is_seen(card: FakeNvml) -> None:
    with DevicePeak(nvml()) as peak:
        card.mine = 500
        card.looked_at()
        card.mine = 100
    assert (peak.peak, peak.by) == (500, "nvml, process")


@pytest.mark.processes
def test_where_processes_are_not_told_apart_the_device_counts(card: FakeNvml) -> None:
    card.blind = True
    with DevicePeak(nvml()) as peak:
        card.used = 1700
        card.looked_at()
        card.used = 1200
    assert (peak.peak, peak.by) == (700, "nvml, device")


def test_windows_that_hides_the_figure_of_a_process_counts_the_device(card: FakeNvml) -> None:
    card.mine = None
    with DevicePeak(nvml()) as peak:
        card.used = 1300
    assert (peak.peak, peak.by) == (300, "nvml, device")


@pytest.mark.parametrize("blind", [False, True])
def test_the_self_check_on_a_gpu(card: FakeNvml, blind: bool) -> None:
    card.blind = blind

    def allocate(size: int) -> object:
        card.mine = (card.mine or 0) + size + 1024
        card.used += size + 1024
        return object()

    found = check_device(nvml(), allocate)
    assert found["measured"] == memory.CHECKED + 1024
    assert 0 < found["error"] < 0.05


def test_no_such_gpu_and_no_library(card: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="NVML: Not Found"):
        Nvml("0000:02:00.0")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingExtraError, match=r"nvidia-ml-py.*resharp\[bench\]"):
        nvml()

"""Memory figures against allocations of known size; NVML by a stand-in."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from resharp.bench.measure import peak_memory
from resharp.bench.measure.nvml import Nvml
from resharp.bench.measure.peak_memory import BY_DEVICE, BY_PROCESS, DevicePeak, check_device
from resharp.errors import MissingExtraError
from tests.bench.fake_nvml import FakeNvml, nvml, watchers
from tests.waiting import LIMIT

SCRIPT = """
import json, sys
import numpy as np
from resharp.bench.measure.peak_memory import HostPeak
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
    """Uses a separate process, as in a run: other tests' threads release memory in this one."""
    script = (
        "import json; from resharp.bench.measure.peak_memory import check_host\n"
        "print(json.dumps(check_host()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=LIMIT
    )
    found = json.loads(done.stdout)
    assert found["allocated"] == peak_memory.CHECKED
    assert found["error"] <= 0.05


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
    assert (peak.peak, peak.by) == (500, BY_PROCESS)


@pytest.mark.processes
def test_a_process_counts_from_when_it_is_first_seen(card: FakeNvml) -> None:
    """The first looks come before the process has a context on the GPU."""
    card.mine, card.used = None, 1000
    with DevicePeak(nvml()) as peak:
        card.used = 1900  # somebody else's
        card.looked_at()
        card.mine = 500
        card.looked_at()
        card.mine, card.used = None, 8000  # a look that misses it
        card.looked_at()
    assert (peak.peak, peak.by) == (500, BY_PROCESS)
    with peak:
        card.mine = 400
        card.looked_at()
    assert peak.peak == 500
    with peak:
        card.mine = 600
    assert peak.peak == 600


@pytest.mark.processes
def test_nothing_counts_between_two_turns(card: FakeNvml) -> None:
    card.blind = True
    peak = DevicePeak(nvml())
    with peak:
        card.used = 1300
        card.looked_at()
    card.used = 9000  # another case's turn
    assert not watchers()
    card.used = 1200
    with peak:
        card.looked_at()
    assert (peak.peak, peak.by) == (300, BY_DEVICE)


@pytest.mark.processes
def test_where_processes_are_not_told_apart_the_device_counts(card: FakeNvml) -> None:
    card.blind = True
    with DevicePeak(nvml()) as peak:
        card.used = 1700
        card.looked_at()
        card.used = 1200
    assert (peak.peak, peak.by) == (700, BY_DEVICE)


def test_windows_that_hides_the_figure_of_a_process_counts_the_device(card: FakeNvml) -> None:
    card.mine = None
    with DevicePeak(nvml()) as peak:
        card.used = 1300
    assert (peak.peak, peak.by) == (300, BY_DEVICE)


@pytest.mark.parametrize(
    ("blind", "mine"),
    [(False, 0), (True, 0), pytest.param(False, None, id="seen only with the block")],
)
def test_the_self_check_on_a_gpu(card: FakeNvml, blind: bool, mine: int | None) -> None:
    card.blind, card.mine = blind, mine

    def allocate(size: int) -> object:
        card.mine = (card.mine or 0) + size + 1024
        card.used += size + 1024
        return object()

    found = check_device(nvml(), allocate)
    assert found["measured"] == peak_memory.CHECKED + 1024
    assert 0 < found["error"] < 0.05


def test_no_such_gpu_and_no_library(card: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="NVML: Not Found"):
        Nvml("0000:02:00.0")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingExtraError, match=r"nvidia-ml-py.*resharp\[bench\]"):
        nvml()

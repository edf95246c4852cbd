"""The benchmark suite on an NVIDIA GPU: memory by NVML, and a whole small run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from resharp.bench import cases
from resharp.bench.benchmark import Benchmark
from resharp.bench.measure.matrix_rates import device_allocator
from resharp.bench.measure.nvml import Nvml, open_nvml
from resharp.bench.measure.peak_memory import BY_DEVICE, BY_PROCESS, check_device
from resharp.bench.records import MEASURED
from resharp.engines import Bundle

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU"),
]


@pytest.mark.alone
def test_a_known_allocation_is_measured_within_five_per_cent() -> None:
    nvml, allocate = open_nvml(0), device_allocator()
    assert isinstance(nvml, Nvml), nvml
    assert allocate is not None
    assert check_device(nvml, allocate)["error"] <= 0.05
    assert nvml.facts()


@pytest.mark.slow
def test_a_small_run(compact: Bundle, tmp_path: Path) -> None:
    shutil.copytree(compact.folder, tmp_path / "store" / "compact")
    data = {
        "effort": {"pairs": 2, "most_pairs": 2, "seconds": 0, "limit": 0},
        "cases": [
            {"model": "compact", "subject": "upstream", "size": [300, 350]},
            {"model": "compact", "subject": "torch", "tile": 128, "lanes": 2, "size": [300, 350]},
        ],
    }
    suite = cases.parse("small", data)
    found = Benchmark(suite, suite.cases, tmp_path / "run.jsonl", tmp_path / "store").run()
    assert [record.status for record in found.cases] == [MEASURED] * 3  # the baseline twice
    for record in found.measured():
        assert record.actual is not None
        assert record.actual.device.startswith("cuda")
        assert "without CUDA graphs" not in record.actual.note
        assert record.memory is not None
        assert record.memory.device
        assert record.memory.device_by in (BY_PROCESS, BY_DEVICE)
        assert record.memory.framework
        assert record.memory.framework <= record.memory.device * 1.05
        assert record.rates is not None
        assert record.rates.matrix_share
    assert found.run.memory_check["device"]["error"] <= 0.05

"""The ctypes calls, against a CUDA driver that the system's C compiler makes here."""

from __future__ import annotations

from pathlib import Path

import pytest

from resharp.memory import available_memory
from tests.fakes import fake_cuda

SCRIPT = """
from resharp.errors import BackendError
from resharp.gpu.devices import cuda_free_memory, driver_version, gpus
for call in (gpus, driver_version, lambda: cuda_free_memory(0), lambda: cuda_free_memory(5)):
    try:
        print(call())
    except BackendError as error:
        print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if fake_cuda.compiler() is None:
        pytest.skip("no C compiler to make a fake CUDA driver with")
    return fake_cuda.build(tmp_path_factory.mktemp("driver"))


def test_gpus_are_listed_and_contexts_balanced(driver: Path) -> None:
    done = fake_cuda.run(SCRIPT, driver, FAKE_CUDA_DEVICES="2", FAKE_CUDA_MEMORY=str(8 << 30))
    gpu = "Gpu(index={}, name='Fake GPU', capability='8.9', memory=8589934592)"
    assert done.stdout.splitlines() == [
        f"({gpu.format(0)}, {gpu.format(1)})",
        "13.1",
        "8589934592",
        "CudaError the NVIDIA driver call cuDeviceGet failed with CUDA_ERROR_INVALID_DEVICE",
    ], done.stderr
    assert done.live == fake_cuda.NOTHING_LIVE


def test_a_refusal_leaves_no_context(driver: Path) -> None:
    for call in ("cuMemGetInfo", "cuCtxPushCurrent"):
        done = fake_cuda.run(SCRIPT, driver, FAKE_CUDA_FAIL=f"{call}:1")
        assert "CUDA_ERROR_UNKNOWN" in done.stdout, done.stderr
        assert done.live == fake_cuda.NOTHING_LIVE


def test_a_driver_without_a_device_says_so(driver: Path) -> None:
    done = fake_cuda.run(SCRIPT, driver, FAKE_CUDA_INIT="100")
    assert "CUDA_ERROR_NO_DEVICE (the driver shows no GPU: check nvidia-smi" in done.stdout
    done = fake_cuda.run(SCRIPT, driver, FAKE_CUDA_DEVICES="0")
    assert done.stdout.splitlines()[0] == "()"


def test_available_memory_is_a_plausible_number() -> None:
    assert 64 << 20 < available_memory() < 1 << 50

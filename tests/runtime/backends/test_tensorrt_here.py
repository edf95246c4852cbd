"""A real engine on a machine that cannot run it: our own words, and never a crash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from resharp.engines.target import NAMED, Target
from resharp.export.engine import EngineOptions, build_engines
from resharp.gpu import tensorrt as trt
from resharp.runtime.bundle_lookup import resolve
from tests.fakes import fake_cuda
from tests.waiting import LIMIT

needs_rtx = pytest.mark.skipif(
    trt.RTX not in trt.installed(), reason="TensorRT-RTX is not installed (extra rtx)"
)

UPSCALE = """
import sys
import numpy as np
from resharp import Upscaler
from resharp.errors import ResharpError
try:
    Upscaler(store=sys.argv[1], backend="tensorrt", device="cuda")
except ResharpError as error:
    print(type(error).__name__, error)
with Upscaler(store=sys.argv[1]) as upscaler:
    print(upscaler(np.zeros((8, 8, 3), np.uint8)).shape)
    print(upscaler.explain())
print("loaded:", [name for name in ("tensorrt_rtx_bindings", "torch") if name in sys.modules])
"""

DESERIALISE = """
import sys
from pathlib import Path
from resharp.errors import ResharpError
from resharp.runtime.bundle_lookup import resolve
from resharp.runtime.backends.tensorrt import check_engine
bundle = resolve("resharp-x4", store=sys.argv[1])
(engine, *_), _ = bundle.engine_store.engines()
try:
    check_engine(bundle, engine, 0)
except ResharpError as error:
    print(type(error).__name__, error)
"""

WITHOUT_TORCH = """
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

class Refuse(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "onnxruntime"):
            raise AssertionError(f"{name} was imported")

sys.meta_path.insert(0, Refuse())
import pytest
from tests.fakes.tensorrt_kit import expected, machine, picture
from resharp import Upscaler
with pytest.MonkeyPatch.context() as patch, machine(Path(sys.argv[1]), patch) as kit:
    kit.add()
    with Upscaler(kit.bundle.folder, backend="tensorrt") as upscaler:
        image = picture(70, 90)
        assert (upscaler(image) == expected(image)).all()
        print(upscaler.backend)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a real engine of the built-in model."""
    folder = tmp_path_factory.mktemp("store")
    options = EngineOptions(variant=trt.RTX, dtypes=("uint8",))
    build_engines(resolve("resharp-x4", store=folder), Target(targets=NAMED), options)
    return folder


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if fake_cuda.compiler() is None:
        pytest.skip("no C compiler to make a fake CUDA driver with")
    return fake_cuda.build(tmp_path_factory.mktemp("driver"))


def run(script: str, *arguments: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_rtx
@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is an NVIDIA driver here")
def test_without_a_driver(store: Path) -> None:
    said = run(UPSCALE, store)
    assert "BackendError" in said
    assert "no NVIDIA driver" in said
    assert "(32, 32, 3)" in said
    assert "tensorrt on cuda: skipped (no NVIDIA driver" in said
    assert "loaded: []" in said  # neither is imported to say so
    assert "CudaError no NVIDIA driver" in run(DESERIALISE, store)


@pytest.mark.slow
@needs_rtx
@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"FAKE_CUDA_INIT": "100"}, "CUDA_ERROR_NO_DEVICE (the driver shows no GPU"),
        ({"FAKE_CUDA_INIT": "803"}, "call cuInit failed"),
        ({"FAKE_CUDA_INIT": "999"}, "CUDA_ERROR_UNKNOWN"),
        ({"FAKE_CUDA_DEVICES": "0"}, "reports 0 GPUs"),
        ({"FAKE_CUDA_CC": "6.1"}, "(compute capability 6.1): use torch"),
        ({"FAKE_CUDA_CC": "9.0"}, "(compute capability 9.0): use TensorRT"),
    ],
)
def test_a_driver_without_a_device_it_can_use(
    store: Path, driver: Path, environment: dict[str, str], reason: str
) -> None:
    said = run(UPSCALE, store, LD_LIBRARY_PATH=str(driver), **environment)
    assert reason in said
    assert "(32, 32, 3)" in said
    assert "tensorrt on cuda: skipped" in said


def test_a_run_needs_no_torch_and_no_onnxruntime(tmp_path: Path) -> None:
    assert run(WITHOUT_TORCH, tmp_path) == "tensorrt\n"

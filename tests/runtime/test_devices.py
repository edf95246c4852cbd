"""The ctypes calls, against a CUDA driver that the system's C compiler makes here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from resharp.runtime.memory import available_memory

FAKE = r"""
#include <stddef.h>
#include <stdio.h>
#include <string.h>
typedef int R;
static int retained, pushed;
R cuInit(unsigned f) { return getenv_failing(); }
R cuDriverGetVersion(int *v) { *v = 13010; return 0; }
R cuDeviceGetCount(int *n) { *n = 2; return 0; }
R cuDeviceGet(int *d, int i) { *d = i; return i < 2 ? 0 : 101; }
R cuDeviceGetName(char *s, int n, int d) { snprintf(s, n, "Fake GPU %d", d); return 0; }
R cuDeviceTotalMem_v2(size_t *b, int d) { *b = (size_t)(d + 1) << 33; return 0; }
R cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : a == 76 ? 9 : -1; return 0; }
R cuDevicePrimaryCtxRetain(void **c, int d) { retained++; *c = (void *)(size_t)(7 + d); return 0; }
R cuDevicePrimaryCtxRelease_v2(int d) { return --retained; }
R cuCtxPushCurrent_v2(void *c) { pushed++; return 0; }
R cuCtxPopCurrent_v2(void **c) { return --pushed; }
R cuMemGetInfo_v2(size_t *f, size_t *t) {
    if (retained != 1 || pushed != 1) return 201;
    *f = (size_t)3 << 30; *t = (size_t)8 << 30; return 0;
}
"""

SCRIPT = """
from resharp.runtime.devices import CudaError, cuda_free_memory, driver_version, gpus
for gpu in gpus():
    print(gpu.index, gpu.name, gpu.capability, gpu.memory >> 30)
print(driver_version(), cuda_free_memory(0) >> 30, cuda_free_memory(0) >> 30)
try:
    cuda_free_memory(5)
except CudaError as error:
    print(error)
"""


def run_with(folder: Path, fail: int = 0) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder), "FAKE_CUINIT": str(fail)}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=False
    )


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler to make a fake CUDA driver with")
    folder = tmp_path_factory.mktemp("driver")
    init = (
        "#include <stdlib.h>\n"
        'static int getenv_failing(void) { return atoi(getenv("FAKE_CUINIT")); }\n'
    )
    (folder / "fake.c").write_text(init + FAKE)
    library, source = str(folder / "libcuda.so.1"), str(folder / "fake.c")
    command = [compiler, "-shared", "-fPIC", "-o", library, source]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def test_gpus_are_listed_and_contexts_balanced(driver: Path) -> None:
    done = run_with(driver)
    assert done.stdout.splitlines() == [
        "0 Fake GPU 0 8.9 8",
        "1 Fake GPU 1 8.9 16",
        "13.1 3 3",
        "the NVIDIA driver answered cuDeviceGet with CUDA error 101",
    ], done.stderr


def test_a_driver_that_does_not_start_says_its_code(driver: Path) -> None:
    done = run_with(driver, fail=100)
    assert "the NVIDIA driver answered cuInit with CUDA error 100" in done.stderr


def test_available_memory_is_a_plausible_number() -> None:
    assert 64 << 20 < available_memory() < 1 << 50

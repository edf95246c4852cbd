"""Devices by name, and the memory of the host.

NVIDIA GPUs are as the driver sees them, through ctypes: no torch, no toolkit. The driver API is
CUDA's own (``cuda.h``); only calls that every driver since CUDA 11 has are used. Free memory is
what /proc and cgroups say, or else psutil.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resharp.errors import BackendError, MissingExtraError, OutOfMemoryError, ResharpError
from resharp.optional import require

MEMINFO = Path("/proc/meminfo")
FALLBACK = 2 << 30
"""Bytes of free memory that are assumed where the system does not tell."""
LOST = "CUDA refuses everything in this process from now on: restart it, and report this"
"""What follows from an error that CUDA calls sticky."""
_HINTS = {
    "CUDA_ERROR_NO_DEVICE": "it shows no GPU: see nvidia-smi, and CUDA_VISIBLE_DEVICES",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "it was updated under a running system: restart that",
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": "too new for this GPU: update the driver",
    **dict.fromkeys(
        (
            "CUDA_ERROR_ILLEGAL_ADDRESS",
            "CUDA_ERROR_LAUNCH_TIMEOUT",
            "CUDA_ERROR_ASSERT",
            "CUDA_ERROR_HARDWARE_STACK_ERROR",
            "CUDA_ERROR_ILLEGAL_INSTRUCTION",
            "CUDA_ERROR_MISALIGNED_ADDRESS",
            "CUDA_ERROR_INVALID_ADDRESS_SPACE",
            "CUDA_ERROR_INVALID_PC",
            "CUDA_ERROR_LAUNCH_FAILED",
            "CUDA_ERROR_ECC_UNCORRECTABLE",
        ),
        LOST,
    ),
}


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    index: int
    name: str
    capability: str
    """Compute capability, as in ``8.9``."""
    memory: int
    """Bytes in all."""


class CudaError(BackendError):
    """The CUDA driver is absent or refused a call."""


class CudaDriver:
    """The started driver, its refusals as our errors.

    Raises:
        CudaError: there is no driver, or it does not start; the message says which.
    """

    LAST_CODE = 999

    def __init__(self) -> None:
        name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            raise CudaError(f"no NVIDIA driver ({name} is not there)") from error
        self.call("cuInit", 0)

    def call(self, name: str, *args: Any) -> None:
        """Call a function of ``cuda.h`` by the name under which the library exports it."""
        code = getattr(self._library, name)(*args)
        if code:
            raise refusal(name, self._text("cuGetErrorName", code) or f"CUDA error {code}")

    def number(self, name: str, *args: Any) -> int:
        """Call a function whose first argument is the place of an ``int``."""
        value = ctypes.c_int()
        self.call(name, ctypes.byref(value), *args)
        return value.value

    def error_name(self, description: str) -> str:
        """The name of the error that CUDA describes so; pycuda passes on nothing else."""
        for code in range(1, self.LAST_CODE + 1):
            if self._text("cuGetErrorString", code) == description:
                return self._text("cuGetErrorName", code)
        return description

    def _text(self, name: str, code: int) -> str:
        text = ctypes.c_char_p()
        getattr(self._library, name)(code, ctypes.byref(text))
        return (text.value or b"").decode()


def refusal(call: str, error: str) -> ResharpError:
    """The exception for a call that CUDA refused with ``error``."""
    kind = OutOfMemoryError if error == "CUDA_ERROR_OUT_OF_MEMORY" else CudaError
    hint = f" ({_HINTS[error]})" if error in _HINTS else ""
    return kind(f"the NVIDIA driver answered {call} with {error}{hint}")


def gpus() -> tuple[Gpu, ...]:
    """All GPUs that the driver shows.

    Raises:
        CudaError: there is no driver, or it does not start; the message says which.
    """
    driver = CudaDriver()
    return tuple(_gpu(driver, index) for index in range(driver.number("cuDeviceGetCount")))


def device_name(device: str) -> str:
    """What a device is called: the GPU's name, or the CPU's with the threads that we may use.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        CudaError: there is no driver, or no such GPU.
    """
    if not device.startswith("cuda"):
        return f"{cpu_name()}, {usable_threads()} threads"
    index, found = int(device.partition(":")[2] or 0), gpus()
    if index >= len(found):
        raise CudaError(f"the NVIDIA driver shows {len(found)} GPUs, so there is no {device}")
    return found[index].name


def cpu_name() -> str:
    """The processor as its maker calls it, as far as the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    names = (x.partition(":")[2].strip() for x in text.splitlines() if x.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine() or "unknown CPU"


def usable_threads() -> int:
    """CPU threads that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory() -> int:
    """Bytes that a process may take without swapping, as far as the system tells.

    The smaller of what the kernel calls available and what a cgroup (a container) still allows.
    """
    return min(_kernel_memory(), _cgroup_memory())


def _kernel_memory() -> int:
    try:
        for line in MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        psutil = require("psutil", feature="Reading the free memory", extra="")
        return int(psutil.virtual_memory().available)
    except (MissingExtraError, OSError, RuntimeError):  # RuntimeError: the system is unknown to it
        pass
    try:
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    except (AttributeError, OSError, ValueError):
        return FALLBACK


def _cgroup_memory(root: Path = Path("/sys/fs/cgroup")) -> int:
    """What cgroup version 2 or 1 still allows; unlimited where there is none."""
    for limit, used, stat, cache in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        try:
            most = int((root / limit).read_text(encoding="ascii"))
            taken = int((root / used).read_text(encoding="ascii"))
            # File cache counts as used, and is given back when it is wanted.
            fields = dict(x.split() for x in (root / stat).read_text(encoding="ascii").splitlines())
            return max(most - taken + int(fields.get(cache, 0)), 0)
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return 1 << 62


def has_gpu() -> bool:
    """Whether the driver shows a GPU."""
    try:
        return bool(gpus())
    except CudaError:
        return False


def driver_version() -> str:
    """The CUDA version that the driver supports, as in ``13.0``.

    Raises:
        CudaError: there is no driver.
    """
    version = CudaDriver().number("cuDriverGetVersion")
    return f"{version // 1000}.{version % 1000 // 10}"


def cuda_free_memory(index: int) -> int:
    """Free bytes of a GPU.

    Raises:
        CudaError: there is no driver or no such GPU.
    """
    driver, context = CudaDriver(), ctypes.c_void_p()
    device = driver.number("cuDeviceGet", index)
    driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    try:
        driver.call("cuCtxPushCurrent_v2", context)
        try:
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            driver.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        finally:
            driver.call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
    finally:
        driver.call("cuDevicePrimaryCtxRelease_v2", device)
    return free.value


def _gpu(driver: CudaDriver, index: int) -> Gpu:
    device = driver.number("cuDeviceGet", index)
    name, total = ctypes.create_string_buffer(256), ctypes.c_size_t()
    driver.call("cuDeviceGetName", name, 256, device)
    driver.call("cuDeviceTotalMem_v2", ctypes.byref(total), device)
    major = driver.number("cuDeviceGetAttribute", 75, device)
    minor = driver.number("cuDeviceGetAttribute", 76, device)
    return Gpu(index, name.value.decode(), f"{major}.{minor}", total.value)

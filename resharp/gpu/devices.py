"""Device names, and the memory of GPUs.

NVIDIA GPUs are queried from the driver through ctypes, without torch or the CUDA toolkit. The
driver API is CUDA's own (``cuda.h``); only calls that every driver since CUDA 11 supports are used.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resharp.errors import BackendError, OutOfMemoryError, ResharpError

LOST = "CUDA refuses all further calls from this process: restart it, and report this error"
"""Hint for errors that CUDA calls sticky."""
_HINTS = {
    "CUDA_ERROR_NO_DEVICE": "the driver shows no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "the driver was updated on a running system: reboot",
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": "CUDA is too new for this GPU: update the driver",
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
    """Compute capability, e.g. ``8.9``."""
    memory: int
    """Total memory in bytes."""


class CudaError(BackendError):
    """A missing CUDA driver, or a driver call that failed."""


class CudaDriver:
    """The initialized driver library; calls that it refuses raise resharp's errors.

    Raises:
        CudaError: the driver is missing or does not start; the message says which.
    """

    LAST_CODE = 999

    def __init__(self) -> None:
        name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            raise CudaError(f"no NVIDIA driver ({name} was not found)") from error
        self.call("cuInit", 0)

    def call(self, name: str, *args: Any) -> None:
        """Call a function of ``cuda.h`` by its exported name."""
        code = getattr(self._library, name)(*args)
        if code:
            raise refusal(name, self._text("cuGetErrorName", code) or f"CUDA error {code}")

    def number(self, name: str, *args: Any) -> int:
        """Call a function that returns an ``int`` through its first argument."""
        value = ctypes.c_int()
        self.call(name, ctypes.byref(value), *args)
        return value.value

    def error_name(self, description: str) -> str:
        """Return the name of the error with this description, which is all that pycuda keeps."""
        for code in range(1, self.LAST_CODE + 1):
            if self._text("cuGetErrorString", code) == description:
                return self._text("cuGetErrorName", code)
        return description

    def _text(self, name: str, code: int) -> str:
        text = ctypes.c_char_p()
        getattr(self._library, name)(code, ctypes.byref(text))
        return (text.value or b"").decode()


def refusal(call: str, error: str) -> ResharpError:
    """Return the exception for a call that CUDA refused with ``error``."""
    kind = OutOfMemoryError if error == "CUDA_ERROR_OUT_OF_MEMORY" else CudaError
    hint = f" ({_HINTS[error]})" if error in _HINTS else ""
    return kind(f"the NVIDIA driver call {call} failed with {error}{hint}")


def gpus() -> tuple[Gpu, ...]:
    """Return all GPUs that the driver shows.

    Raises:
        CudaError: the driver is missing or does not start; the message says which.
    """
    driver = CudaDriver()
    return tuple(_gpu(driver, index) for index in range(driver.number("cuDeviceGetCount")))


def device_name(device: str) -> str:
    """Return the name of the GPU, or of the CPU with the number of usable threads.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        CudaError: there is no driver, or no such GPU.
    """
    if not device.startswith("cuda"):
        return f"{cpu_name()}, {usable_threads()} threads"
    index, found = int(device.partition(":")[2] or 0), gpus()
    if index >= len(found):
        raise CudaError(f"no device {device}: the NVIDIA driver shows {len(found)} GPUs")
    return found[index].name


def cpu_name() -> str:
    """Return the model name of the processor, as far as the system reports it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    names = (x.partition(":")[2].strip() for x in text.splitlines() if x.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine() or "unknown CPU"


def usable_threads() -> int:
    """Return the number of CPU threads that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def has_gpu() -> bool:
    """Return whether the driver shows a GPU."""
    try:
        return bool(gpus())
    except CudaError:
        return False


def driver_version() -> str:
    """Return the CUDA version that the driver supports, e.g. ``13.0``.

    Raises:
        CudaError: there is no driver.
    """
    version = CudaDriver().number("cuDriverGetVersion")
    return f"{version // 1000}.{version % 1000 // 10}"


def cuda_free_memory(index: int) -> int:
    """Return the free memory of a GPU in bytes.

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

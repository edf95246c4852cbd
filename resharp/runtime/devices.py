"""NVIDIA GPUs as the driver sees them, through ctypes: no torch, no CUDA toolkit.

The driver API is CUDA's own (``cuda.h``); only calls that every driver since CUDA 11 has are used.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

from resharp.errors import BackendError


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


def gpus() -> tuple[Gpu, ...]:
    """All GPUs that the driver shows.

    Raises:
        CudaError: there is no driver, or it does not start; the message says which.
    """
    driver = _driver()
    return tuple(_gpu(driver, index) for index in range(_number(driver.cuDeviceGetCount)))


def driver_version() -> str:
    """The CUDA version that the driver supports, as in ``13.0``.

    Raises:
        CudaError: there is no driver.
    """
    version = _number(_driver().cuDriverGetVersion)
    return f"{version // 1000}.{version % 1000 // 10}"


def cuda_free_memory(index: int) -> int:
    """Free bytes of a GPU.

    Raises:
        CudaError: there is no driver or no such GPU.
    """
    driver, context, device = _driver(), ctypes.c_void_p(), ctypes.c_int()
    _call(driver.cuDeviceGet, ctypes.byref(device), index)
    _call(driver.cuDevicePrimaryCtxRetain, ctypes.byref(context), device)
    try:
        _call(driver.cuCtxPushCurrent_v2, context)
        try:
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            _call(driver.cuMemGetInfo_v2, ctypes.byref(free), ctypes.byref(total))
        finally:
            _call(driver.cuCtxPopCurrent_v2, ctypes.byref(ctypes.c_void_p()))
    finally:
        _call(driver.cuDevicePrimaryCtxRelease_v2, device)
    return free.value


def _driver() -> Any:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError as error:
        raise CudaError(f"no NVIDIA driver ({name} is not there)") from error
    _call(driver.cuInit, 0)
    return driver


def _call(function: Any, *args: Any) -> None:
    code = function(*args)
    if code:
        raise CudaError(f"the NVIDIA driver answered {function.__name__} with CUDA error {code}")


def _number(function: Any, *args: Any) -> int:
    value = ctypes.c_int()
    _call(function, ctypes.byref(value), *args)
    return value.value


def _gpu(driver: Any, index: int) -> Gpu:
    device = ctypes.c_int()
    _call(driver.cuDeviceGet, ctypes.byref(device), index)
    name, total = ctypes.create_string_buffer(256), ctypes.c_size_t()
    _call(driver.cuDeviceGetName, name, 256, device)
    _call(driver.cuDeviceTotalMem_v2, ctypes.byref(total), device)
    major = _number(driver.cuDeviceGetAttribute, 75, device)
    minor = _number(driver.cuDeviceGetAttribute, 76, device)
    return Gpu(index, name.value.decode(), f"{major}.{minor}", total.value)

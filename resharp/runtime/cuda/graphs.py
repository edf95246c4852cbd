"""What both providers ask of the driver directly: graphs, and the names of its errors.

pycuda knows no graphs, so capture and launch go through ctypes on plain handles, for cuda-python
too: one way instead of two.
"""

from __future__ import annotations

import ctypes
from typing import Any

from resharp.errors import OutOfMemoryError, ResharpError
from resharp.runtime.cuda.provider import Graph, Stream
from resharp.runtime.devices import CudaError, _driver

THREAD_LOCAL = 1
"""Capture mode: what other threads do meanwhile neither breaks the capture nor is refused."""
OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"
LAST_CODE = 999


class Driver:
    """The started driver, its refusals as our errors.

    Raises:
        CudaError: there is no driver, or it does not start; said before a package is imported that
            would say it worse.
    """

    def __init__(self) -> None:
        self._library = _driver()

    def call(self, name: str, *args: Any) -> None:
        """Call a function of ``cuda.h`` by the name under which the library exports it."""
        code = getattr(self._library, name)(*args)
        if code:
            raise refusal(name, self._text("cuGetErrorName", code) or f"CUDA error {code}")

    def error_name(self, description: str) -> str:
        """The name of the error that CUDA describes so; pycuda passes on nothing else."""
        for code in range(1, LAST_CODE + 1):
            if self._text("cuGetErrorString", code) == description:
                return self._text("cuGetErrorName", code)
        return description

    def _text(self, name: str, code: int) -> str:
        text = ctypes.c_char_p()
        getattr(self._library, name)(code, ctypes.byref(text))
        return (text.value or b"").decode()


def refusal(call: str, error: str) -> ResharpError:
    """The exception for a call that CUDA refused with ``error``."""
    kind = OutOfMemoryError if error == OUT_OF_MEMORY else CudaError
    return kind(f"the NVIDIA driver answered {call} with {error}")


def begin_capture(driver: Driver, stream: Stream) -> None:
    """Record what is queued on ``stream`` from now on."""
    driver.call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream.handle), THREAD_LOCAL)


def end_capture(driver: Driver, stream: Stream) -> DriverGraph:
    """End the recording; a capture that something spoiled raises here."""
    recorded, ready = ctypes.c_void_p(), ctypes.c_void_p()
    handle = ctypes.c_void_p(stream.handle)
    driver.call("cuStreamEndCapture", handle, ctypes.byref(recorded))
    try:
        flags = ctypes.c_ulonglong(0)
        driver.call("cuGraphInstantiateWithFlags", ctypes.byref(ready), recorded, flags)
    finally:
        driver.call("cuGraphDestroy", recorded)
    return DriverGraph(driver, ready)


class DriverGraph(Graph):
    """An instantiated graph."""

    def __init__(self, driver: Driver, handle: ctypes.c_void_p) -> None:
        self._driver = driver
        self._handle: ctypes.c_void_p | None = handle

    def launch(self, stream: Stream) -> None:
        self._driver.call("cuGraphLaunch", self._handle, ctypes.c_void_p(stream.handle))

    def free(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            self._driver.call("cuGraphExecDestroy", handle)

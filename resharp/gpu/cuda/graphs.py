"""CUDA graphs, which both providers ask of the driver directly.

pycuda knows no graphs, so capture and launch go through ctypes on plain handles, for cuda-python
too: one way instead of two.
"""

from __future__ import annotations

import ctypes
import threading

from resharp.gpu.cuda.provider import CudaGraph, Stream
from resharp.gpu.devices import CudaDriver

CAPTURING = threading.Lock()
"""Held by whoever captures, and by whoever waits for the whole device: CUDA refuses such a wait
while any stream of the device is being captured, in every mode, and spoils the capture too."""
THREAD_LOCAL = 1
"""Capture mode: what other threads allocate or copy meanwhile neither breaks the capture nor is
refused. A wait for the whole device is: see :data:`CAPTURING`."""


def begin_capture(driver: CudaDriver, stream: Stream) -> None:
    """Record what is queued on ``stream`` from now on."""
    driver.call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream.handle), THREAD_LOCAL)


def end_capture(driver: CudaDriver, stream: Stream) -> DriverGraph:
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


class DriverGraph(CudaGraph):
    """An instantiated graph."""

    def __init__(self, driver: CudaDriver, handle: ctypes.c_void_p) -> None:
        self._driver = driver
        self._handle: ctypes.c_void_p | None = handle

    def launch(self, stream: Stream) -> None:
        self._driver.call("cuGraphLaunch", self._handle, ctypes.c_void_p(stream.handle))

    def free(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            self._driver.call("cuGraphExecDestroy", handle)

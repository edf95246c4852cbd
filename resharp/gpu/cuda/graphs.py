"""CUDA graphs, for which both providers call the driver directly.

pycuda does not support graphs, so capture and launch use ctypes on plain handles; cuda-python
shares this code to avoid a second implementation.
"""

from __future__ import annotations

import ctypes
import threading

from resharp.gpu.cuda.provider import CudaGraph, Stream
from resharp.gpu.devices import CudaDriver

CAPTURING = threading.Lock()
"""Held during captures and during waits for the whole device: in every capture mode, CUDA refuses
such a wait while any stream of the device is being captured, and invalidates the capture too."""
THREAD_LOCAL = 1
"""Capture mode in which allocations and copies of other threads neither break the capture nor are
refused. Waits for the whole device are still refused: see :data:`CAPTURING`."""


def begin_capture(driver: CudaDriver, stream: Stream) -> None:
    """Record the work that is queued on ``stream`` from now on."""
    driver.call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream.handle), THREAD_LOCAL)


def end_capture(driver: CudaDriver, stream: Stream) -> DriverGraph:
    """End the recording and instantiate the graph; an invalidated capture raises here."""
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
    """An instantiated CUDA graph."""

    def __init__(self, driver: CudaDriver, handle: ctypes.c_void_p) -> None:
        self._driver = driver
        self._handle: ctypes.c_void_p | None = handle

    def launch(self, stream: Stream) -> None:
        """Queue the captured work on ``stream``."""
        self._driver.call("cuGraphLaunch", self._handle, ctypes.c_void_p(stream.handle))

    def free(self) -> None:
        """Destroy the graph; further calls do nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._driver.call("cuGraphExecDestroy", handle)

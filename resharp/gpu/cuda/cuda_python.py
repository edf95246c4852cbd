"""CUDA through NVIDIA's own package cuda-python.

Device memory comes from plain ``cuMemAlloc``, not stream-ordered ``cuMemAllocAsync``: buffers are
allocated once per session and used by several streams and by TensorRT, so ordering within one
stream has no benefit, and memory freed to the driver's pool would look used to torch and to other
processes.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resharp.gpu.cuda import graphs
from resharp.gpu.cuda.provider import Buffer, CudaGraph, Event, Pinned, Provider, Stream, checked
from resharp.gpu.devices import CudaDriver, CudaError, refusal
from resharp.optional import require
from resharp.types import Array

NON_BLOCKING = 1
NO_TIMING = 2


class _Api:
    """``cuda.bindings.driver`` with error codes raised as exceptions."""

    def __init__(self) -> None:
        wanted = {"feature": "CUDA", "extra": "gpu", "package": "cuda-python"}
        require("cuda.bindings", **wanted)
        self.driver = CudaDriver()
        self.bindings: Any = require("cuda.bindings.driver", **wanted)

    def __call__(self, name: str, *args: Any) -> Any:
        code, *values = getattr(self.bindings, name)(*args)
        if int(code):
            raise refusal(name, code.name)
        return values[0] if len(values) == 1 else tuple(values)


class PythonProvider(Provider):
    """A :class:`~resharp.gpu.cuda.provider.Provider` that uses cuda-python."""

    name = "cuda-python"

    def __init__(self, index: int) -> None:
        self.index = index
        self._api = _Api()
        device = self._api("cuDeviceGet", index)
        self._context = self._api("cuDevicePrimaryCtxRetain", device)
        self._close = weakref.finalize(self, self._api, "cuDevicePrimaryCtxRelease", device)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Make the device's context current in this thread."""
        if not self._close.alive:
            raise CudaError(f"CUDA device {self.index} was closed")
        self._api("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._api("cuCtxPopCurrent")

    def stream(self) -> Stream:
        """Create a non-blocking stream."""
        return _Stream(self._api)

    def event(self, *, timing: bool = False) -> Event:
        """Create an event."""
        return _Event(self._api, 0 if timing else NO_TIMING)

    def allocate(self, size: int) -> Buffer:
        """Allocate device memory."""
        return _Buffer(self._api, size)

    def pin(self, size: int) -> Pinned:
        """Allocate page-locked host memory."""
        return _Pinned(self._api, size)

    def upload(self, address: int, array: Array, stream: Stream) -> None:
        """Queue a copy to the device."""
        source = checked(array).ctypes.data
        self._api("cuMemcpyHtoDAsync", address, source, array.nbytes, stream.handle)

    def download(self, array: Array, address: int, stream: Stream) -> None:
        """Queue a copy from the device."""
        target = checked(array, writable=True).ctypes.data
        self._api("cuMemcpyDtoHAsync", target, address, array.nbytes, stream.handle)

    def copy_rows(
        self,
        target: int,
        target_pitch: int,
        source: int,
        source_pitch: int,
        width: int,
        rows: int,
        stream: Stream,
    ) -> None:
        """Queue a copy of rows on the device."""
        copy = self._api.bindings.CUDA_MEMCPY2D()
        device = self._api.bindings.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy.srcMemoryType = copy.dstMemoryType = device
        copy.srcDevice, copy.srcPitch = source, source_pitch
        copy.dstDevice, copy.dstPitch = target, target_pitch
        copy.WidthInBytes, copy.Height = width, rows
        self._api("cuMemcpy2DAsync", copy, stream.handle)

    def memory(self) -> tuple[int, int]:
        """Return the free and total device memory in bytes."""
        free, total = self._api("cuMemGetInfo")
        return int(free), int(total)

    def begin_capture(self, stream: Stream) -> None:
        """Start recording the work queued on ``stream``."""
        graphs.begin_capture(self._api.driver, stream)

    def end_capture(self, stream: Stream) -> CudaGraph:
        """End the recording and return a graph."""
        return graphs.end_capture(self._api.driver, stream)

    def close(self) -> None:
        """Release the device."""
        self._close()


class _Owned:
    """A handle that is destroyed once."""

    def __init__(self, api: _Api, destroy: str, handle: Any) -> None:
        self._api, self._destroy = api, destroy
        self._raw: Any = handle

    def free(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            self._api(self._destroy, raw)


class _Stream(_Owned, Stream):
    def __init__(self, api: _Api) -> None:
        super().__init__(api, "cuStreamDestroy", api("cuStreamCreate", NON_BLOCKING))
        self.handle = int(self._raw)

    def synchronize(self) -> None:
        self._api("cuStreamSynchronize", self._raw)

    def wait(self, event: Event) -> None:
        assert isinstance(event, _Event)
        self._api("cuStreamWaitEvent", self._raw, event._raw, 0)


class _Event(_Owned, Event):
    def __init__(self, api: _Api, flags: int) -> None:
        super().__init__(api, "cuEventDestroy", api("cuEventCreate", flags))

    def record(self, stream: Stream) -> None:
        self._api("cuEventRecord", self._raw, stream.handle)

    def synchronize(self) -> None:
        self._api("cuEventSynchronize", self._raw)

    def elapsed_since(self, start: Event) -> float:
        assert isinstance(start, _Event)
        return float(self._api("cuEventElapsedTime", start._raw, self._raw))


class _Buffer(_Owned, Buffer):
    def __init__(self, api: _Api, size: int) -> None:
        super().__init__(api, "cuMemFree", api("cuMemAlloc", size))
        self.address, self.size = int(self._raw), size


class _Pinned(_Owned, Pinned):
    def __init__(self, api: _Api, size: int) -> None:
        super().__init__(api, "cuMemFreeHost", api("cuMemHostAlloc", size, 0))
        memory = (ctypes.c_uint8 * size).from_address(int(self._raw))
        self.array: NDArray[np.uint8] = np.ctypeslib.as_array(memory)

    def free(self) -> None:
        self.array = np.empty(0, np.uint8)
        super().free()

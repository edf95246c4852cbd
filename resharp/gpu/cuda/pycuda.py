"""CUDA through pycuda.

Three quirks of pycuda shape this module. A context left pushed aborts the process, so scopes always
pop. Objects that the garbage collector frees in a thread without the context are leaked with a
warning, so everything is freed explicitly, streams and events by dropping their only reference. And
``Context.detach`` expects the driver to pop a context when it is released, which it does not do for
a primary one, and the destructor detaches a primary context with the wrong call: so ``_release``
pops and detaches, at exit at the latest.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from resharp.gpu.cuda import graphs
from resharp.gpu.cuda.provider import Buffer, CudaGraph, Event, Pinned, Provider, Stream, checked
from resharp.gpu.devices import CudaDriver, CudaError, refusal
from resharp.optional import require
from resharp.types import Array

NON_BLOCKING = 1
NO_TIMING = 2


class _Api:
    """``pycuda.driver`` with its exceptions converted to resharp's."""

    def __init__(self) -> None:
        require("pycuda", feature="CUDA through pycuda", extra="pycuda")
        self.driver = CudaDriver()  # without a driver, pycuda.driver raises ImportError
        self.pycuda: Any = require(
            "pycuda.driver", feature="CUDA through pycuda", extra="pycuda", package="pycuda"
        )
        self(self.pycuda.init)

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except self.pycuda.Error as error:  # "cuMemAlloc failed: out of memory"
            call, _, text = str(error).partition(" failed: ")
            text, _, _ = text.partition(" - ")  # a remark added by pycuda
            raise refusal(call, self.driver.error_name(text)) from error


class PycudaProvider(Provider):
    """A :class:`~resharp.gpu.cuda.provider.Provider` that uses pycuda."""

    name = "pycuda"

    def __init__(self, index: int) -> None:
        self.index = index
        self._api = _Api()
        device = self._api(self._api.pycuda.Device, index)
        self._context = self._api(device.retain_primary_context)
        self._close = weakref.finalize(self, _release, self._api, self._context)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Make the device's context current in this thread."""
        if not self._close.alive:
            raise CudaError(f"CUDA device {self.index} was closed")
        self._api(self._context.push)
        try:
            yield
        finally:
            self._api(self._api.pycuda.Context.pop)

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
        self._api(self._api.pycuda.memcpy_htod_async, address, checked(array), _raw(stream))

    def download(self, array: Array, address: int, stream: Stream) -> None:
        """Queue a copy from the device."""
        target = checked(array, writable=True)
        self._api(self._api.pycuda.memcpy_dtoh_async, target, address, _raw(stream))

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
        copy = self._api.pycuda.Memcpy2D()
        copy.set_src_device(source)
        copy.set_dst_device(target)
        copy.src_pitch, copy.dst_pitch = source_pitch, target_pitch
        copy.width_in_bytes, copy.height = width, rows
        self._api(copy, _raw(stream))

    def memory(self) -> tuple[int, int]:
        """Return the free and total device memory in bytes."""
        free, total = self._api(self._api.pycuda.mem_get_info)
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


def _release(api: _Api, context: Any) -> None:
    api(context.push)  # where the context is not current, detach releases nothing
    try:
        api.driver.call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
    finally:
        api(context.detach)


def _raw(owner: Stream | Event) -> Any:
    assert isinstance(owner, _Stream | _Event)
    return owner._raw


class _Stream(Stream):
    def __init__(self, api: _Api) -> None:
        self._api = api
        self._raw = api(api.pycuda.Stream, NON_BLOCKING)
        self.handle = int(self._raw.handle)

    def synchronize(self) -> None:
        self._api(self._raw.synchronize)

    def wait(self, event: Event) -> None:
        self._api(self._raw.wait_for_event, _raw(event))

    def free(self) -> None:
        self._raw = None


class _Event(Event):
    def __init__(self, api: _Api, flags: int) -> None:
        self._api = api
        self._raw = api(api.pycuda.Event, flags)

    def record(self, stream: Stream) -> None:
        self._api(self._raw.record, _raw(stream))

    def synchronize(self) -> None:
        self._api(self._raw.synchronize)

    def elapsed_since(self, start: Event) -> float:
        return float(self._api(self._raw.time_since, _raw(start)))

    def free(self) -> None:
        self._raw = None


class _Buffer(Buffer):
    def __init__(self, api: _Api, size: int) -> None:
        self._api, self.size = api, size
        self._raw = api(api.pycuda.mem_alloc, size)
        self.address = int(self._raw)

    def free(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            self._api(raw.free)


class _Pinned(Pinned):
    def __init__(self, api: _Api, size: int) -> None:
        self._api = api
        self.array = api(api.pycuda.pagelocked_empty, size, np.uint8)
        self._raw: Any = self.array.base

    def free(self) -> None:
        raw, self._raw = self._raw, None
        self.array = np.empty(0, np.uint8)
        if raw is not None:
            self._api(raw.free)

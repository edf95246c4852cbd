"""CUDA through pycuda.

Three of its habits shape this file. A context left pushed aborts the process, so scopes always pop.
What the garbage collector frees in a thread without the context is leaked with a warning, so all is
freed by hand, streams and events by dropping the one reference to them. And ``Context.detach``
expects that the driver pops a context with its release, which is not so for a primary one, and its
destructor detaches a primary one by the wrong call: ``_release`` pops and detaches, at exit if not
before.
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
    """``pycuda.driver``, its exceptions made ours."""

    def __init__(self) -> None:
        require("pycuda", feature="CUDA through pycuda", extra="pycuda")
        self.driver = CudaDriver()  # pycuda.driver would say ImportError where there is none
        self.pycuda: Any = require(
            "pycuda.driver", feature="CUDA through pycuda", extra="pycuda", package="pycuda"
        )
        self(self.pycuda.init)

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except self.pycuda.Error as error:  # "cuMemAlloc failed: out of memory"
            call, _, text = str(error).partition(" failed: ")
            text, _, _ = text.partition(" - ")  # a remark of pycuda's own
            raise refusal(call, self.driver.error_name(text)) from error


class PycudaProvider(Provider):
    """See :class:`~resharp.gpu.cuda.provider.Provider`."""

    name = "pycuda"

    def __init__(self, index: int) -> None:
        self.index = index
        self._api = _Api()
        device = self._api(self._api.pycuda.Device, index)
        self._context = self._api(device.retain_primary_context)
        self._close = weakref.finalize(self, _release, self._api, self._context)

    @contextmanager
    def scope(self) -> Iterator[None]:
        if not self._close.alive:
            raise CudaError(f"CUDA device {self.index} was closed")
        self._api(self._context.push)
        try:
            yield
        finally:
            self._api(self._api.pycuda.Context.pop)

    def stream(self) -> Stream:
        return _Stream(self._api)

    def event(self, *, timing: bool = False) -> Event:
        return _Event(self._api, 0 if timing else NO_TIMING)

    def allocate(self, size: int) -> Buffer:
        return _Buffer(self._api, size)

    def pin(self, size: int) -> Pinned:
        return _Pinned(self._api, size)

    def upload(self, address: int, array: Array, stream: Stream) -> None:
        self._api(self._api.pycuda.memcpy_htod_async, address, checked(array), _raw(stream))

    def download(self, array: Array, address: int, stream: Stream) -> None:
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
        copy = self._api.pycuda.Memcpy2D()
        copy.set_src_device(source)
        copy.set_dst_device(target)
        copy.src_pitch, copy.dst_pitch = source_pitch, target_pitch
        copy.width_in_bytes, copy.height = width, rows
        self._api(copy, _raw(stream))

    def memory(self) -> tuple[int, int]:
        free, total = self._api(self._api.pycuda.mem_get_info)
        return int(free), int(total)

    def begin_capture(self, stream: Stream) -> None:
        graphs.begin_capture(self._api.driver, stream)

    def end_capture(self, stream: Stream) -> CudaGraph:
        return graphs.end_capture(self._api.driver, stream)

    def close(self) -> None:
        self._close()


def _release(api: _Api, context: Any) -> None:
    api(context.push)  # in a thread where it is not current, detach releases nothing
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

"""CUDA's provider interface on host memory, strict where CUDA is silent.

Streams are queues: nothing queued runs before something waits for it, so a missing wait shows as
wrong bytes. Memory is filled with rubbish when it is made and when it is freed; work on freed
memory, calls outside the scope and copies of memory that is not page-locked are errors.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resharp.errors import OutOfMemoryError
from resharp.gpu.cuda import CAPTURING, Buffer, CudaGraph, Event, Pinned, Provider, Stream
from resharp.gpu.devices import CudaError

Array = NDArray[Any]
Work = Callable[[], None]
NEW, OLD = 0xA5, 0xDD


@dataclass
class Mark:
    stream: HostStream
    done: bool = False


@dataclass
class HostProvider(Provider):
    """A provider on host memory.

    Args:
        limit: memory of the device, in bytes.
        captures: whether graphs can be captured.
        accidents: number of next captures that another thread breaks.
        full: number of next captures for which there is no memory.
        pins: whether there is page-locked memory. Copies to and from other memory are done at once.
    """

    limit: int = 1 << 30
    captures: bool = True
    accidents: int = 0
    full: int = 0
    pins: bool = True
    name: str = "host"
    index: int = 0
    live: Counter[str] = field(default_factory=Counter)
    ranges: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    locked: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    streams: dict[int, HostStream] = field(default_factory=dict)
    used: int = 0
    launches: int = 0
    unguarded: int = 0
    """Captures during which another thread may wait for the whole device."""
    opened: int = 1
    closed: int = 0

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self._local = threading.local()

    @contextmanager
    def scope(self) -> Iterator[None]:
        if self.closed >= self.opened:
            raise CudaError("the device was closed")
        self._local.depth = getattr(self._local, "depth", 0) + 1
        try:
            yield
        finally:
            self._local.depth -= 1

    def inside(self) -> None:
        assert getattr(self._local, "depth", 0) > 0, "called outside the scope"

    def stream(self) -> Stream:
        return HostStream(self)

    def event(self, *, timing: bool = False) -> Event:
        return HostEvent(self)

    def allocate(self, size: int) -> Buffer:
        return HostBuffer(self, size)

    def pin(self, size: int) -> Pinned:
        if not self.pins:
            raise OutOfMemoryError("cuMemHostAlloc: CUDA_ERROR_OUT_OF_MEMORY")
        return HostPinned(self, size)

    def upload(self, address: int, array: Array, stream: Stream) -> None:
        if self.pins:
            source = self.page_locked(array)
            queue(stream, lambda: self.write(address, source.copy()))
        else:
            taken = array.reshape(-1).view(np.uint8).copy()
            queue(stream, lambda: self.write(address, taken))

    def download(self, array: Array, address: int, stream: Stream) -> None:
        target = self.page_locked(array) if self.pins else array.reshape(-1).view(np.uint8)

        def work() -> None:
            if self.pins:
                self.page_locked(array)
            target[:] = self.at(address, target.size)

        queue(stream, work)
        if not self.pins:
            stream.synchronize()

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
        assert 0 < width <= min(target_pitch, source_pitch)
        assert rows > 0

        def work() -> None:
            for row in range(rows):
                self.write(target + row * target_pitch, self.at(source + row * source_pitch, width))

        queue(stream, work)

    def memory(self) -> tuple[int, int]:
        self.inside()
        return self.limit - self.used, self.limit

    def begin_capture(self, stream: Stream) -> None:
        self.inside()
        assert isinstance(stream, HostStream)
        if not self.captures:
            raise CudaError("cuStreamBeginCapture: not permitted")
        assert stream.recording is None
        self.unguarded += not CAPTURING.locked()
        stream.recording = []

    def end_capture(self, stream: Stream) -> CudaGraph:
        self.inside()
        assert isinstance(stream, HostStream)
        assert stream.recording is not None
        recorded, stream.recording = stream.recording, None
        if self.full:
            self.full -= 1
            raise OutOfMemoryError("cuGraphInstantiate: CUDA_ERROR_OUT_OF_MEMORY")
        if self.accidents:
            self.accidents -= 1
            raise CudaError("cuStreamEndCapture: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
        return HostGraph(self, recorded)

    def close(self) -> None:
        assert getattr(self._local, "depth", 0) == 0, "closed inside the scope"
        self.closed += 1

    def leaks(self) -> dict[str, int]:
        """What was made and not freed."""
        return {kind: count for kind, count in self.live.items() if count}

    def at(self, address: int, size: int) -> NDArray[np.uint8]:
        """Bytes of the device, in one buffer that is not freed."""
        for start, memory in self.ranges.items():
            if start <= address and address + size <= start + memory.size:
                return memory[address - start : address - start + size]
        raise CudaError("CUDA_ERROR_ILLEGAL_ADDRESS")

    def write(self, address: int, data: NDArray[np.uint8]) -> None:
        self.at(address, data.size)[:] = data

    def page_locked(self, array: Array) -> NDArray[np.uint8]:
        self.inside()
        assert array.flags.c_contiguous
        start = array.__array_interface__["data"][0]
        for place, memory in list(self.locked.items()):
            if place <= start and start + array.nbytes <= place + memory.size:
                return memory[start - place : start - place + array.nbytes]
        raise AssertionError("a copy of memory that is not page-locked")


class Counted:
    """Something that is freed once, inside the scope."""

    kind = ""

    def __init__(self, provider: HostProvider) -> None:
        provider.inside()
        self.provider, self.freed = provider, False
        with provider.lock:
            provider.live[self.kind] += 1

    def free(self) -> None:
        self.provider.inside()
        with self.provider.lock:
            if not self.freed:
                self.freed = True
                self.provider.live[self.kind] -= 1
                self.release()

    def release(self) -> None:
        pass


class HostStream(Counted, Stream):
    kind = "stream"

    def __init__(self, provider: HostProvider) -> None:
        super().__init__(provider)
        self.queue: deque[Work | Mark] = deque()
        self.recording: list[Work] | None = None
        self.handle = id(self)
        provider.streams[self.handle] = self

    def synchronize(self) -> None:
        self.provider.inside()
        assert not self.freed
        assert self.recording is None, "waited for a stream that is being captured"
        with self.provider.lock:
            self.drive(None)

    def wait(self, event: Event) -> None:
        assert isinstance(event, HostEvent)
        assert not event.freed
        mark = event.mark
        if mark is not None:
            queue(self, lambda: mark.stream.drive(mark))

    def drive(self, until: Mark | None) -> None:
        """Do what is queued, all of it or up to a mark."""
        while self.queue and not (until is not None and until.done):
            item = self.queue.popleft()
            if isinstance(item, Mark):
                item.done = True
            else:
                item()

    def release(self) -> None:
        assert not self.queue, "freed with work in it"
        del self.provider.streams[self.handle]


class HostEvent(Counted, Event):
    kind = "event"

    def __init__(self, provider: HostProvider) -> None:
        super().__init__(provider)
        self.mark: Mark | None = None

    def record(self, stream: Stream) -> None:
        self.provider.inside()
        assert isinstance(stream, HostStream)
        assert not self.freed
        assert not stream.freed
        with self.provider.lock:
            self.mark = Mark(stream)
            stream.queue.append(self.mark)

    def synchronize(self) -> None:
        self.provider.inside()
        with self.provider.lock:
            if self.mark is not None:
                self.mark.stream.drive(self.mark)

    def elapsed_since(self, start: Event) -> float:
        return 0.0


class HostBuffer(Counted, Buffer):
    kind = "buffer"

    def __init__(self, provider: HostProvider, size: int) -> None:
        with provider.lock:
            if provider.used + size > provider.limit:
                raise OutOfMemoryError("cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY")
            super().__init__(provider)
            provider.used += size
            self.memory = np.full(size, NEW, np.uint8)
            self.address, self.size = int(self.memory.ctypes.data), size
            provider.ranges[self.address] = self.memory

    def release(self) -> None:
        del self.provider.ranges[self.address]
        self.provider.used -= self.size
        self.memory[:] = OLD


class HostPinned(Counted, Pinned):
    kind = "pinned"

    def __init__(self, provider: HostProvider, size: int) -> None:
        super().__init__(provider)
        self.memory = np.full(size, NEW, np.uint8)
        self.array = self.memory[:]
        provider.locked[int(self.memory.ctypes.data)] = self.memory

    def release(self) -> None:
        del self.provider.locked[int(self.memory.ctypes.data)]
        self.memory[:] = OLD
        self.array = np.empty(0, np.uint8)


class HostGraph(Counted, CudaGraph):
    kind = "graph"

    def __init__(self, provider: HostProvider, recorded: list[Work]) -> None:
        super().__init__(provider)
        self.recorded = recorded

    def launch(self, stream: Stream) -> None:
        assert not self.freed
        self.provider.launches += 1
        for work in self.recorded:
            queue(stream, lambda work=work: self.do(work))  # type: ignore[misc]

    def do(self, work: Work) -> None:
        assert not self.freed, "the graph went before its work was done"
        work()


def queue(stream: Stream, work: Work) -> None:
    """Put work into a stream, or into what is being captured from it."""
    assert isinstance(stream, HostStream)
    stream.provider.inside()
    assert not stream.freed
    with stream.provider.lock:
        (stream.queue if stream.recording is None else stream.recording).append(work)

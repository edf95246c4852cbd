"""What the runtime asks of CUDA: one small interface, so that pycuda and cuda-python both serve.

Handles and addresses are plain integers, as TensorRT takes them. Nothing here is freed by the
garbage collector: pycuda leaks what is dropped in a thread without the context, so every object has
an explicit ``free`` or ``close`` that is called inside :meth:`Provider.scope`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from resharp.types import Array


def checked(array: Array, *, writable: bool = False) -> Array:
    """The array, if its memory is one piece; the packages themselves copy from others too, wrongly.

    Raises:
        ValueError: it is not C-contiguous, or is read-only where it must be ``writable``.
    """
    if not array.flags.c_contiguous or (writable and not array.flags.writeable):
        raise ValueError("only a C-contiguous array can be copied, and only into a writable one")
    return array


class Stream(ABC):
    """A non-blocking CUDA stream."""

    handle: int
    """As the driver and TensorRT take it."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all its work is done; the work's errors are raised here."""

    @abstractmethod
    def wait(self, event: Event) -> None:
        """Let work queued from now on begin after ``event``; the host does not wait."""

    @abstractmethod
    def free(self) -> None:
        """Destroy it; twice does nothing."""


class Event(ABC):
    """A mark in a stream."""

    @abstractmethod
    def record(self, stream: Stream) -> None:
        """Put the mark behind the stream's work so far."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the mark is reached; the work's errors are raised here."""

    @abstractmethod
    def elapsed_since(self, start: Event) -> float:
        """Milliseconds on the device from ``start`` to this mark; both made with ``timing``."""

    @abstractmethod
    def free(self) -> None:
        """Destroy it; twice does nothing."""


class Buffer(ABC):
    """Memory of the device."""

    address: int
    size: int
    """Bytes."""

    @abstractmethod
    def free(self) -> None:
        """Give it back; twice does nothing."""


class Pinned(ABC):
    """Page-locked memory of the host, which the device copies from and to by itself."""

    array: NDArray[np.uint8]
    """All of its bytes, ``[size]``; views of it must not be used after :meth:`free`."""

    @abstractmethod
    def free(self) -> None:
        """Give it back; twice does nothing."""


class CudaGraph(ABC):
    """Work that was captured from a stream once, to be launched many times."""

    @abstractmethod
    def launch(self, stream: Stream) -> None:
        """Queue the whole work."""

    @abstractmethod
    def free(self) -> None:
        """Destroy it; twice does nothing."""


class Provider(ABC):
    """One device of CUDA, through one package. Its primary context is shared with torch.

    Every call but :meth:`scope` must be made inside ``with provider.scope():``.

    Raises:
        CudaError: the driver refused; the message names the call and CUDA's own error name.
        OutOfMemoryError: from ``allocate`` and ``pin``: there is no room.
    """

    name: str
    """``pycuda`` or ``cuda-python``."""
    index: int
    """Number of the device."""

    @abstractmethod
    def scope(self) -> AbstractContextManager[None]:
        """Make the device's context current in this thread; may be nested, always left balanced."""

    @abstractmethod
    def stream(self) -> Stream:
        """A new non-blocking stream."""

    @abstractmethod
    def event(self, *, timing: bool = False) -> Event:
        """A new event."""

    @abstractmethod
    def allocate(self, size: int) -> Buffer:
        """Device memory, aligned to 256 bytes."""

    @abstractmethod
    def pin(self, size: int) -> Pinned:
        """Page-locked host memory."""

    @abstractmethod
    def upload(self, address: int, array: Array, stream: Stream) -> None:
        """Queue a copy of a C-contiguous (pinned) array to the device."""

    @abstractmethod
    def download(self, array: Array, address: int, stream: Stream) -> None:
        """Queue a copy from the device into a C-contiguous, writable (pinned) array."""

    @abstractmethod
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
        """Queue a 2-D copy on the device: ``rows`` rows of ``width`` bytes, pitches in bytes."""

    @abstractmethod
    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the device."""

    @abstractmethod
    def begin_capture(self, stream: Stream) -> None:
        """Record what is queued from now on, instead of running it."""

    @abstractmethod
    def end_capture(self, stream: Stream) -> CudaGraph:
        """End the recording begun on ``stream``, ready to launch."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the device; closing twice does nothing. Called outside any scope."""

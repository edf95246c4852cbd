"""The interface that the runtime uses for CUDA, implemented with pycuda and cuda-python.

Handles and addresses are plain integers, as TensorRT takes them. Nothing here is freed by the
garbage collector: pycuda leaks objects that are dropped in a thread without the context, so every
object has an explicit ``free``, to be called inside :meth:`Provider.scope`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from resharp.types import Array


def checked(array: Array, *, writable: bool = False) -> Array:
    """Return the array if it is C-contiguous; the CUDA packages would copy others incorrectly.

    Raises:
        ValueError: the array is not C-contiguous, or is read-only but must be ``writable``.
    """
    if not array.flags.c_contiguous or (writable and not array.flags.writeable):
        raise ValueError(
            "an array must be C-contiguous to be copied, and writable to be copied into"
        )
    return array


class Stream(ABC):
    """A non-blocking CUDA stream."""

    handle: int
    """Stream handle, as the driver and TensorRT take it."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all queued work is done; errors of that work are raised here."""

    @abstractmethod
    def wait(self, event: Event) -> None:
        """Make work queued from now on start after ``event``; the host does not wait."""

    @abstractmethod
    def free(self) -> None:
        """Destroy the stream; further calls do nothing."""


class Event(ABC):
    """A marker in a stream."""

    @abstractmethod
    def record(self, stream: Stream) -> None:
        """Place the marker after the work queued on the stream so far."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the marker is reached; errors of the work before it are raised here."""

    @abstractmethod
    def elapsed_since(self, start: Event) -> float:
        """Return the device milliseconds since ``start``; both events need ``timing``."""

    @abstractmethod
    def free(self) -> None:
        """Destroy the event; further calls do nothing."""


class Buffer(ABC):
    """Device memory."""

    address: int
    size: int
    """Size in bytes."""

    @abstractmethod
    def free(self) -> None:
        """Free the memory; further calls do nothing."""


class Pinned(ABC):
    """Page-locked host memory, which the device can copy from and to directly."""

    array: NDArray[np.uint8]
    """All bytes of the memory, ``[size]``; views must not be used after :meth:`free`."""

    @abstractmethod
    def free(self) -> None:
        """Free the memory; further calls do nothing."""


class CudaGraph(ABC):
    """Work that was captured from a stream once and can be launched many times."""

    @abstractmethod
    def launch(self, stream: Stream) -> None:
        """Queue all of the captured work on ``stream``."""

    @abstractmethod
    def free(self) -> None:
        """Destroy the graph; further calls do nothing."""


class Provider(ABC):
    """One CUDA device, used through one package. Its primary context is shared with torch.

    All methods except :meth:`scope` and :meth:`close` must be called inside
    ``with provider.scope():``.

    Raises:
        CudaError: the driver refused a call; the message names the call and CUDA's error name.
        OutOfMemoryError: ``allocate`` or ``pin`` found too little free memory.
    """

    name: str
    """``pycuda`` or ``cuda-python``."""
    index: int
    """Index of the device."""

    @abstractmethod
    def scope(self) -> AbstractContextManager[None]:
        """Make the device's context current in this thread; scopes can be nested."""

    @abstractmethod
    def stream(self) -> Stream:
        """Create a non-blocking stream."""

    @abstractmethod
    def event(self, *, timing: bool = False) -> Event:
        """Create an event; ``timing`` enables :meth:`Event.elapsed_since`."""

    @abstractmethod
    def allocate(self, size: int) -> Buffer:
        """Allocate device memory, aligned to 256 bytes."""

    @abstractmethod
    def pin(self, size: int) -> Pinned:
        """Allocate page-locked host memory."""

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
        """Return the free and total device memory in bytes."""

    @abstractmethod
    def begin_capture(self, stream: Stream) -> None:
        """Record the work queued on ``stream`` from now on instead of running it."""

    @abstractmethod
    def end_capture(self, stream: Stream) -> CudaGraph:
        """End the recording on ``stream`` and return a graph that is ready to launch."""

    @abstractmethod
    def close(self) -> None:
        """Release the device; further calls do nothing. Must be called outside any scope."""

"""A lane: two streams, device memory and execution contexts for one run at a time."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from resharp.errors import ResharpError
from resharp.gpu.cuda import Event, Provider, Stream
from resharp.runtime.backends.tensorrt.buffers import DeviceBuffer, PinnedBuffer
from resharp.runtime.backends.tensorrt.contexts import APART, Contexts, Shape
from resharp.runtime.backends.tensorrt.loaded_engine import LoadedEngine

logger = logging.getLogger(__name__)

AHEAD = 2
"""Chunks whose computation is queued before the host waits for the oldest."""
SLOTS = 3
"""Concurrent downloads if the result is not page-locked."""


class Slot:
    """Page-locked memory for one download, and the event that marks its end."""

    def __init__(self, provider: Provider) -> None:
        self.buffer, self.event = PinnedBuffer(provider), provider.event()

    def free(self) -> None:
        """Free both."""
        self.buffer.free()
        self.event.free()


class TensorrtLane:
    """Everything that one run needs on the device; kept and grown between runs.

    Args:
        provider: an open device; its scope must be active.
        scale: the model's scale.
    """

    def __init__(self, provider: Provider, scale: int) -> None:
        self._provider, self._scale = provider, scale
        self._contexts: dict[str, Contexts] = {}
        self.source, self.rows = DeviceBuffer(provider), DeviceBuffer(provider)
        """The image, and the rows of the result."""
        self.tiles, self.results = DeviceBuffer(provider), DeviceBuffer(provider)
        """A batch, and the network's output for it."""
        self.activations, self.scalars = DeviceBuffer(provider), DeviceBuffer(provider)
        """TensorRT's activation memory, and the model's extra inputs."""
        self.staging, self.scalar_staging = PinnedBuffer(provider), PinnedBuffer(provider)
        """Page-locked memory for uploads of the image and of the extra inputs."""
        self.compute = provider.stream()
        self.copy = provider.stream()
        self.uploaded = provider.event()
        self.computed: tuple[Event, ...] = tuple(provider.event() for _ in range(AHEAD + 1))
        """Events that mark the end of queued chunks, used in turn."""
        self.slots = tuple(Slot(provider) for _ in range(SLOTS))

    @property
    def held(self) -> int:
        """Bytes of device memory that the next run can use."""
        return sum(buffer.size for buffer in self._buffers())

    def prepare(self, loaded: LoadedEngine, shape: Shape) -> None:
        """Allocate memory for batches of ``shape``.

        Raises:
            OutOfMemoryError: the device is out of memory.
        """
        count, height, width = shape
        item = 4 if loaded.engine.spec.dtype == "float32" else 1
        size = count * height * width * 3 * item
        self.tiles.grow(size)
        self.results.grow(size * self._scale**2)
        if loaded.extra:
            self.scalars.grow(APART * len(loaded.extra))
        self.contexts(loaded).prepare(shape, self.tiles.address, self.results.address)

    def contexts(self, loaded: LoadedEngine) -> Contexts:
        """Return the contexts of an engine, created on first use."""
        contexts = self._contexts.get(loaded.key)
        if contexts is None:
            buffers = self.activations, self._scale, self.scalars
            contexts = Contexts(loaded, self._provider, self.compute, *buffers)
            self._contexts[loaded.key] = contexts
        return contexts

    def forget(self, loaded: LoadedEngine) -> None:
        """Free the contexts of an engine that is no longer used."""
        contexts = self._contexts.pop(loaded.key, None)
        if contexts is not None:
            self.synchronize()
            contexts.free()

    def set_scalars(self, scalars: Sequence[float]) -> None:
        """Start copying the model's extra inputs; computation waits for :attr:`uploaded`."""
        if not scalars:
            return
        staged = self.scalar_staging.grow(APART * len(scalars))
        staged.view(np.float32).reshape(len(scalars), -1)[:, 0] = scalars
        self._provider.upload(self.scalars.address, staged, self.copy)

    def synchronize(self) -> None:
        """Wait until nothing is queued. Errors are only logged: the run itself has raised them."""
        for stream in (self.copy, self.compute):
            try:
                stream.synchronize()
            except ResharpError as error:
                logger.debug("error while a lane was being emptied: %s", str(error))

    def release_memory(self) -> None:
        """Free all device memory."""
        self.synchronize()
        while self._contexts:
            self._contexts.popitem()[1].free()
        for buffer in self._buffers():
            buffer.free()

    def close(self) -> None:
        """Free everything; the device need not be current."""
        with self._provider.scope():
            self.release_memory()
            self.staging.free()
            self.scalar_staging.free()
            owned: tuple[Slot | Event | Stream, ...] = (*self.slots, *self.computed, self.uploaded)
            for item in (*owned, self.copy, self.compute):
                item.free()

    def _buffers(self) -> tuple[DeviceBuffer, ...]:
        ends = self.source, self.rows, self.tiles, self.results
        return *ends, self.activations, self.scalars

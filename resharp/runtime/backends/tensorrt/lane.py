"""A lane: two streams, device memory and execution contexts, for one run at a time."""

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
"""Chunks whose computation is queued before the host waits for one."""
SLOTS = 3
"""Downloads under way at once, where the result is not page-locked."""


class Slot:
    """Page-locked memory for one download, and the mark of its end."""

    def __init__(self, provider: Provider) -> None:
        self.buffer, self.event = PinnedBuffer(provider), provider.event()

    def free(self) -> None:
        """Give both back."""
        self.buffer.free()
        self.event.free()


class TensorrtLane:
    """Everything that one run needs on the device; kept and grown from run to run.

    Args:
        provider: an open device, in whose scope this is called.
        scale: of the model.
    """

    def __init__(self, provider: Provider, scale: int) -> None:
        self._provider, self._scale = provider, scale
        self._contexts: dict[str, Contexts] = {}
        self.source, self.rows = DeviceBuffer(provider), DeviceBuffer(provider)
        """The picture; the rows of the result."""
        self.tiles, self.results = DeviceBuffer(provider), DeviceBuffer(provider)
        """A batch in and out of the network."""
        self.activations, self.scalars = DeviceBuffer(provider), DeviceBuffer(provider)
        """TensorRT's; the model's further inputs."""
        self.staging, self.scalar_staging = PinnedBuffer(provider), PinnedBuffer(provider)
        """For the upload."""
        self.compute = provider.stream()
        self.copy = provider.stream()
        self.uploaded = provider.event()
        self.computed: tuple[Event, ...] = tuple(provider.event() for _ in range(AHEAD + 1))
        """Marks of the chunks whose computation is queued, in turn."""
        self.slots = tuple(Slot(provider) for _ in range(SLOTS))

    @property
    def held(self) -> int:
        """Bytes on the device that the next run can use."""
        return sum(buffer.size for buffer in self._buffers())

    def prepare(self, loaded: LoadedEngine, shape: Shape) -> None:
        """Make room for batches of ``shape``.

        Raises:
            OutOfMemoryError: there is none.
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
        """Those of an engine, made at the first need."""
        contexts = self._contexts.get(loaded.key)
        if contexts is None:
            buffers = self.activations, self._scale, self.scalars
            contexts = Contexts(loaded, self._provider, self.compute, *buffers)
            self._contexts[loaded.key] = contexts
        return contexts

    def forget(self, loaded: LoadedEngine) -> None:
        """Free the contexts of an engine that will not be used."""
        contexts = self._contexts.pop(loaded.key, None)
        if contexts is not None:
            self.synchronize()
            contexts.free()

    def set_scalars(self, scalars: Sequence[float]) -> None:
        """Begin to copy the model's further inputs; what computes waits for :attr:`uploaded`."""
        if not scalars:
            return
        staged = self.scalar_staging.grow(APART * len(scalars))
        staged.view(np.float32).reshape(len(scalars), -1)[:, 0] = scalars
        self._provider.upload(self.scalars.address, staged, self.copy)

    def synchronize(self) -> None:
        """Wait until nothing is queued; an error of the work was told to who waited for it."""
        for stream in (self.copy, self.compute):
            try:
                stream.synchronize()
            except ResharpError as error:
                logger.debug("while a lane was being emptied: %s", str(error))

    def release_memory(self) -> None:
        """Give the device all memory back."""
        self.synchronize()
        while self._contexts:
            self._contexts.popitem()[1].free()
        for buffer in self._buffers():
            buffer.free()

    def close(self) -> None:
        """Give everything back; makes the device current by itself."""
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

"""A lane: two streams, device memory and execution contexts, for one run at a time."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from resharp.errors import ResharpError
from resharp.runtime.cuda import Event, Provider, Stream
from resharp.runtime.tensorrt.contexts import APART, Contexts, Shape
from resharp.runtime.tensorrt.loading import Model
from resharp.runtime.tensorrt.rooms import HostRoom, Room

log = logging.getLogger(__name__)

AHEAD = 2
"""Chunks whose computation is queued before the host waits for one."""
SLOTS = 3
"""Downloads under way at once, where the result is not page-locked."""


class Slot:
    """Page-locked memory for one download, and the mark of its end."""

    def __init__(self, provider: Provider) -> None:
        self.room, self.event = HostRoom(provider), provider.event()

    def free(self) -> None:
        """Give both back."""
        self.room.free()
        self.event.free()


class Lane:
    """Everything that one run needs on the device; kept and grown from run to run.

    Args:
        provider: an open device, in whose scope this is called.
        scale: of the model.
    """

    def __init__(self, provider: Provider, scale: int) -> None:
        self._provider, self._scale = provider, scale
        self._contexts: dict[str, Contexts] = {}
        self.source, self.rows = Room(provider), Room(provider)
        """The picture; the rows of the result."""
        self.tiles, self.results = Room(provider), Room(provider)
        """A batch in and out of the network."""
        self.activations, self.numbers = Room(provider), Room(provider)
        """TensorRT's; the model's further inputs."""
        self.staging, self.number_staging = HostRoom(provider), HostRoom(provider)
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
        return sum(room.size for room in self._rooms())

    def prepare(self, model: Model, shape: Shape) -> None:
        """Make room for batches of ``shape``.

        Raises:
            OutOfMemoryError: there is none.
        """
        count, height, width = shape
        item = 4 if model.engine.recipe.dtype == "float32" else 1
        size = count * height * width * 3 * item
        self.tiles.grow(size)
        self.results.grow(size * self._scale**2)
        if model.extra:
            self.numbers.grow(APART * len(model.extra))
        self.contexts(model).prepare(shape, self.tiles.address, self.results.address)

    def contexts(self, model: Model) -> Contexts:
        """Those of an engine, made at the first need."""
        contexts = self._contexts.get(model.key)
        if contexts is None:
            rooms = self.activations, self._scale, self.numbers
            contexts = Contexts(model, self._provider, self.compute, *rooms)
            self._contexts[model.key] = contexts
        return contexts

    def forget(self, model: Model) -> None:
        """Free the contexts of an engine that will not be used."""
        contexts = self._contexts.pop(model.key, None)
        if contexts is not None:
            self.settle()
            contexts.free()

    def tune(self, numbers: Sequence[float]) -> None:
        """Begin to copy the model's further inputs; what computes waits for :attr:`uploaded`."""
        if not numbers:
            return
        staged = self.number_staging.grow(APART * len(numbers))
        staged.view(np.float32).reshape(len(numbers), -1)[:, 0] = numbers
        self._provider.upload(self.numbers.address, staged, self.copy)

    def settle(self) -> None:
        """Wait until nothing is queued; an error of the work was told to who waited for it."""
        for stream in (self.copy, self.compute):
            try:
                stream.synchronize()
            except ResharpError as error:
                log.debug("while a lane was being emptied: %s", str(error))

    def relieve(self) -> None:
        """Give the device all memory back."""
        self.settle()
        while self._contexts:
            self._contexts.popitem()[1].free()
        for room in self._rooms():
            room.free()

    def close(self) -> None:
        """Give everything back; makes the device current by itself."""
        with self._provider.scope():
            self.relieve()
            self.staging.free()
            self.number_staging.free()
            owned: tuple[Slot | Event | Stream, ...] = (*self.slots, *self.computed, self.uploaded)
            for item in (*owned, self.copy, self.compute):
                item.free()

    def _rooms(self) -> tuple[Room, ...]:
        ends = self.source, self.rows, self.tiles, self.results
        return *ends, self.activations, self.numbers

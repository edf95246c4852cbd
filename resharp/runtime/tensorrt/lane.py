"""A lane: two streams, device memory and execution contexts, for one run at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence

from resharp.errors import ResharpError
from resharp.runtime.backends.base import open_guard
from resharp.runtime.cuda import Event, Provider, Stream
from resharp.runtime.tensorrt.contexts import Contexts, Shape
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
        self.activations = Room(provider)
        self.staging = HostRoom(provider)
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
        self.contexts(model).prepare(shape, self.tiles.address, self.results.address)

    def contexts(self, model: Model) -> Contexts:
        """Those of an engine, made at the first need."""
        contexts = self._contexts.get(model.key)
        if contexts is None:
            contexts = Contexts(model, self._provider, self.compute, self.activations, self._scale)
            self._contexts[model.key] = contexts
        return contexts

    def forget(self, model: Model) -> None:
        """Free the contexts of an engine that will not be used."""
        contexts = self._contexts.pop(model.key, None)
        if contexts is not None:
            self.settle()
            contexts.free()

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

    def free(self) -> None:
        """Give everything back."""
        self.relieve()
        self.staging.free()
        owned: tuple[Slot | Event | Stream, ...] = (*self.slots, *self.computed, self.uploaded)
        for item in (*owned, self.copy, self.compute):
            item.free()

    def _rooms(self) -> tuple[Room, ...]:
        return self.source, self.rows, self.tiles, self.results, self.activations


class Pool:
    """Hands lanes to runs.

    A run takes one lane, waiting for it, and more only if they are idle: no run waits while it
    holds one, so runs cannot lock each other out.
    """

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._all, self._idle = tuple(lanes), list(lanes)
        self._changed = threading.Condition()
        self._closed = False

    @property
    def held(self) -> int:
        """Bytes on the device that runs can use beside the free ones."""
        return sum(lane.held for lane in self._all)

    def take(self, most: int) -> list[Lane]:
        """At least one lane, at most ``most``.

        Raises:
            BackendError: the pool was closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._idle or self._closed)
            open_guard(not self._closed, "tensorrt")
            return self._some(most)

    def spare(self) -> list[Lane]:
        """All idle lanes; may be none."""
        with self._changed:
            return [] if self._closed else self._some(len(self._all))

    def give(self, lanes: Sequence[Lane]) -> None:
        """Back."""
        with self._changed:
            self._idle.extend(lanes)
            self._changed.notify_all()

    def close(self) -> tuple[Lane, ...]:
        """Let no run begin any more, wait for those under way, and give all lanes up."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._idle) == len(self._all))
            self._idle.clear()
            lanes, self._all = self._all, ()
            return lanes

    def each(self) -> Iterator[Lane]:
        """All lanes in turn, each taken while the caller has it."""
        for lane in self._all:
            with self._changed:
                while lane not in self._idle:
                    self._changed.wait()
                self._idle.remove(lane)
            try:
                yield lane
            finally:
                self.give([lane])

    def _some(self, most: int) -> list[Lane]:
        taken, self._idle[:] = self._idle[-most:], self._idle[:-most]
        return taken

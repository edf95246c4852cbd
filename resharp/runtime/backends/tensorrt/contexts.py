"""Execution contexts of one engine on one lane, and their CUDA graphs.

A context is not thread-safe and works on one shape at a time. One context serves all shapes. A
shape that recurs gets a context of its own, since a graph is valid only while the context that it
was captured from is unchanged. TensorRT's work is captured here; TensorRT-RTX captures by itself,
one graph per context, and drops it when the shape changes. All contexts share the lane's
activation memory, since their work is queued on one stream. A context with a graph is dropped when
that memory moves.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from typing import Any

from resharp.errors import OutOfMemoryError, ResharpError
from resharp.gpu.cuda import CAPTURING, CudaGraph, Provider, Stream
from resharp.runtime.backends.tensorrt.buffers import DeviceBuffer
from resharp.runtime.backends.tensorrt.loaded_engine import LoadedEngine

logger = logging.getLogger(__name__)

Shape = tuple[int, int, int]
"""Shape (n, h, w) of a batch."""

Places = tuple[int, int, int, int, int]

APART = 256
"""Bytes between two scalars, the alignment that TensorRT requires of tensor addresses."""
GRAPHS = 4
"""Number of shapes with a context of their own, per lane."""
WORTH = 3
"""Runs of one shape after which it gets a context of its own."""
ACCIDENTS = 2
"""Consecutive failed captures after which a lane stops using graphs."""
COUNTED = 256
"""Number of shapes whose runs are counted."""


class Contexts:
    """Execution contexts of one engine on one lane.

    Args:
        loaded: the engine.
        provider: an open device.
        stream: the lane's stream, on which all work is queued.
        activations: the lane's activation memory, grown as shapes need it.
        scale: the model's scale, to check the output shape that TensorRT reports.
        scalars: the lane's buffer for the model's extra inputs, :data:`APART` bytes apart.
    """

    def __init__(
        self,
        loaded: LoadedEngine,
        provider: Provider,
        stream: Stream,
        activations: DeviceBuffer,
        scale: int,
        scalars: DeviceBuffer,
    ) -> None:
        self._loaded, self._provider, self._stream = loaded, provider, stream
        self._activations, self._scale, self._scalars = activations, scale, scalars
        self._roaming = _Context(self)
        self._fixed: OrderedDict[Shape, _Fixed] = OrderedDict()
        self._runs: Counter[Shape] = Counter()
        self._graphs, self._accidents = True, 0
        self._ends = (0, 0)

    def prepare(self, shape: Shape, source: int, target: int) -> None:
        """Prepare for batches of ``shape`` at address ``source``, with results at ``target``.

        Raises:
            OutOfMemoryError: there is no memory for the activations.
        """
        self._ends = (source, target)
        if shape not in self._fixed:
            self._roaming.fit(shape)

    def enqueue(self, shape: Shape) -> None:
        """Queue the network on one batch.

        Raises:
            BackendError: TensorRT failed.
        """
        # Graphs contain addresses, TensorRT-RTX's own too: drop those whose addresses changed.
        for stale in [s for s, one in self._fixed.items() if one.places != self.places]:
            self._drop(stale)
        fixed = self._fixed.get(shape)
        if fixed is not None:
            self._fixed.move_to_end(shape)
            fixed.run(self._stream)
        elif not self._worth(shape) or not self._fix(shape):
            self._roaming.fit(shape)
            self._roaming.execute()

    def free(self) -> None:
        """Free all contexts; the stream must be idle."""
        for fixed in self._fixed.values():
            fixed.free()
        self._fixed.clear()
        self._roaming.raw = None

    def _worth(self, shape: Shape) -> bool:
        if not self._graphs:
            return False
        if len(self._runs) > COUNTED:
            self._runs.clear()
        self._runs[shape] += 1
        return self._runs[shape] >= WORTH

    def _fix(self, shape: Shape) -> bool:
        """Run the batch in a context of its own, and keep the context for the next batches."""
        context = None
        try:
            context = _Context(self)
            context.fit(shape)
            context.execute()  # TensorRT initializes itself for a shape in the first run
            graph = None if self._loaded.own_graphs else self._record(context)
        except ResharpError as error:
            self._fail(shape, error)
            if context is not None:
                self._stream.synchronize()  # it is freed here, and its work may be queued
            return context is not None and context.ran
        self._accidents = 0
        self._fixed[shape] = _Fixed(context, graph, self.places)
        if len(self._fixed) > GRAPHS:
            self._drop(next(iter(self._fixed)))
        return True

    def _record(self, context: _Context) -> CudaGraph:
        graph = None
        try:
            with CAPTURING:
                self._provider.begin_capture(self._stream)
                try:
                    context.execute()
                finally:  # the stream must leave the capture in any case
                    graph = self._provider.end_capture(self._stream)
        except ResharpError:
            if graph is not None:
                graph.free()
            raise
        return graph

    def _fail(self, shape: Shape, error: ResharpError) -> None:
        """Give up on graphs only after repeated failures; lack of memory is always temporary."""
        # A single failure may come from another thread that waits for the whole device.
        if isinstance(error, OutOfMemoryError):
            self._runs[shape] = 0
            then = "will retry later"
        else:
            self._accidents += 1
            self._graphs = self._accidents < ACCIDENTS
            then = "retrying" if self._graphs else "continuing without CUDA graphs"
        logger.info("cannot make a CUDA graph (%s): %s", then, str(error))  # without its frames

    @property
    def places(self) -> Places:
        """Addresses of input, output and activations, activation size, address of the scalars."""
        buffer = self._activations
        return (*self._ends, buffer.address, buffer.size, self._scalars.address)

    def _drop(self, shape: Shape) -> None:
        self._stream.synchronize()
        self._fixed.pop(shape).free()


class _Fixed:
    """A shape's context and the graph that depends on it; None if TensorRT-RTX has its own."""

    def __init__(self, context: _Context, graph: CudaGraph | None, places: Places) -> None:
        self.context, self.graph, self.places = context, graph, places

    def run(self, stream: Stream) -> None:
        """Queue the network."""
        if self.graph is None:
            self.context.execute()
        else:
            self.graph.launch(stream)

    def free(self) -> None:
        """Free both; none of their work may be queued."""
        if self.graph is not None:
            self.graph.free()
        self.context.raw = None


class _Context:
    """An execution context with the shape and the addresses that were last set."""

    def __init__(self, owner: Contexts) -> None:
        self._owner = owner
        self.raw: Any = owner._loaded.create_context()
        self._shape: Shape | None = None
        self._places: Places | None = None
        self._memory: tuple[int, int] | None = None
        self.ran = False
        """Whether a run was ever queued."""

    def fit(self, shape: Shape) -> None:
        """Set the shape and the addresses that changed."""
        owner = self._owner
        if shape != self._shape:
            self._reshape(shape)
        if owner._loaded.own_graphs and self._memory not in (None, owner.places[2:4]):
            self._renew(shape)
        places = owner.places
        if places == self._places:
            return
        source, target, memory, size, scalars = places
        self.raw.set_device_memory(memory, size)
        self._memory = memory, size
        ends = {owner._loaded.source: source, owner._loaded.target: target}
        ends |= {name: scalars + i * APART for i, name in enumerate(owner._loaded.extra)}
        for name, address in ends.items():
            if not self.raw.set_tensor_address(name, address):
                raise owner._loaded.error(f"TensorRT rejected the address of {name}")
        self._places = places

    def execute(self) -> None:
        """Queue the network."""
        owner = self._owner
        if not self.raw.execute_async_v3(owner._stream.handle):
            raise owner._loaded.error("TensorRT could not run it")
        self.ran = True

    def _renew(self, shape: Shape) -> None:
        """Create the context again, since its activation memory moved."""
        # TensorRT-RTX tracks only input and output, and would replay its graph on freed memory.
        owner = self._owner
        owner._stream.synchronize()  # its work may still be queued
        self.raw = owner._loaded.create_context()
        self._reshape(shape)

    def _reshape(self, shape: Shape) -> None:
        owner, loaded = self._owner, self._owner._loaded
        self._shape = self._places = None
        if not self.raw.set_input_shape(loaded.source, (*shape, 3)):
            raise loaded.error(f"TensorRT rejected a batch of {shape}")
        count, height, width = shape
        wanted = (count, height * owner._scale, width * owner._scale, 3)
        found = tuple(self.raw.get_tensor_shape(loaded.target))
        if found != wanted:
            raise loaded.error(f"its output shape is {found}, expected {wanted}")
        # 0 means an error or a shape that needs none: the maximum over all shapes is safe.
        size = int(self.raw.update_device_memory_size_for_shapes()) or loaded.activation_bytes()
        if size > owner._activations.size or not owner._activations.address:
            owner._stream.synchronize()  # queued work still uses it
            owner._activations.grow(size)
        self._shape = shape

"""A lane of the torch backend on an NVIDIA GPU: streams, CUDA graphs, page-locked memory.

Tensors of a lane are made and freed on its compute stream, so the allocator may hand their memory
on in that stream's order. The copy stream is the only other reader; whoever waits for a download
holds its tensor until the copy's event has passed, so nothing is freed under it.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from resharp.runtime.backends.base import Image, reflected
from resharp.runtime.backends.torch_kept import Recordings
from resharp.runtime.backends.torch_lanes import IN_FLIGHT
from resharp.runtime.plan import Tile

if TYPE_CHECKING:
    import torch

Shape = tuple[int, int, int, Any]
"""Pictures, rows, columns, dtype."""

CAPTURING = threading.Lock()
"""Held where a device-wide wait would spoil another thread's capture, or one's own is under way."""


@dataclass(frozen=True)
class Graph:
    """The network on one shape, recorded: one launch instead of hundreds."""

    graph: torch.cuda.CUDAGraph
    given: torch.Tensor
    """Its input, at a fixed address."""
    result: torch.Tensor
    """Its output, which the next replay of any graph of the lane may overwrite."""

    def __call__(self, windows: Sequence[torch.Tensor]) -> torch.Tensor:
        """Run it on the current stream."""
        for slot, window in zip(self.given, windows, strict=True):
            slot.copy_(window)
        self.graph.replay()
        return self.result


@dataclass(frozen=True)
class Download:
    """A copy to the host on its way; calling it waits."""

    done: torch.cuda.Event
    rows: torch.Tensor
    """Held, so that its memory goes to no one else before the copy has read it."""
    staged: torch.Tensor | None
    target: Image

    def __call__(self) -> None:
        """Wait, and bring the result to where it belongs."""
        self.done.synchronize()
        if self.staged is not None:
            np.copyto(self.target, self.staged.numpy())


class CudaLane:
    """See :class:`~resharp.runtime.backends.torch_lanes.Lane`.

    Args:
        device: the GPU.
        modules: the network for pictures, by the pictures' dtype.
        tell: told why the lane records no graphs, if that failed.
        extra: numbers that the network takes beside the pictures.
        graphs: whether to record CUDA graphs.
    """

    def __init__(
        self,
        device: torch.device,
        modules: Mapping[torch.dtype, torch.nn.Module],
        tell: Callable[[str], None],
        extra: int = 0,
        graphs: bool = True,
    ) -> None:
        import torch

        self._device, self._modules, self._record_graphs = device, modules, graphs
        self._compute: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._copy: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.graphs: Recordings[Shape, Graph] = Recordings(
            self._record, make_pool=torch.cuda.graph_pool_handle, settle=self.settle, tell=tell
        )
        self._staging: dict[int, torch.Tensor] = {}
        self._turn = 0
        # Made once: graphs hold the addresses.
        self._extra = [torch.zeros(1, device=device) for _ in range(extra)]

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """See :meth:`Lane.active`."""
        import torch

        with (
            torch.inference_mode(),
            torch.cuda.device(self._device),
            torch.cuda.stream(self._compute),
        ):
            yield

    def upload(self, image: Image) -> torch.Tensor:
        """See :meth:`Lane.upload`; the staging is free, since every run ends with a wait."""
        import torch

        dtype = torch.uint8 if image.dtype == np.uint8 else torch.float32
        host = self._staged(-1, image.shape, dtype)
        np.copyto(host.numpy(), image)
        return host.to(self._device, non_blocking=True)

    def prepare(self, count: int, height: int, width: int, dtype: torch.dtype) -> None:
        """See :meth:`Lane.prepare`."""
        if self._record_graphs:
            self.graphs.prepare((count, height, width, dtype))

    def empty(self, height: int, width: int, dtype: torch.dtype) -> torch.Tensor:
        """See :meth:`Lane.empty`."""
        import torch

        return torch.empty((height, width, 3), dtype=dtype, device=self._device)

    def cut(self, source: torch.Tensor, tile: Tile) -> torch.Tensor:
        """See :meth:`Lane.cut`."""
        return cut(source, tile)

    def forward(self, windows: Sequence[torch.Tensor]) -> torch.Tensor:
        """See :meth:`Lane.forward`."""
        import torch

        first = windows[0]
        graph = self.graphs.get((len(windows), first.shape[0], first.shape[1], first.dtype))
        if graph is not None:
            return graph(windows)
        batch = torch.stack(list(windows))
        result: torch.Tensor = self._modules[first.dtype](batch, *self._extra)
        return result

    def download(self, rows: torch.Tensor, target: Image) -> Download:
        """See :meth:`Lane.download`; straight into ``target`` where that is page-locked."""
        import torch

        host, staged = torch.from_numpy(target), None
        if not host.is_pinned():
            self._turn = (self._turn + 1) % (IN_FLIGHT + 1)  # that one was handed over by now
            host = staged = self._staged(self._turn, target.shape, rows.dtype)
        self._copy.wait_event(self._compute.record_event())
        with torch.cuda.stream(self._copy):
            host.copy_(rows, non_blocking=True)
        return Download(self._copy.record_event(), rows, staged, target)

    def tune(self, numbers: Sequence[float]) -> None:
        """See :meth:`Lane.tune`; a launch each, no copy."""
        for slot, number in zip(self._extra, numbers, strict=True):
            slot.fill_(number)

    def settle(self) -> None:
        """See :meth:`Lane.settle`."""
        self._compute.synchronize()
        self._copy.synchronize()

    def relieve(self) -> None:
        """Give back what can be given back, since memory ran out."""
        self.settle()
        self.graphs.drop()
        release_cache()

    def close(self) -> None:
        """See :meth:`Lane.close`."""
        self.settle()
        self.graphs.drop()
        self._staging.clear()

    def _record(self, key: Shape, pool: Any) -> Graph:
        import torch

        count, height, width, dtype = key
        module = self._modules[dtype]
        with CAPTURING, self.active():
            given = torch.zeros((count, height, width, 3), dtype=dtype, device=self._device)
            # cuDNN's handles belong to a thread, and none may be made within a capture.
            module(given, *self._extra)
            graph = torch.cuda.CUDAGraph()
            # Not "global": other lanes go on copying and allocating meanwhile.
            with torch.cuda.graph(
                graph, pool=pool, stream=self._compute, capture_error_mode="thread_local"
            ):
                result = module(given, *self._extra)
        return Graph(graph, given, result)

    def _staged(self, slot: int, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Page-locked memory of this lane, kept from run to run."""
        size = math.prod(shape) * dtype.itemsize
        if slot not in self._staging or self._staging[slot].numel() < size:
            self._staging.pop(slot, None)
            self._staging[slot] = page_locked(size)
        return self._staging[slot][:size].view(dtype).view(tuple(shape))


def page_locked(size: int) -> torch.Tensor:
    """So many bytes, page-locked unless the system grants no more of that."""
    import torch

    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    except RuntimeError:  # slower copies, and correct ones
        return torch.empty(size, dtype=torch.uint8)


def release_cache() -> None:
    """Give the allocator's unused memory back to the GPU."""
    import torch

    with CAPTURING:
        torch.cuda.empty_cache()


def cut(source: torch.Tensor, tile: Tile) -> torch.Tensor:
    """A tile's window of a tensor ``[h, w, 3]``, as base's ``cut`` makes it of an array."""
    window = source[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width]
    if window.shape[:2] == (tile.height, tile.width):
        return window
    import torch

    rows, columns = (
        torch.from_numpy(reflected(size, wanted)).to(source.device)
        for size, wanted in zip(window.shape[:2], (tile.height, tile.width), strict=True)
    )
    return window[rows][:, columns]

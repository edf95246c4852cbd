"""A lane of the torch backend on an NVIDIA GPU: streams, CUDA graphs, page-locked memory.

Tensors of a lane are created and freed on its compute stream, so the allocator may reuse their
memory in that stream's order. The copy stream is the only other reader; a download keeps its
tensor until the copy's event has passed, so the memory is not freed during the copy.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from resharp.gpu.cuda import CAPTURING
from resharp.runtime.backends.torch.cuda_graph_cache import CudaGraphCache
from resharp.runtime.backends.torch.lane import IN_FLIGHT
from resharp.runtime.tiling.plan import Tile
from resharp.types import Image, Log

if TYPE_CHECKING:
    import torch

Shape = tuple[int, int, int, Any]
"""Images, rows, columns, dtype."""

logger = logging.getLogger(__name__)

_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "STATUS_ALLOC_FAILED",  # cuDNN and cuBLAS
    "DEVICE_ALLOCATION_FAILED",
)
"""Parts of PyTorch errors that mean out of memory but are not an OutOfMemoryError."""
_NO_PLAN = "unable to find an engine to execute this computation"
"""PyTorch's error if cuDNN has no memory for the workspace of any plan, or no plan at all."""
_SPOILT: list[object] = []
"""Graphs whose capture CUDA refused to end; kept because PyTorch 2.11 still points to them."""


@dataclass(frozen=True)
class TorchGraph:
    """The network recorded for one shape: one launch instead of hundreds."""

    graph: torch.cuda.CUDAGraph
    given: torch.Tensor
    """Input of the network, at a fixed address."""
    result: torch.Tensor
    """Output of the network; the next replay of any graph of the lane may overwrite it."""

    def __call__(self, windows: Sequence[torch.Tensor]) -> torch.Tensor:
        """Run the network on the current stream."""
        for slot, window in zip(self.given, windows, strict=True):
            slot.copy_(window)
        self.graph.replay()
        return self.result


@dataclass(frozen=True)
class Download:
    """A copy to the host that is in progress; calling it waits."""

    done: torch.cuda.Event
    rows: torch.Tensor
    """Source of the copy, kept so that its memory is not reused before it has been read."""
    staged: torch.Tensor | None
    target: Image

    def __call__(self) -> None:
        """Wait, and move the result to its target."""
        self.done.synchronize()
        if self.staged is not None:
            np.copyto(self.target, self.staged.numpy())


class TorchCudaLane:
    """A :class:`~resharp.runtime.backends.torch.lane.TorchLane` on an NVIDIA GPU.

    Args:
        device: the GPU.
        modules: the network for images, by their dtype.
        log: called with why recording graphs failed; with an empty string once it works again.
        extra: number of scalars that the network takes in addition to the images.
        graphs: whether to record CUDA graphs.
    """

    def __init__(
        self,
        device: torch.device,
        modules: Mapping[torch.dtype, torch.nn.Module],
        log: Log,
        extra: int = 0,
        graphs: bool = True,
    ) -> None:
        import torch

        self._device, self._modules, self._record_graphs = device, modules, graphs
        self._compute: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._copy: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.graphs: CudaGraphCache[Shape, TorchGraph] = CudaGraphCache(
            self._record,
            make_pool=torch.cuda.graph_pool_handle,
            synchronize=self.synchronize,
            log=log,
            passing=lambda error: is_memory_error(error, device),
        )
        self._staging: dict[int, torch.Tensor] = {}
        self._turn = 0
        # Created once, since graphs contain their addresses.
        self._extra = [torch.zeros(1, device=device) for _ in range(extra)]

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make the lane's device and compute stream current."""
        import torch

        with (
            torch.inference_mode(),
            torch.cuda.device(self._device),
            torch.cuda.stream(self._compute),
        ):
            yield

    def upload(self, image: Image) -> torch.Tensor:
        """Start copying an image; the staging memory is free, since every run ends with a wait."""
        import torch

        dtype = torch.uint8 if image.dtype == np.uint8 else torch.float32
        host = self._staged(-1, image.shape, dtype)
        np.copyto(host.numpy(), image)
        return host.to(self._device, non_blocking=True)

    def prepare(self, count: int, height: int, width: int, dtype: torch.dtype) -> None:
        """Announce the shape of the next batches, so that a graph may be recorded for it."""
        if self._record_graphs:
            self.graphs.prepare((count, height, width, dtype))

    def empty(self, height: int, width: int, dtype: torch.dtype) -> torch.Tensor:
        """Return an uninitialized image on the device."""
        import torch

        return torch.empty((height, width, 3), dtype=dtype, device=self._device)

    def cut(self, source: torch.Tensor, tile: Tile) -> torch.Tensor:
        """Return a tile's window, padded by reflection where it exceeds the image."""
        return cut(source, tile)

    def forward(self, windows: Sequence[torch.Tensor]) -> torch.Tensor:
        """Queue the network on windows of one shape, as a graph if one is recorded."""
        import torch

        first = windows[0]
        graph = self.graphs.get((len(windows), first.shape[0], first.shape[1], first.dtype))
        if graph is not None:
            return graph(windows)
        batch = torch.stack(list(windows))
        result: torch.Tensor = self._modules[first.dtype](batch, *self._extra)
        return result

    def download(self, rows: torch.Tensor, target: Image) -> Download:
        """Start copying rows to the host, directly to ``target`` if that is page-locked."""
        import torch

        host, staged = torch.from_numpy(target), None
        if not host.is_pinned():
            self._turn = (self._turn + 1) % (IN_FLIGHT + 1)  # its last download is complete by now
            host = staged = self._staged(self._turn, target.shape, rows.dtype)
        self._copy.wait_event(self._compute.record_event())
        with torch.cuda.stream(self._copy):
            host.copy_(rows, non_blocking=True)
        return Download(self._copy.record_event(), rows, staged, target)

    def set_scalars(self, scalars: Sequence[float]) -> None:
        """Queue new values of the network's extra inputs, one launch each and no copy."""
        for slot, number in zip(self._extra, scalars, strict=True):
            slot.fill_(number)

    def synchronize(self) -> None:
        """Wait until nothing of the lane is running."""
        self._compute.synchronize()
        self._copy.synchronize()

    def release_memory(self) -> None:
        """Free as much memory as possible after running out of it."""
        self.synchronize()
        self.graphs.drop()
        release_cache()

    def close(self) -> None:
        """Wait until the lane is idle, and free its graphs and staging memory."""
        self.synchronize()
        self.graphs.drop()
        self._staging.clear()

    def _record(self, key: Shape, pool: Any) -> TorchGraph:
        import torch

        count, height, width, dtype = key
        module = self._modules[dtype]
        with CAPTURING, self.active():
            given = torch.zeros((count, height, width, 3), dtype=dtype, device=self._device)
            # Creates the thread's cuDNN handle, which is not allowed within a capture.
            module(given, *self._extra)
            graph, result = self._capture(lambda: module(given, *self._extra), pool)
        return TorchGraph(graph, given, result)

    def _capture(
        self, work: Callable[[], torch.Tensor], pool: Any, recover: bool = True
    ) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        """Capture what ``work`` queues; return graph and result. Requires :data:`CAPTURING`."""
        import torch

        graph = torch.cuda.CUDAGraph()
        # Not "global": other lanes continue to copy and allocate meanwhile.
        capture = torch.cuda.graph(
            graph, pool=pool, stream=self._compute, capture_error_mode="thread_local"
        )
        try:
            with capture:
                result = work()
        except BaseException:
            if end_allocation(self._device, pool):
                _SPOILT.append(graph)
                if recover:
                    self._recover()
            raise
        return graph, result

    def _recover(self) -> None:
        """Complete another capture after one that could not be ended."""
        # Until then PyTorch's random number generator refuses to work outside of a capture.
        import torch

        anything = torch.zeros(1, device=self._device)
        try:
            self._capture(anything.zero_, torch.cuda.graph_pool_handle(), recover=False)
        except RuntimeError as error:
            logger.warning("PyTorch did not recover from a failed graph capture: %s", str(error))

    def _staged(self, slot: int, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return page-locked memory of this lane, kept between runs."""
        size = math.prod(shape) * dtype.itemsize
        if slot not in self._staging or self._staging[slot].numel() < size:
            self._staging.pop(slot, None)
            self._staging[slot] = page_locked(size)
        return self._staging[slot][:size].view(dtype).view(tuple(shape))


def page_locked(size: int) -> torch.Tensor:
    """Return ``size`` bytes, page-locked unless the system grants no more such memory."""
    import torch

    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    except RuntimeError:  # copies are slower, but correct
        return torch.empty(size, dtype=torch.uint8)


def release_cache() -> None:
    """Return the allocator's unused memory to the GPU."""
    import torch

    with CAPTURING:
        try:
            torch.cuda.empty_cache()
        except RuntimeError as error:
            if "captures_underway" not in str(error):
                raise
            # A capture of other code that PyTorch before 2.12 could not end: memory stays cached.
            logger.warning("PyTorch keeps its unused memory: %s", str(error).splitlines()[0])


def end_allocation(device: torch.device, pool: Any) -> bool:
    """End what a failed capture left open in PyTorch's allocator; return whether it was open.

    PyTorch up to 2.11 leaves it open if CUDA refuses to end the capture (pytorch#180395): from then
    on ``empty_cache`` fails in the process, and so does every later capture. The pool must not be
    used again, since the allocator of page-locked memory still considers it in use.
    """
    import torch

    end = getattr(torch._C, "_cuda_endAllocateToPool", None)
    release = getattr(torch._C, "_cuda_releasePool", None)
    if end is None or release is None:
        return False
    try:
        end(device.index, pool)
    except RuntimeError:  # it has ended already, as it should
        return False
    release(device.index, pool)
    return True


def is_memory_error(error: BaseException, device: torch.device | None = None) -> bool:
    """Return whether an error of PyTorch, or of a library below it, means out of memory.

    Args:
        error: the exception that was raised.
        device: the GPU in use: if most of its memory is taken, cuDNN's failure to find a plan also
            counts as out of memory. None: it does not.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    if device is not None and _NO_PLAN in str(error):
        free, total = torch.cuda.mem_get_info(device)
        return free < total / 2
    return any(mark in str(error) for mark in _MEMORY)


def cut(source: torch.Tensor, tile: Tile) -> torch.Tensor:
    """Return a tile's window of a tensor ``[h, w, 3]``; see ``cut`` of the base for arrays."""
    import torch

    window = source[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width]
    for axis, wanted in enumerate((tile.height, tile.width)):
        size = window.shape[axis]
        if size != wanted:  # created on the device: a copy from the host would block
            index = torch.arange(wanted, device=source.device)
            index = torch.minimum(index, 2 * (size - 1) - index).clamp(min=0)
            window = window.index_select(axis, index)
    return window

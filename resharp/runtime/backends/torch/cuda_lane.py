"""A lane of the torch backend on an NVIDIA GPU: streams, CUDA graphs, page-locked memory.

Tensors of a lane are made and freed on its compute stream, so the allocator may hand their memory
on in that stream's order. The copy stream is the only other reader; whoever waits for a download
holds its tensor until the copy's event has passed, so nothing is freed under it.
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
"""Pictures, rows, columns, dtype."""

logger = logging.getLogger(__name__)

_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "STATUS_ALLOC_FAILED",  # of cuDNN and cuBLAS
    "DEVICE_ALLOCATION_FAILED",
)
"""In errors of PyTorch that mean out of memory and are no OutOfMemoryError."""
_NO_PLAN = "unable to find an engine to execute this computation"
"""What PyTorch says where cuDNN had no room for any plan's workspace, or has no plan at all."""
_SPOILT: list[object] = []
"""Graphs whose capture CUDA refused to end: PyTorch 2.11 still points to them."""


@dataclass(frozen=True)
class TorchGraph:
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


class TorchCudaLane:
    """See :class:`~resharp.runtime.backends.torch.lane.TorchLane`.

    Args:
        device: the GPU.
        modules: the network for pictures, by the pictures' dtype.
        log: called with why the lane records no graphs, if that failed.
        extra: scalars that the network takes beside the pictures.
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
        # Made once: graphs hold the addresses.
        self._extra = [torch.zeros(1, device=device) for _ in range(extra)]

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """See :meth:`TorchLane.active`."""
        import torch

        with (
            torch.inference_mode(),
            torch.cuda.device(self._device),
            torch.cuda.stream(self._compute),
        ):
            yield

    def upload(self, image: Image) -> torch.Tensor:
        """See :meth:`TorchLane.upload`; the staging is free, since every run ends with a wait."""
        import torch

        dtype = torch.uint8 if image.dtype == np.uint8 else torch.float32
        host = self._staged(-1, image.shape, dtype)
        np.copyto(host.numpy(), image)
        return host.to(self._device, non_blocking=True)

    def prepare(self, count: int, height: int, width: int, dtype: torch.dtype) -> None:
        """See :meth:`TorchLane.prepare`."""
        if self._record_graphs:
            self.graphs.prepare((count, height, width, dtype))

    def empty(self, height: int, width: int, dtype: torch.dtype) -> torch.Tensor:
        """See :meth:`TorchLane.empty`."""
        import torch

        return torch.empty((height, width, 3), dtype=dtype, device=self._device)

    def cut(self, source: torch.Tensor, tile: Tile) -> torch.Tensor:
        """See :meth:`TorchLane.cut`."""
        return cut(source, tile)

    def forward(self, windows: Sequence[torch.Tensor]) -> torch.Tensor:
        """See :meth:`TorchLane.forward`."""
        import torch

        first = windows[0]
        graph = self.graphs.get((len(windows), first.shape[0], first.shape[1], first.dtype))
        if graph is not None:
            return graph(windows)
        batch = torch.stack(list(windows))
        result: torch.Tensor = self._modules[first.dtype](batch, *self._extra)
        return result

    def download(self, rows: torch.Tensor, target: Image) -> Download:
        """See :meth:`TorchLane.download`; straight into ``target`` where that is page-locked."""
        import torch

        host, staged = torch.from_numpy(target), None
        if not host.is_pinned():
            self._turn = (self._turn + 1) % (IN_FLIGHT + 1)  # that one was handed over by now
            host = staged = self._staged(self._turn, target.shape, rows.dtype)
        self._copy.wait_event(self._compute.record_event())
        with torch.cuda.stream(self._copy):
            host.copy_(rows, non_blocking=True)
        return Download(self._copy.record_event(), rows, staged, target)

    def set_scalars(self, scalars: Sequence[float]) -> None:
        """See :meth:`TorchLane.set_scalars`; a launch each, no copy."""
        for slot, number in zip(self._extra, scalars, strict=True):
            slot.fill_(number)

    def synchronize(self) -> None:
        """See :meth:`TorchLane.synchronize`."""
        self._compute.synchronize()
        self._copy.synchronize()

    def release_memory(self) -> None:
        """Give back what can be given back, since memory ran out."""
        self.synchronize()
        self.graphs.drop()
        release_cache()

    def close(self) -> None:
        """See :meth:`TorchLane.close`."""
        self.synchronize()
        self.graphs.drop()
        self._staging.clear()

    def _record(self, key: Shape, pool: Any) -> TorchGraph:
        import torch

        count, height, width, dtype = key
        module = self._modules[dtype]
        with CAPTURING, self.active():
            given = torch.zeros((count, height, width, 3), dtype=dtype, device=self._device)
            # cuDNN's handles belong to a thread, and none may be made within a capture.
            module(given, *self._extra)
            graph, result = self._capture(lambda: module(given, *self._extra), pool)
        return TorchGraph(graph, given, result)

    def _capture(
        self, work: Callable[[], torch.Tensor], pool: Any, recover: bool = True
    ) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        """What ``work`` queues as a graph, and what it gives. Under :data:`CAPTURING`."""
        import torch

        graph = torch.cuda.CUDAGraph()
        # Not "global": other lanes go on copying and allocating meanwhile.
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
        """After a capture that could not be ended, PyTorch's generator of random numbers believes
        in it, and refuses to work outside of one; the end of another capture puts that right."""
        import torch

        anything = torch.zeros(1, device=self._device)
        try:
            self._capture(anything.zero_, torch.cuda.graph_pool_handle(), recover=False)
        except RuntimeError as error:
            logger.warning("PyTorch did not recover from a spoilt CUDA graph: %s", str(error))

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
        try:
            torch.cuda.empty_cache()
        except RuntimeError as error:
            if "captures_underway" not in str(error):
                raise
            # Somebody else's capture, that PyTorch before 2.12 could not end: it keeps the memory.
            logger.warning("PyTorch keeps its unused memory: %s", str(error).splitlines()[0])


def end_allocation(device: torch.device, pool: Any) -> bool:
    """End what a spoilt capture leaves under way in PyTorch's allocator; whether it left it.

    Up to 2.11, PyTorch does not where CUDA refuses to end the capture (pytorch#180395): from then
    on ``empty_cache`` fails in the process, and with it every later capture. The pool must not be
    used again, since the allocator of page-locked memory goes on believing in it.
    """
    import torch

    end = getattr(torch._C, "_cuda_endAllocateToPool", None)
    release = getattr(torch._C, "_cuda_releasePool", None)
    if end is None or release is None:
        return False
    try:
        end(device.index, pool)
    except RuntimeError:  # it has ended, as it should
        return False
    release(device.index, pool)
    return True


def is_memory_error(error: BaseException, device: torch.device | None = None) -> bool:
    """Whether an error of PyTorch, or of a library under it, means that memory ran out.

    Args:
        error: what was raised.
        device: the GPU it is of: where most of its memory is taken, that cuDNN finds no way to
            compute means the same. None: it is not taken for that.
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
    """A tile's window of a tensor ``[h, w, 3]``, as base's ``cut`` makes it of an array."""
    import torch

    window = source[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width]
    for axis, wanted in enumerate((tile.height, tile.width)):
        size = window.shape[axis]
        if size != wanted:  # made on the device: a copy from the host would be waited for
            index = torch.arange(wanted, device=source.device)
            index = torch.minimum(index, 2 * (size - 1) - index).clamp(min=0)
            window = window.index_select(axis, index)
    return window

"""The torch backend: PyTorch on CUDA in fp16, or on the CPU.

On CUDA a run takes one of :data:`LANES` lanes (``lane.py``, ``cuda_lane.py``): the image
goes to the device once, tiles are cut and pasted there, and finished rows come back while later
ones are computed. On the CPU it is the numpy loop of the base.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from resharp.engines import Bundle
from resharp.errors import OutOfMemoryError
from resharp.gpu.devices import available_memory
from resharp.optional import require
from resharp.runtime.backends.base import Advance, Backend, BackendOptions, ensure_open
from resharp.runtime.backends.lane_pool import LanePool
from resharp.runtime.backends.torch.cuda_graph_cache import PinnedResults
from resharp.runtime.backends.torch.cuda_lane import (
    TorchCudaLane,
    is_memory_error,
    page_locked,
    release_cache,
)
from resharp.runtime.backends.torch.lane import run_batch, run_tiles
from resharp.runtime.tiling.plan import Tile
from resharp.types import Image

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

LANES = 2
"""Runs at a time on one GPU: one computes while the other one's copies are on their way."""
PINNED_BYTES = 1 << 30
"""Page-locked memory that results may hold."""
HALF_FLOOR_DB = 40.0
"""PSNR of fp16 against fp32 under which fp16 is not used."""
_TF32 = (
    "fp32 with TF32 convolutions, as PyTorch is set (torch.backends.cudnn.allow_tf32 = False, "
    "before this is opened, ends that)"
)
_STRANGE = (
    "without CUDA graphs, which a network of this architecture may not support (a tuning with "
    "graphs=True tries)"
)
_MIXED = "mixed, since the manifest says that activations are large for fp16"


class TorchBackend(Backend):
    """The bundle's weights in the network that their names tell of.

    Raises:
        MissingExtraError: torch or safetensors is not installed.
        BackendError: torch cannot use that device.
    """

    name = "torch"

    @staticmethod
    def probe(options: BackendOptions) -> str | None:
        """Why this backend cannot run on that device here; None if it can."""
        torch = require("torch", feature="The torch backend", extra="torch")
        if options.on_cuda and not torch.cuda.is_available():
            return (
                f"torch {torch.__version__} finds no usable GPU (a CPU build, or no NVIDIA driver)"
            )
        if options.on_cuda and options.index >= torch.cuda.device_count():
            return f"torch sees {torch.cuda.device_count()} GPUs, so there is no {options.device}"
        return None

    def __init__(self, bundle: Bundle, options: BackendOptions) -> None:
        super().__init__(bundle, options)
        import torch

        from resharp import models
        from resharp.models.spandrel_models import is_foreign

        if options.threads is not None:
            self.note = "threads has no effect: torch.set_num_threads sets them for the process"
        checkpoint = models.read_checkpoint(bundle.path(bundle.manifest.weights))
        self._device = torch.device("cuda", options.index) if options.on_cuda else "cpu"
        facts = self._facts = checkpoint.facts
        self._foreign = is_foreign(checkpoint.architecture)
        network = models.build(checkpoint).to(self._device)
        for one in network.parameters():
            if one.ndim == 4:  # .to() insists on it for weights of five axes too
                one.data = one.data.contiguous(memory_format=torch.channels_last)
        self._gpu: torch.device | None = None
        self._without: dict[int, str] = {}
        """Why lanes record no graphs, by their number."""
        self._noting = threading.Lock()
        self._in_pools = (-1, 0)
        self._modules: dict[torch.dtype, torch.nn.Module] = {}
        exact = network
        if self._precision() != "fp32":
            network = self._halved(network, self._precision())
        if options.on_cuda and network is exact and _tf32(options.index):
            self._add_note(_TF32)
        self._modules = {
            torch.uint8: models.for_pictures(network, facts, "uint8"),
            torch.float32: models.for_pictures(network, facts, "float32"),
        }
        self._lanes = self._make_lanes() if options.on_cuda else None
        self._results = PinnedResults(min(PINNED_BYTES, available_memory() // 8), _pinned)

    def infer(self, batch: Image, extra: Mapping[str, float] | None = None) -> Image:
        """See :meth:`Backend.infer`."""
        scalars = self.scalars(batch, extra)
        if self._lanes is None:
            return self._infer_here(batch, scalars)
        count, height, width, _ = batch.shape
        scale = self.manifest.scale
        out = np.empty((count, height * scale, width * scale, 3), batch.dtype)
        with self._lanes.take() as lane, _memory_errors(lane.release_memory, self._gpu):
            run_batch(lane, batch, out, scalars)
        return out

    def run(
        self,
        image: Image,
        tiles: Sequence[Tile],
        advance: Advance | None = None,
        batch: int = 1,
        out: Image | None = None,
    ) -> Image:
        """See :meth:`Backend.run`; on CUDA image and tiles stay on the device."""
        if self._lanes is None:
            return super().run(image, tiles, advance, batch, out)
        if out is None:
            out = self.allocate_rows(image, tiles)
        scale, scalars = self.manifest.scale, self.manifest.extra_values()
        with self._lanes.take() as lane, _memory_errors(lane.release_memory, self._gpu):
            run_tiles(lane, image, tiles, out, scale, advance, batch, scalars)
        return out

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Image:
        """See :meth:`Backend.allocate`; page-locked on CUDA, as far as :data:`PINNED_BYTES` go."""
        if self._lanes is None:
            return super().allocate(shape, dtype)
        return self._results.allocate(shape, dtype)

    def workers(self) -> int:
        """See :meth:`Backend.workers`."""
        return self.options.lanes(LANES) if self.options.on_cuda else 1

    def estimate(self, tile: int, batch: int) -> int:
        """See :meth:`Backend.estimate`; fp16 halves it."""
        return super().estimate(tile, batch) // (2 if self._precision() == "fp16" else 1)

    def largest_tile(self) -> int:
        """See :meth:`Backend.largest_tile`."""
        return 1024 if self.options.on_cuda else 512

    def free_memory(self) -> int:
        """See :meth:`Backend.free_memory`."""
        if not self.options.on_cuda:
            return available_memory()
        import torch

        free, _ = torch.cuda.mem_get_info(self._device)
        reserved = torch.cuda.memory_reserved(self._device)
        cached = reserved - torch.cuda.memory_allocated(self._device)
        return int(free + max(cached - self._held_by_graphs(), 0))

    def _held_by_graphs(self) -> int:
        """Bytes that PyTorch's allocator counts as unused and that are to be had for nothing else:
        in the pools of the lanes' graphs. Asked for anew when these changed, since it is slow."""
        lanes = () if self._lanes is None else self._lanes.lanes
        changes = sum(lane.graphs.changes for lane in lanes)
        if self._in_pools[0] != changes:
            self._in_pools = (changes, _unused_in_pools(self.options.index) if changes else 0)
        return self._in_pools[1]

    def close(self) -> None:
        """See :meth:`Backend.close`; waits for the runs under way."""
        if self._lanes is not None:
            self._lanes.close()
        self._modules.clear()  # the lanes have the same dict, and outlive this
        if self.options.on_cuda:
            release_cache()

    def _precision(self) -> str:
        """``fp32`` on the CPU and where it was asked for; else as the manifest advises."""
        if not (self.options.on_cuda and self.options.precision == "auto"):
            return "fp32"
        return "mixed" if self.manifest.engine_precision == "mixed" else "fp16"

    def _infer_here(self, batch: Image, scalars: Sequence[float]) -> Image:
        """On the CPU."""
        import torch

        own = np.ascontiguousarray(batch)
        with torch.inference_mode(), _memory_errors():
            tensor = torch.from_numpy(own if own.flags.writeable else own.copy())
            module = self._modules.get(tensor.dtype)  # close() may empty it meanwhile
            ensure_open(module is not None, self.name)
            assert module is not None
            extra = (torch.tensor([number]) for number in scalars)
            return np.asarray(module(tensor, *extra).numpy())

    def _make_lanes(self) -> LanePool[TorchCudaLane]:
        import torch

        device = self._gpu = torch.device("cuda", self.options.index)
        count, graphs = len(self.manifest.extra), self._graphs()
        lanes = [
            TorchCudaLane(device, self._modules, partial(self._no_graphs, number), count, graphs)
            for number in range(self.options.lanes(LANES))
        ]
        # The weights came on another stream than the lanes'. Not a wait for the whole device, which
        # CUDA refuses, and spoils with, while any thread captures.
        torch.cuda.current_stream(device).synchronize()
        return LanePool(lanes, self.name)

    def _graphs(self) -> bool:
        """Whether lanes record CUDA graphs: unless the tuning says not to, and of networks that are
        not ours only where it says to, since these may wait for the GPU in their forward, which no
        capture survives."""
        tuning = self.options.tuning
        asked = None if tuning is None else tuning.graphs
        if asked is None and self._foreign:
            self._add_note(_STRANGE)
        return not self._foreign if asked is None else asked

    def _no_graphs(self, lane: int, reason: str) -> None:
        """A lane could not record, and works without, a little slower; empty: it can again."""
        if reason and lane not in self._without:
            logger.warning("no CUDA graphs with %s: %s", self.manifest.name, reason)
        with self._noting:
            said = self._said_of_graphs()
            self._without.pop(lane, None)
            if reason:
                self._without[lane] = reason
            self.note = self.note.removesuffix(said).removesuffix("; ")
            if self._without:
                self._add_note(self._said_of_graphs())

    def _said_of_graphs(self) -> str:
        reasons = " and ".join(dict.fromkeys(self._without.values()))
        return f"without CUDA graphs ({reasons})" if reasons else ""

    def _add_note(self, text: str) -> None:
        self.note += f"{'; ' if self.note else ''}{text}"

    def _halved(self, network: torch.nn.Module, precision: str = "fp16") -> torch.nn.Module:
        """The network in fp16 or mixed, or in fp32 if that spoils a picture with this network and
        GPU."""
        import torch

        from resharp import models
        from resharp.models.precision import with_precision

        facts = self._facts
        picture = torch.from_numpy(_test_picture(facts.fixed_size or 64)).to(self._device)
        given = [picture]
        given += [torch.tensor([one], device=self._device) for one in self.manifest.extra_values()]
        half = with_precision(network, precision, models.planes(picture, facts))
        with torch.inference_mode():
            exact = models.for_pictures(network, facts, "float32")(*given)
            try:
                found = models.for_pictures(half, facts, "float32")(*given)
            except RuntimeError as failure:
                if is_memory_error(failure):
                    raise
                # spandrel's networks may mix the two
                self.note = f"fp32, since fp16 fails: {failure}".splitlines()[0]
                return network
            error = (found - exact).double().square().mean()
        psnr = float(-10 * torch.log10(error + 1e-20))
        if psnr >= HALF_FLOOR_DB:  # NaN compares false
            if precision == "mixed":
                self.note = _MIXED
            return half
        self.note = f"fp32, since {precision} was {psnr:.1f} dB from it on this GPU"
        return network


def _test_picture(side: int) -> Image:
    """Ramps with noise, ``[1, side, side, 3]`` in 0..1: enough to show overflow and rounding."""
    ramp = np.linspace(0, 1, side, dtype=np.float32)
    noise = np.random.default_rng(0).normal(0, 0.05, (side, side, 3))
    planes = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], ramp[::-1, None]), axis=-1)
    return np.clip(planes + noise, 0, 1).astype(np.float32)[None]


def _unused_in_pools(index: int) -> int:
    """Bytes of a GPU that are unused in pools of CUDA graphs."""
    import torch

    try:
        segments = torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
    except RuntimeError:  # another allocator, which tells less
        return 0
    return sum(
        segment["total_size"] - segment["allocated_size"]
        for segment in segments
        if segment["device"] == index and segment["segment_pool_id"] != (0, 0)
    )


def _tf32(index: int) -> bool:
    """Whether cuDNN may round what goes into a float32 convolution to 10 bits of mantissa."""
    import torch

    if torch.version.hip or torch.cuda.get_device_capability(index) < (8, 0):
        return False
    precision = getattr(getattr(torch.backends.cudnn, "conv", None), "fp32_precision", None)
    return bool(torch.backends.cudnn.allow_tf32 if precision is None else precision == "tf32")


def _pinned(size: int) -> Image | None:
    host = page_locked(size)
    return np.asarray(host.numpy()) if host.is_pinned() else None


@contextlib.contextmanager
def _memory_errors(
    release_memory: Callable[[], None] | None = None, device: torch.device | None = None
) -> Iterator[None]:
    """Turn torch's out-of-memory errors into ours, giving back what the failed run held."""
    try:
        yield
    except RuntimeError as error:
        if not is_memory_error(error, device):
            raise
        if release_memory is not None:
            traceback.clear_frames(error.__traceback__)  # they hold the run's tensors
            release_memory()
        raise OutOfMemoryError(f"torch: {error}") from error

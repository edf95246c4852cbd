"""The torch backend: PyTorch on CUDA in fp16, or on the CPU.

On CUDA a run leases one of :data:`LANES` lanes (``lane.py``, ``cuda_lane.py``): the image is
uploaded once, tiles are cut and pasted on the device, and finished rows are downloaded while later
ones are computed. On the CPU the numpy loop of the base class runs the tiles.
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
from resharp.errors import BackendError, OutOfMemoryError, ResharpError
from resharp.memory import available_memory
from resharp.optional import require
from resharp.runtime.backends.base import (
    Advance,
    Backend,
    BackendOptions,
    check_result,
    ensure_open,
)
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

    from resharp.models import NetworkFacts

logger = logging.getLogger(__name__)

LANES = 2
"""Concurrent runs on one GPU: one computes while the other waits for its copies."""
PINNED_BYTES = 1 << 30
"""Limit of page-locked memory held by results, in bytes."""
HALF_FLOOR_DB = 40.0
"""PSNR of fp16 against fp32, in dB, below which fp16 is not used."""
_TF32 = (
    "fp32 with TF32 convolutions, PyTorch's setting (to disable it, set "
    "torch.backends.cudnn.allow_tf32 = False before opening the model)"
)
_STRANGE = (
    "without CUDA graphs, which this architecture may not support (a tuning with graphs=True "
    "enables them)"
)
_MIXED = "mixed precision, since activations are large for fp16 according to the manifest"


class TorchBackend(Backend):
    """The bundle's weights in the network that is detected from them.

    Raises:
        MissingExtraError: torch or safetensors is not installed.
        BackendError: torch cannot use the device.
    """

    name = "torch"

    @staticmethod
    def probe(options: BackendOptions) -> str | None:
        """Return why torch cannot run on the device; None if it can."""
        torch = require("torch", feature="The torch backend", extra="torch")
        if options.on_cuda and not torch.cuda.is_available():
            return (
                f"torch {torch.__version__} finds no usable GPU (a CPU build, or no NVIDIA driver)"
            )
        if options.on_cuda and options.index >= torch.cuda.device_count():
            return f"{options.device} does not exist: torch sees {torch.cuda.device_count()} GPUs"
        return None

    def __init__(self, bundle: Bundle, options: BackendOptions) -> None:
        super().__init__(bundle, options)
        import torch

        from resharp import models
        from resharp.models.spandrel_models import is_foreign

        if options.threads is not None:
            self.note = "`threads` has no effect: use torch.set_num_threads, which is process-wide"
        checkpoint = models.read_checkpoint(bundle.path(bundle.manifest.weights))
        self._device = torch.device("cuda", options.index) if options.on_cuda else "cpu"
        facts = self._facts = checkpoint.facts
        if reason := self._misfit(facts):
            raise BackendError(f"the weights of {self.manifest.name} {reason}: export it again")
        self._foreign = is_foreign(checkpoint.architecture)
        network = models.build(checkpoint).to(self._device)
        for one in network.parameters():
            if one.ndim == 4:  # .to(memory_format=...) would fail on 5D weights
                one.data = one.data.contiguous(memory_format=torch.channels_last)
        self._gpu: torch.device | None = None
        self._without: dict[int, str] = {}
        """Why a lane records no graphs, by lane number."""
        self._noting = threading.Lock()
        self._in_pools = (-1, 0)
        self._modules: dict[torch.dtype, torch.nn.Module] = {}
        exact = network
        if self._precision() != "fp32":
            network = self._halved(network, self._precision())
        if options.on_cuda and network is exact and _tf32(options.index):
            self._add_note(_TF32)
        self._modules = {
            torch.uint8: models.for_images(network, facts, "uint8"),
            torch.float32: models.for_images(network, facts, "float32"),
        }
        self._lanes = self._make_lanes() if options.on_cuda else None
        self._results = PinnedResults(min(PINNED_BYTES, available_memory() // 8), _pinned)

    def infer(self, batch: Image, extra: Mapping[str, float] | None = None) -> Image:
        """Run the network on a batch of images, as described in :meth:`Backend.infer`."""
        scalars = self.scalars(batch, extra)
        if self._lanes is None:
            return self._infer_here(batch, scalars)
        count, height, width, _ = batch.shape
        scale = self.manifest.scale
        out = np.empty((count, height * scale, width * scale, 3), batch.dtype)
        with self._lanes.take() as lane, _translated(lane.release_memory, self._gpu):
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
        """Run the tiles of ``image``; on CUDA image and tiles stay on the device."""
        if self._lanes is None:
            return super().run(image, tiles, advance, batch, out)
        if out is None:
            out = self.allocate_rows(image, tiles)
        scale, scalars = self.manifest.scale, self.manifest.extra_values()
        told = None if advance is None else _Told(advance)
        with self._lanes.take() as lane, _translated(lane.release_memory, self._gpu, told):
            run_tiles(lane, image, tiles, out, scale, told, batch, scalars)
        return out

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Image:
        """Return an uninitialized result array; page-locked on CUDA, up to :data:`PINNED_BYTES`."""
        if self._lanes is None:
            return super().allocate(shape, dtype)
        return self._results.allocate(shape, dtype)

    def workers(self) -> int:
        """Return the number of lanes on CUDA, and 1 on the CPU."""
        return self.options.lanes(LANES) if self.options.on_cuda else 1

    def estimate(self, tile: int, batch: int) -> int:
        """Estimate the working memory of a batch, in bytes; fp16 halves it."""
        return super().estimate(tile, batch) // (2 if self._precision() == "fp16" else 1)

    def largest_tile(self) -> int:
        """Return the largest tile worth using: 1024 pixels on CUDA, 512 on the CPU."""
        return 1024 if self.options.on_cuda else 512

    def free_memory(self) -> int:
        """Return how many bytes a run may use now, including what PyTorch's allocator can reuse."""
        if not self.options.on_cuda:
            return available_memory()
        import torch

        free, _ = torch.cuda.mem_get_info(self._device)
        reserved = torch.cuda.memory_reserved(self._device)
        cached = reserved - torch.cuda.memory_allocated(self._device)
        return int(free + max(cached - self._held_by_graphs(), 0))

    def _held_by_graphs(self) -> int:
        """Return the unused bytes in the lanes' graph pools, which nothing else can use."""
        # The query is slow, so it is repeated only after the graphs have changed.
        lanes = () if self._lanes is None else self._lanes.lanes
        changes = sum(lane.graphs.changes for lane in lanes)
        if self._in_pools[0] != changes:
            self._in_pools = (changes, _unused_in_pools(self.options.index) if changes else 0)
        return self._in_pools[1]

    def close(self) -> None:
        """Wait for active runs and free everything."""
        if self._lanes is not None:
            self._lanes.close()
        self._modules.clear()  # the lanes share the dict and outlive the backend
        if self.options.on_cuda:
            release_cache()

    def _precision(self) -> str:
        """Return ``fp32`` on the CPU or if requested, else what the manifest recommends."""
        if not (self.options.on_cuda and self.options.precision == "auto"):
            return "fp32"
        return "mixed" if self.manifest.engine_precision == "mixed" else "fp16"

    def _infer_here(self, batch: Image, scalars: Sequence[float]) -> Image:
        """Run the network on the CPU."""
        import torch

        own = np.ascontiguousarray(batch)
        with torch.inference_mode(), _translated():
            tensor = torch.from_numpy(own if own.flags.writeable else own.copy())
            module = self._modules.get(tensor.dtype)  # close() may clear it meanwhile
            ensure_open(module is not None, self.name)
            assert module is not None
            extra = (torch.tensor([number]) for number in scalars)
            found = np.asarray(module(tensor, *extra).numpy())
        check_result(found, own[0], len(own), self.manifest.scale, self.manifest.name)
        return found

    def _misfit(self, facts: NetworkFacts) -> str:
        """Return how the network differs from the manifest; empty if it matches."""
        manifest = self.manifest
        pairs = {
            "scale": (facts.scale, manifest.scale),
            "channels": (facts.in_channels, manifest.channels),
            "fixed_size": (facts.fixed_size, manifest.fixed_size),
            "extra": ([name for name, _ in facts.extra], [one.name for one in manifest.extra]),
        }
        wrong = (
            f"belong to a network with {name} {found}, but its manifest says {said}"
            for name, (found, said) in pairs.items()
            if found != said
        )
        return next(wrong, "")

    def _make_lanes(self) -> LanePool[TorchCudaLane]:
        import torch

        device = self._gpu = torch.device("cuda", self.options.index)
        count, graphs = len(self.manifest.extra), self._graphs()
        lanes = [
            TorchCudaLane(device, self._modules, partial(self._no_graphs, number), count, graphs)
            for number in range(self.options.lanes(LANES))
        ]
        # The weights were uploaded on another stream than the lanes'. Waiting for the whole device
        # would fail, and break the capture, while any thread captures.
        torch.cuda.current_stream(device).synchronize()
        return LanePool(lanes, self.name)

    def _graphs(self) -> bool:
        """Return whether lanes record CUDA graphs: as tuned, else only for our own networks."""
        # Other networks may wait for the GPU in their forward pass, which no capture survives.
        tuning = self.options.tuning
        asked = None if tuning is None else tuning.graphs
        if asked is None and self._foreign:
            self._add_note(_STRANGE)
        return not self._foreign if asked is None else asked

    def _no_graphs(self, lane: int, reason: str) -> None:
        """Note why a lane runs without graphs; an empty ``reason`` means that it records again."""
        if reason and lane not in self._without:
            logger.warning("running %s without CUDA graphs: %s", self.manifest.name, reason)
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
        """Return the network in fp16 or mixed precision, or in fp32 if the loss is too large."""
        import torch

        from resharp import models
        from resharp.models.precision import with_precision

        facts = self._facts
        picture = torch.from_numpy(_test_image(facts.fixed_size or 64)).to(self._device)
        given = [picture]
        given += [torch.tensor([one], device=self._device) for one in self.manifest.extra_values()]
        half = with_precision(network, precision, models.planes(picture, facts))
        with torch.inference_mode():
            exact = models.for_images(network, facts, "float32")(*given)
            try:
                found = models.for_images(half, facts, "float32")(*given)
            except RuntimeError as failure:
                if is_memory_error(failure):
                    raise
                # spandrel's networks may mix fp16 and fp32
                self.note = f"fp32, since fp16 fails: {failure}".splitlines()[0]
                return network
            error = (found - exact).double().square().mean()
        psnr = float(-10 * torch.log10(error + 1e-20))
        if psnr >= HALF_FLOOR_DB:  # NaN compares false
            if precision == "mixed":
                self.note = _MIXED
            return half
        self.note = f"fp32, since {precision} reaches only {psnr:.1f} dB PSNR on this GPU"
        return network


def _test_image(side: int) -> Image:
    """Return noisy ramps, ``[1, side, side, 3]`` in 0..1, that expose overflow and rounding."""
    ramp = np.linspace(0, 1, side, dtype=np.float32)
    noise = np.random.default_rng(0).normal(0, 0.05, (side, side, 3))
    planes = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], ramp[::-1, None]), axis=-1)
    return np.clip(planes + noise, 0, 1).astype(np.float32)[None]


def _unused_in_pools(index: int) -> int:
    """Return the unused bytes in the CUDA graph pools of a GPU."""
    import torch

    try:
        segments = torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
    except RuntimeError:  # other allocators do not report them
        return 0
    return sum(
        segment["total_size"] - segment["allocated_size"]
        for segment in segments
        if segment["device"] == index and segment["segment_pool_id"] != (0, 0)
    )


def _tf32(index: int) -> bool:
    """Return whether cuDNN may round inputs of float32 convolutions to 10 bits of mantissa."""
    import torch

    if torch.version.hip or torch.cuda.get_device_capability(index) < (8, 0):
        return False
    precision = getattr(getattr(torch.backends.cudnn, "conv", None), "fp32_precision", None)
    return bool(torch.backends.cudnn.allow_tf32 if precision is None else precision == "tf32")


def _pinned(size: int) -> Image | None:
    host = page_locked(size)
    return np.asarray(host.numpy()) if host.is_pinned() else None


class _Told:
    """A progress callback whose own exception is kept apart from those of torch."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self.raised: BaseException | None = None

    def __call__(self, count: int) -> None:
        try:
            self._advance(count)
        except BaseException as error:
            self.raised = error
            raise


@contextlib.contextmanager
def _translated(
    release_memory: Callable[[], None] | None = None,
    device: torch.device | None = None,
    told: _Told | None = None,
) -> Iterator[None]:
    """Convert torch's errors to ours, and free memory after a run that ran out of it."""
    try:
        yield
    except ResharpError:
        raise
    except RuntimeError as error:
        if told is not None and told.raised is error:
            raise
        if not is_memory_error(error, device):
            raise BackendError(f"torch failed: {error}") from error
        if release_memory is not None:
            traceback.clear_frames(error.__traceback__)  # they hold the run's tensors
            release_memory()
        raise OutOfMemoryError(f"torch: {error}") from error

"""The torch backend: PyTorch on CUDA in fp16, or on the CPU. The only file here that knows torch.

The image goes to the device once, tiles are cut and pasted there, and one copy comes back; nothing
in the loop waits for the GPU.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from resharp.engines import Bundle
from resharp.errors import BackendError, OutOfMemoryError
from resharp.optional import require
from resharp.runtime.backends.base import (
    Advance,
    Backend,
    BackendOptions,
    Image,
    batched,
    core_rows,
    open_guard,
    paste,
)
from resharp.runtime.memory import available_memory
from resharp.runtime.plan import Tile

if TYPE_CHECKING:
    import torch

HALF_FLOOR_DB = 40.0
"""PSNR of fp16 against fp32 under which fp16 is not used."""


def probe(options: BackendOptions) -> str | None:
    """Why this backend cannot run on that device here; None if it can."""
    torch = require("torch", feature="The torch backend", extra="torch")
    if options.on_cuda and not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no usable GPU (a CPU build, or no NVIDIA driver)"
    if options.on_cuda and options.index >= torch.cuda.device_count():
        return f"torch sees {torch.cuda.device_count()} GPUs, so there is no {options.device}"
    return None


class TorchBackend(Backend):
    """The bundle's weights in the network that their names tell of."""

    name = "torch"

    def __init__(self, bundle: Bundle, options: BackendOptions) -> None:
        super().__init__(bundle, options)
        reason = probe(options)
        if reason:
            raise BackendError(reason)
        import torch

        from resharp import models

        if options.threads is not None:
            self.note = "threads has no effect: torch.set_num_threads sets them for the process"
        checkpoint = models.read_checkpoint(bundle.path(bundle.manifest.weights))
        self._device = torch.device("cuda", options.index) if options.on_cuda else "cpu"
        network = models.build(checkpoint).to(self._device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._modules: dict[torch.dtype, torch.nn.Module] = {}
        if options.on_cuda:
            network = self._halved(network)
        self._modules = {
            torch.uint8: models.ByteImage(network).eval(),
            torch.float32: models.FloatImage(network).eval(),
        }

    def infer(self, batch: Image) -> Image:
        """See :meth:`Backend.infer`."""
        import torch

        with torch.inference_mode(), _memory_errors():
            return self._download(self._forward(self._upload(batch)))

    def run(
        self, image: Image, tiles: Sequence[Tile], advance: Advance | None = None, batch: int = 1
    ) -> Image:
        """See :meth:`Backend.run`; image and tiles stay on the device."""
        import torch

        scale = self.manifest.scale
        start, end = core_rows(tiles)
        with torch.inference_mode(), _memory_errors():
            source = self._upload(image)
            shape = ((end - start) * scale, image.shape[1] * scale, 3)
            out = torch.empty(shape, dtype=source.dtype, device=self._device)
            for group in batched(tiles, batch):
                results = self._forward(torch.stack([_cut(source, tile) for tile in group]))
                for tile, result in zip(group, results, strict=True):
                    paste(out, result, tile, start, scale)
                if advance is not None:
                    advance(len(group))
            return self._download(out)

    def memory(self, tile: int, batch: int = 1) -> int:
        """See :meth:`Backend.memory`; fp16 halves it."""
        return super().memory(tile, batch) // (2 if self.options.on_cuda else 1)

    def largest_tile(self) -> int:
        """See :meth:`Backend.largest_tile`."""
        return 1024 if self.options.on_cuda else 512

    def free_memory(self) -> int:
        """See :meth:`Backend.free_memory`."""
        if not self.options.on_cuda:
            return available_memory()
        import torch

        free, _ = torch.cuda.mem_get_info(self._device)
        cached = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(
            self._device
        )
        return int(free + cached)

    def close(self) -> None:
        """See :meth:`Backend.close`."""
        self._modules = {}
        if self.options.on_cuda:
            import torch

            torch.cuda.empty_cache()

    def _forward(self, batch: torch.Tensor) -> torch.Tensor:
        modules = self._modules  # close() may replace it meanwhile
        open_guard(bool(modules), self.name)
        out: torch.Tensor = modules[batch.dtype](batch)
        return out

    def _upload(self, array: Image) -> torch.Tensor:
        import torch

        own = np.ascontiguousarray(array)
        tensor = torch.from_numpy(own if own.flags.writeable else own.copy())
        if self.options.on_cuda:
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor

    def _download(self, tensor: torch.Tensor) -> Image:
        import torch

        if not self.options.on_cuda:
            return np.asarray(tensor.numpy())
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        torch.cuda.current_stream(self._device).synchronize()
        return np.asarray(host.numpy())

    def _halved(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network in fp16, or in fp32 if fp16 spoils a picture with this network and GPU."""
        import torch

        from resharp import models

        half = copy.deepcopy(network).half()
        batch = self._upload(_test_picture())
        with torch.inference_mode():
            exact = models.FloatImage(network).eval()(batch)
            error = (models.FloatImage(half).eval()(batch) - exact).double().square().mean()
        psnr = float(-10 * torch.log10(error + 1e-20))
        if psnr >= HALF_FLOOR_DB:  # NaN compares false
            return half
        self.note = f"fp32, since fp16 was {psnr:.1f} dB from it on this GPU"
        return network


def _test_picture(side: int = 64) -> Image:
    """Ramps with noise, ``[1, side, side, 3]`` in 0..1: enough to show overflow and rounding."""
    ramp = np.linspace(0, 1, side, dtype=np.float32)
    noise = np.random.default_rng(0).normal(0, 0.05, (side, side, 3))
    planes = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], ramp[::-1, None]), axis=-1)
    return np.clip(planes + noise, 0, 1).astype(np.float32)[None]


@contextlib.contextmanager
def _memory_errors() -> Iterator[None]:
    """Turn torch's out-of-memory errors into ours."""
    import torch

    try:
        yield
    except RuntimeError as error:
        known = isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
        if not known:
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise OutOfMemoryError(f"torch: {error}") from error


def _cut(source: torch.Tensor, tile: Tile) -> torch.Tensor:
    window = source[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width]
    if window.shape[:2] == (tile.height, tile.width):
        return window
    import torch

    rows = torch.arange(tile.height, device=source.device).clamp_(max=window.shape[0] - 1)
    columns = torch.arange(tile.width, device=source.device).clamp_(max=window.shape[1] - 1)
    return window[rows][:, columns]


def open_backend(bundle: Bundle, options: BackendOptions) -> Backend:
    """Open the bundle with PyTorch.

    Raises:
        MissingExtraError: torch or safetensors is not installed.
        BackendError: torch cannot use that device.
    """
    return TorchBackend(bundle, options)

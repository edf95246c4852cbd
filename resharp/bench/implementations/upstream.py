"""The upstream baseline: the algorithm of Real-ESRGAN's own inference script.

Source of the algorithm: ``RealESRGANer`` in ``realesrgan/utils.py`` of xinntao/Real-ESRGAN
(BSD-3-Clause), as used by ``inference_realesrgan.py``. Reimplemented here with the same costs:
eager PyTorch, FP16 on a GPU, the whole image uploaded as float32, a Python loop over tiles with a
padding of 10, the result kept on the device, one blocking float32 copy to the host, and numpy for
the rest. It is the reference for speed, so do not optimize it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from resharp.bench.cases import Case
from resharp.bench.implementations.interface import Implementation
from resharp.bench.records import ResolvedCase
from resharp.engines import Bundle
from resharp.optional import require
from resharp.types import Image

if TYPE_CHECKING:
    import torch
    from torch import nn

TILE_PAD = 10
FALLBACK_TILE = 512
"""Tile size if the whole image does not fit, as a user of the script would choose it."""


class UpstreamScript(Implementation):
    """A network that is run as the upstream script runs it.

    Args:
        network: maps float RGB planes to float RGB planes; moved to ``device`` in place.
        scale: output size over input size.
        device: torch device.
        half: use FP16, the script's default on a GPU.
        tile: side of a tile without its padding; 0 runs the whole image at once.
    """

    def __init__(
        self, network: nn.Module, scale: int, *, device: str, half: bool, tile: int = 0
    ) -> None:
        self._network = network.eval().to(device)
        if half:
            self._network.half()
        self._scale, self._device, self._half, self.tile = scale, device, half, tile

    def __call__(self, image: Image) -> Image:
        """Run an image like the script; if it does not fit, use tiles from then on."""
        import torch

        from resharp.runtime.backends.torch.cuda_lane import is_memory_error

        try:
            return self._enhance(image)
        except RuntimeError as error:
            if self.tile == FALLBACK_TILE or not is_memory_error(error):
                raise
        torch.cuda.empty_cache()
        self.tile = FALLBACK_TILE
        return self._enhance(image)

    def actual(self, image: Image) -> ResolvedCase:
        """Return the device, the precision and the tile, if tiles have been needed."""
        height, width, windows = image.shape[0], image.shape[1], 1
        pixels = height * width
        if self.tile:
            windows = -(-height // self.tile) * -(-width // self.tile)
            pixels = min(pixels, (self.tile + 2 * TILE_PAD) ** 2)
        return ResolvedCase(
            backend="PyTorch as in Real-ESRGAN's script",
            device=self._device,
            tile=self.tile or None,
            windows=windows,
            pixels=pixels,
            note="fp16" if self._half else "fp32",
        )

    def framework_peak(self) -> int | None:
        """Return the peak bytes of PyTorch's allocator on a GPU; None on the CPU."""
        import torch

        return torch.cuda.max_memory_allocated() if self._half else None

    def _enhance(self, image: Image) -> Image:
        import torch

        with torch.no_grad():
            planes = self._before(image)
            output = self._network(planes) if self.tile == 0 else self._tiles(planes)
            host: Any = output.data.squeeze(0).float().cpu().clamp_(0, 1).numpy()
        bgr = np.transpose(host[[2, 1, 0]], (1, 2, 0))
        return np.asarray((bgr * 255.0).round().astype(np.uint8))

    def _before(self, image: Image) -> torch.Tensor:
        import torch

        rgb = (image.astype(np.float32) / 255)[:, :, ::-1]
        planes = torch.from_numpy(np.ascontiguousarray(np.transpose(rgb, (2, 0, 1)))).float()
        planes = planes.unsqueeze(0).to(self._device)
        return planes.half() if self._half else planes

    def _tiles(self, planes: torch.Tensor) -> torch.Tensor:
        scale, tile = self._scale, self.tile
        _, channels, height, width = planes.shape
        output = planes.new_zeros((1, channels, height * scale, width * scale))
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                bottom, right = min(top + tile, height), min(left + tile, width)
                above, before = max(top - TILE_PAD, 0), max(left - TILE_PAD, 0)
                window = planes[
                    :,
                    :,
                    above : min(bottom + TILE_PAD, height),
                    before : min(right + TILE_PAD, width),
                ]
                result = self._network(window)
                y, x = (top - above) * scale, (left - before) * scale
                tall, wide = (bottom - top) * scale, (right - left) * scale
                output[:, :, top * scale : bottom * scale, left * scale : right * scale] = result[
                    :, :, y : y + tall, x : x + wide
                ]
        return output


def open_upstream(case: Case, bundle: Bundle) -> UpstreamScript:
    """Open the baseline, on the GPU in FP16 if PyTorch finds one, else on the CPU."""
    torch = require("torch", feature="The baseline upstream", extra="torch")
    from resharp import models

    if case.threads is not None:
        torch.set_num_threads(case.threads)
    on_gpu = bool(torch.cuda.is_available())
    network = models.build(models.read_checkpoint(bundle.path(bundle.manifest.weights)))
    return UpstreamScript(
        network, bundle.manifest.scale, device="cuda" if on_gpu else "cpu", half=on_gpu
    )

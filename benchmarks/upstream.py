"""What we compare with on a GPU: the algorithm of Real-ESRGAN's own inference script.

Source of the algorithm: ``RealESRGANer`` in ``realesrgan/utils.py`` of xinntao/Real-ESRGAN
(BSD-3-Clause), as ``inference_realesrgan.py`` uses it. Written anew here, with its costs kept as
they are: PyTorch eager in FP16, the whole picture uploaded as float32, a Python loop over tiles
with a padding of 10, the result held on the device in half, one blocking float32 copy to the host,
and numpy for the rest. It is the yardstick, so nothing here is to be made faster.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.common import Image

TILE_PAD = 10
FALLBACK_TILE = 512
"""Tile where the whole picture does not fit, as users of the script would choose it."""


class Upstream:
    """One network, run as the script runs it.

    Args:
        network: float RGB planes in, float RGB planes out; it is used as given, and moved.
        scale: output size over input size.
        device: as torch names it.
        half: FP16, the script's default on a GPU.
        tile: side of a tile without its padding; 0 takes the whole picture at once.
    """

    def __init__(
        self, network: nn.Module, scale: int, *, device: str, half: bool, tile: int = 0
    ) -> None:
        self._network = network.eval().to(device)
        if half:
            self._network.half()
        self._scale, self._device, self._half, self.tile = scale, device, half, tile

    @torch.no_grad()
    def __call__(self, image: Image) -> Image:
        """uint8 BGR ``[h, w, 3]`` to uint8 BGR ``[h*s, w*s, 3]``."""
        planes = self._before(image)
        output = self._network(planes) if self.tile == 0 else self._tiles(planes)
        host: Any = output.data.squeeze(0).float().cpu().clamp_(0, 1).numpy()
        bgr = np.transpose(host[[2, 1, 0]], (1, 2, 0))
        return np.asarray((bgr * 255.0).round().astype(np.uint8))

    def fit(self, image: Image) -> Image:
        """As a call, falling back to tiles, for good, where the whole picture does not fit."""
        try:
            return self(image)
        except torch.OutOfMemoryError:
            if self.tile == FALLBACK_TILE:
                raise
        torch.cuda.empty_cache()
        self.tile = FALLBACK_TILE
        return self(image)

    def _before(self, image: Image) -> torch.Tensor:
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


def flops(network: nn.Module, height: int, width: int, channels: int = 3) -> int:
    """Floating-point operations of the convolutions for one picture, an addition being one.

    Counted by hooks on a copy without weights or pixels, so it takes neither time nor memory.
    """
    counted, shadow = 0, copy.deepcopy(network).float().to("meta")

    def count(module: nn.Module, given: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        nonlocal counted
        assert isinstance(module, nn.Conv2d)
        each = module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
        counted += 2 * each * module.out_channels * result.shape[2] * result.shape[3]

    for module in shadow.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        shadow(torch.empty((1, channels, height, width), device="meta"))
    return counted

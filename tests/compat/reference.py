"""What Real-ESRGAN documents of its ``enhance``, in torch and numpy, for tests to compare with.

The steps, after ``realesrgan/utils.py`` of xinntao/Real-ESRGAN (BSD-3-Clause): to 0..1 by 255 or,
for 16 bits, 65535; gray to three channels; mirror-pad at the right and below, by ``pre_pad`` and
then to a multiple of 2 for x2 (4 for x1); the network, whole or over a grid of tiles, each with
``tile_pad`` pixels more where the image has them; cut the padding off; clamp; back to gray or
join alpha, which went the same way or was resized; times 255 or 65535, rounded; resized by Lanczos
where another scale is wanted. Nothing of resharp's runtime is used here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

Image = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Upstream's algorithm with one network; the fields have upstream's names."""

    network: nn.Module
    scale: int
    tile: int = 0
    tile_pad: int = 10
    pre_pad: int = 10

    def enhance(
        self, img: Image, outscale: float | None = None, alpha_upsampler: str = "realesrgan"
    ) -> tuple[Image, str]:
        """As upstream's."""
        white = 65535 if img.dtype == np.uint16 else 255
        values = img.astype(np.float32) / white
        if img.ndim == 2:
            mode, out = "L", self._gray(values)
        elif img.shape[2] == 3:
            mode, out = "RGB", self._color(values)
        else:
            mode, color, alpha = "RGBA", self._color(values[:, :, :3]), values[:, :, 3]
            if alpha_upsampler == "realesrgan":
                large = self._gray(alpha)
            else:
                size = (img.shape[1] * self.scale, img.shape[0] * self.scale)
                large = cv2.resize(alpha, size, interpolation=cv2.INTER_LINEAR)
            out = np.concatenate((color, large[:, :, None]), axis=2)
        result = (out * white).round().astype(img.dtype)
        if outscale is not None and outscale != self.scale:
            size = (int(img.shape[1] * outscale), int(img.shape[0] * outscale))
            result = cv2.resize(result, size, interpolation=cv2.INTER_LANCZOS4)
        return result, mode

    def _gray(self, plane: Image) -> Image:
        large: Image = cv2.cvtColor(self._color(np.stack([plane] * 3, 2)), cv2.COLOR_BGR2GRAY)
        return large

    @torch.no_grad()
    def _color(self, bgr: Image) -> Image:
        height, width = bgr.shape[:2]
        planes = torch.from_numpy(bgr[:, :, ::-1].transpose(2, 0, 1).copy())[None]
        if self.pre_pad:
            planes = F.pad(planes, (0, self.pre_pad, 0, self.pre_pad), "reflect")
        multiple = {1: 4, 2: 2}.get(self.scale, 1)
        below, beside = -planes.shape[2] % multiple, -planes.shape[3] % multiple
        planes = F.pad(planes, (0, beside, 0, below), "reflect") if below or beside else planes
        large = self._tiles(planes) if self.tile else self.network(planes)
        large = large[0, :, : height * self.scale, : width * self.scale].clamp(0, 1)
        return np.ascontiguousarray(large.numpy().transpose(1, 2, 0)[:, :, ::-1])

    def _tiles(self, planes: torch.Tensor) -> torch.Tensor:
        height, width, scale = planes.shape[2], planes.shape[3], self.scale
        large = planes.new_zeros(1, 3, height * scale, width * scale)
        for y in range(0, height, self.tile):
            for x in range(0, width, self.tile):
                y2, x2 = min(y + self.tile, height), min(x + self.tile, width)
                y1, x1 = max(y - self.tile_pad, 0), max(x - self.tile_pad, 0)
                part = planes[:, :, y1 : y2 + self.tile_pad, x1 : x2 + self.tile_pad]
                cut = self.network(part)[:, :, (y - y1) * scale :, (x - x1) * scale :]
                cut = cut[:, :, : (y2 - y) * scale, : (x2 - x) * scale]
                large[:, :, y * scale : y2 * scale, x * scale : x2 * scale] = cut
        return large


def picture(kind: str, height: int = 53, width: int = 70, dtype: str = "uint8") -> Image:
    """Ramps, waves, edges and noise: ``gray``, ``bgr`` or ``bgra``."""
    channels = {"gray": 1, "bgr": 3, "bgra": 4}[kind]
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = [
        0.5 + 0.3 * np.sin(rows / (3 + c) + columns / (5 - c)) + 0.2 * (columns / width > 0.6)
        for c in range(channels)
    ]
    noise = np.random.default_rng(7).normal(0, 0.04, (height, width, channels))
    values = np.clip(np.stack(planes, 2) + noise, 0, 1)
    if channels == 4:
        values[: height // 2, : width // 3, 3] = 0
        values[height // 2 :, width // 2 :, 3] = 1
    top = np.iinfo(dtype).max
    levels: Image = (values * top).round().astype(dtype)
    return levels[:, :, 0] if channels == 1 else levels


def farthest(one: Image, other: Image) -> int:
    """The largest difference of two images of one shape and dtype, in levels."""
    assert one.shape == other.shape
    assert one.dtype == other.dtype
    return int(np.abs(one.astype(np.int64) - other.astype(np.int64)).max())

"""RRDBNet, the residual-in-residual dense network of ESRGAN and Real-ESRGAN.

Sources: "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks" (Wang et al., ECCVW
2018); the names are those of ``basicsr/archs/rrdbnet_arch.py`` (BasicSR, Apache-2.0), which
Real-ESRGAN (BSD-3-Clause) uses too; the third upsampling convolution of x8 is that of
ai-forever/Real-ESRGAN (BSD-3-Clause). Written anew here.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

from resharp.models.padding import reflected

RESIDUAL_SCALE = 0.2
SLOPE = 0.2


def official_unshuffle(scale: int) -> int:
    """The pixel-unshuffle factor that BasicSR uses for a scale: 4 for x1, 2 for x2, else none."""
    return {1: 4, 2: 2}.get(scale, 1)


class ResidualDenseBlock(nn.Module):
    """Five 3x3 convolutions, each fed with all that came before it; float ``[n, f, h, w]``."""

    def __init__(self, num_feat: int, num_grow_ch: int) -> None:
        super().__init__()
        for index in range(5):
            outputs = num_grow_ch if index < 4 else num_feat
            convolution = _conv(num_feat + index * num_grow_ch, outputs)
            _start_small(convolution)
            self.add_module(f"conv{index + 1}", convolution)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` plus a fifth of what the five convolutions make of it."""
        *growing, last = self.children()
        seen = [x]
        for convolution in growing:
            seen.append(_activate(convolution(torch.cat(seen, 1) if len(seen) > 1 else x)))
        out: torch.Tensor = last(torch.cat(seen, 1))
        return out * RESIDUAL_SCALE + x


class RRDB(nn.Module):
    """Three dense blocks within one more residual connection; float ``[n, f, h, w]``."""

    def __init__(self, num_feat: int, num_grow_ch: int) -> None:
        super().__init__()
        self.rdb1 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.rdb2 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.rdb3 = ResidualDenseBlock(num_feat, num_grow_ch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` plus a fifth of what the three blocks make of it."""
        out: torch.Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return out * RESIDUAL_SCALE + x


class RRDBNet(nn.Module):
    """A trunk of RRDBs at low resolution, then a doubling by each upsampling convolution.

    Args:
        num_in_ch: channels of the input picture, before any pixel-unshuffle.
        num_out_ch: channels of the output.
        scale: output size over input size.
        num_feat: channels of the trunk.
        num_block: RRDBs in the trunk.
        num_grow_ch: channels that each dense convolution adds.
        unshuffle: pixel-unshuffle factor before the first convolution; ``None`` takes BasicSR's
            (4 for x1, 2 for x2, 1 otherwise). Older x1 and x2 networks have 1. There are
            ``log2(scale * unshuffle)`` upsampling convolutions.

    ``forward`` takes float RGB ``[n, num_in_ch, h, w]`` in 0..1, any h and w from 1, and returns
    ``[n, num_out_ch, h*scale, w*scale]``, not clamped.

    Raises:
        ValueError: ``scale * unshuffle`` is no power of two, or a number is below 1.
    """

    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        scale: int = 4,
        num_feat: int = 64,
        num_block: int = 23,
        num_grow_ch: int = 32,
        unshuffle: int | None = None,
    ) -> None:
        super().__init__()
        unshuffle = official_unshuffle(scale) if unshuffle is None else unshuffle
        if min(num_in_ch, num_out_ch, scale, num_feat, num_block, num_grow_ch, unshuffle) < 1:
            raise ValueError("every parameter of RRDBNet is at least 1")
        growth = scale * unshuffle
        if growth & (growth - 1):
            raise ValueError(f"scale {scale} times unshuffle {unshuffle} is no power of two")
        self.num_in_ch, self.num_out_ch = num_in_ch, num_out_ch
        self.scale, self.unshuffle = scale, unshuffle
        self.num_up = growth.bit_length() - 1
        self.conv_first = _conv(num_in_ch * unshuffle**2, num_feat)
        self.body = nn.Sequential(*(RRDB(num_feat, num_grow_ch) for _ in range(num_block)))
        self.conv_body = _conv(num_feat, num_feat)
        for index in range(1, self.num_up + 1):
            self.add_module(f"conv_up{index}", _conv(num_feat, num_feat))
        self.conv_hr = _conv(num_feat, num_feat)
        self.conv_last = _conv(num_feat, num_out_ch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Upscale float ``[n, c, h, w]`` to ``[n, num_out_ch, h*scale, w*scale]``."""
        if self.unshuffle == 1:
            return self._upscale(x)
        height, width = x.shape[2], x.shape[3]
        out = self._upscale(F.pixel_unshuffle(self._pad(x), self.unshuffle))
        return out[:, :, : height * self.scale, : width * self.scale]

    def _pad(self, x: torch.Tensor) -> torch.Tensor:
        # No `if`: a test of the size would be frozen into a traced graph. Not `-height % step`:
        # TensorRT-RTX 1.7 cannot infer shapes through a remainder.
        step, height, width = self.unshuffle, x.shape[2], x.shape[3]
        return reflected(x, (height + step - 1) // step * step, (width + step - 1) // step * step)

    def _upscale(self, x: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.conv_first(x)
        features = features + self.conv_body(self.body(features))
        for convolution in self._upsampling():
            features = F.interpolate(features, scale_factor=2.0, mode="nearest")
            features = _activate(convolution(features))
        out: torch.Tensor = self.conv_last(_activate(self.conv_hr(features)))
        return out

    def _upsampling(self) -> Iterator[nn.Module]:
        return (self.get_submodule(f"conv_up{index}") for index in range(1, self.num_up + 1))


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, 1, 1)


def _activate(x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, negative_slope=SLOPE)


def _start_small(convolution: nn.Conv2d) -> None:
    """Kaiming at a tenth (section 3.1 of the paper), so that a deep random trunk stays finite."""
    if convolution.weight.is_meta:  # nothing to fill, and trying would import sympy: a second
        return
    nn.init.kaiming_normal_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    with torch.no_grad():
        convolution.weight.mul_(0.1)

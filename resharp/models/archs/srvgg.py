"""SRVGGNetCompact, the small VGG-style super-resolution network of Real-ESRGAN.

Source: ``realesrgan/archs/srvgg_arch.py`` of xinntao/Real-ESRGAN (BSD-3-Clause), described in
"Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data" (Wang et al.,
ICCVW 2021). Written anew here; the state-dict names (``body.N.weight``, ``body.N.bias``) are the
official ones, so official checkpoints load.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

ACTIVATIONS = ("prelu", "relu", "leakyrelu")


def _activation(kind: str, channels: int) -> nn.Module:
    if kind == "prelu":
        return nn.PReLU(num_parameters=channels)
    if kind == "relu":
        return nn.ReLU()
    if kind == "leakyrelu":
        return nn.LeakyReLU(negative_slope=0.1)
    raise ValueError(f"act_type {kind!r} is not one of {', '.join(ACTIVATIONS)}")


class SRVGGNetCompact(nn.Module):
    """A chain of 3x3 convolutions at the input's resolution, then one pixel shuffle.

    Args:
        num_in_ch: channels of the input.
        num_out_ch: channels of the output.
        num_feat: channels between the convolutions.
        num_conv: convolutions between the first and the last one.
        upscale: scale factor s; the last convolution gives ``num_out_ch * s * s`` channels.
        act_type: ``prelu``, ``relu`` or ``leakyrelu``.

    ``forward`` takes float ``[n, c, h, w]`` in 0..1 and returns ``[n, c, h*s, w*s]``: the network
    learns the residual to nearest-neighbour upscaling.
    """

    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 64,
        num_conv: int = 16,
        upscale: int = 4,
        act_type: str = "prelu",
    ) -> None:
        super().__init__()
        self.num_in_ch, self.num_out_ch, self.upscale = num_in_ch, num_out_ch, upscale
        layers: list[nn.Module] = [
            nn.Conv2d(num_in_ch, num_feat, 3, 1, 1),
            _activation(act_type, num_feat),
        ]
        for _ in range(num_conv):
            layers += [nn.Conv2d(num_feat, num_feat, 3, 1, 1), _activation(act_type, num_feat)]
        layers.append(nn.Conv2d(num_feat, num_out_ch * upscale * upscale, 3, 1, 1))
        self.body = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Upscale float ``[n, c, h, w]`` to ``[n, c, h*upscale, w*upscale]``."""
        features = x
        for layer in self.body:
            features = layer(features)
        residual = F.pixel_shuffle(features, self.upscale)
        return residual + F.interpolate(x, scale_factor=float(self.upscale), mode="nearest")

"""SRVGGNetCompact, the small VGG-style super-resolution network of Real-ESRGAN.

Source: ``realesrgan/archs/srvgg_arch.py`` of xinntao/Real-ESRGAN (BSD-3-Clause), described in
"Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data" (Wang et al.,
ICCVW 2021). Reimplemented here; the state-dict names (``body.N.weight``, ``body.N.bias``) are the
official ones, so official checkpoints load.
"""

from __future__ import annotations

import logging
import re
from math import isqrt

import torch
from torch import nn
from torch.nn import functional as F

from resharp.checks import shown
from resharp.models.architecture import Architecture, Parameters, State, facts_named, size
from resharp.models.archs.layers import conv3x3

logger = logging.getLogger(__name__)

ACTIVATIONS = ("prelu", "relu", "leakyrelu")
_WEIGHT = re.compile(r"body\.(\d+)\.weight")


def _activation(kind: str, channels: int) -> nn.Module:
    if kind == "prelu":
        return nn.PReLU(num_parameters=channels)
    if kind == "relu":
        return nn.ReLU()
    if kind == "leakyrelu":
        return nn.LeakyReLU(negative_slope=0.1)
    raise ValueError(f"act_type must be one of {', '.join(ACTIVATIONS)}, got {shown(kind)}")


class SRVGGNetCompact(nn.Module):
    """A chain of 3x3 convolutions at the input's resolution, then one pixel shuffle.

    Args:
        num_in_ch: channels of the input.
        num_out_ch: channels of the output.
        num_feat: channels between the convolutions.
        num_conv: number of convolutions between the first and the last one.
        upscale: scale factor s; the last convolution has ``num_out_ch * s * s`` outputs.
        act_type: ``prelu``, ``relu`` or ``leakyrelu``.

    ``forward`` takes float ``[n, c, h, w]`` in 0..1 and returns ``[n, c, h*s, w*s]``: the network
    learns the residual to nearest-neighbor upscaling.
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
        layers = [conv3x3(num_in_ch, num_feat), _activation(act_type, num_feat)]
        for _ in range(num_conv):
            layers += [conv3x3(num_feat, num_feat), _activation(act_type, num_feat)]
        layers.append(conv3x3(num_feat, num_out_ch * upscale * upscale))
        self.body = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Upscale float ``[n, c, h, w]`` to ``[n, c, h*upscale, w*upscale]``."""
        features = x
        for layer in self.body:
            features = layer(features)
        residual = F.pixel_shuffle(features, self.upscale)
        return residual + F.interpolate(x, scale_factor=float(self.upscale), mode="nearest")


def matches(state: State) -> bool:
    """Return whether the body starts with a plain convolution."""
    first = state.get("body.0.weight")
    return first is not None and first.ndim == 4


def infer(state: State) -> Parameters:
    """Infer the parameters of the SRVGGNetCompact with these weights.

    The network adds its input, so it has as many output channels as input channels, and the last
    convolution has ``channels * upscale**2``. Activations with weights are PReLU. ReLU and
    LeakyReLU have no weights and cannot be distinguished: ``relu`` is assumed, with a warning in
    the log. No official file has either, so this is a guess; to override it, use
    ``read_checkpoint(path, parameters={"act_type": "leakyrelu"})``.
    """
    weights = {int(found[1]): state[name] for name in state if (found := _WEIGHT.fullmatch(name))}
    convolutions = [index for index, tensor in weights.items() if tensor.ndim == 4]
    channels = size(state, "body.0.weight", 1, 3)
    last = size(state, f"body.{max(convolutions, default=0)}.weight", 0, 16 * channels)
    has_prelu = not weights or any(tensor.ndim == 1 for tensor in weights.values())
    if not has_prelu:
        logger.warning(
            "SRVGGNetCompact has no activation weights: assuming relu. If it was trained with "
            "leakyrelu, set the parameter act_type=leakyrelu."
        )
    return {
        "num_in_ch": channels,
        "num_out_ch": channels,
        "num_feat": size(state, "body.0.weight", 0, 64),
        "num_conv": max(len(convolutions) - 2, 0) if weights else 16,
        "upscale": max(isqrt(last // max(channels, 1)), 1),
        "act_type": "prelu" if has_prelu else "relu",
    }


ARCHITECTURE = Architecture(
    build=SRVGGNetCompact,
    matches=matches,
    infer=infer,
    facts=facts_named(scale="upscale", channels=("num_in_ch", "num_out_ch")),
)

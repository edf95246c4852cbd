"""Layers shared by several networks.

Those from :func:`norm` on belong to the VQGAN networks for faces (CodeFormer, RestoreFormer) and
are prepared for half precision. Choosing a code from the codebook is a discrete decision: a little
noise can select another code and change that part of the face. Everything that leads to the choice
is therefore float32, regardless of the precision of the rest.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resharp.models.fp32_modules import Float32GroupNorm, KeepFP32

SLOPE = 0.2
"""Negative slope of leaky ReLUs."""
GROUPS = 32
EPS = 1e-6


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 3x3 convolution that preserves the size."""
    return nn.Conv2d(inputs, outputs, 3, 1, 1)


def conv_pair(channels: int) -> nn.Sequential:
    """Return two 3x3 convolutions with a leaky ReLU between them."""
    return nn.Sequential(
        conv3x3(channels, channels), nn.LeakyReLU(SLOPE), conv3x3(channels, channels)
    )


def leaky(x: Tensor) -> Tensor:
    """Apply a leaky ReLU with the slope that most of these networks use."""
    return F.leaky_relu(x, SLOPE)


def rounded_up(size: Any, multiple: int) -> Any:
    """Round a size, which is a tensor or a symbol under a tracer, up to a multiple.

    Not ``-size % multiple``: TensorRT-RTX 1.7 cannot infer shapes through a remainder.
    """
    return (size + multiple - 1) // multiple * multiple


def reflected(x: Tensor, tall: int, wide: int) -> Tensor:
    """Pad ``[n, c, h, w]`` to ``[n, c, tall, wide]`` at the bottom and right.

    Reflects without repeating the edge, like upstream's ``F.pad(..., "reflect")``, but for any
    size: if an image has too few rows to reflect, its first one is repeated. There is no branch,
    which a tracer would bake in, and no remainder (see :func:`rounded_up`).
    """
    rows = _sources(x.shape[2], tall, x.device)
    columns = _sources(x.shape[3], wide, x.device)
    return x.index_select(2, rows).index_select(3, columns)


def _sources(size: int, wanted: int, device: torch.device) -> Tensor:
    """Return the source row of each output row: 0, 1, ..., size - 1, size - 2, ..., 0, 0, ..."""
    index = torch.arange(wanted, device=device)
    return torch.minimum(index, 2 * (size - 1) - index).clamp(min=0)


def norm(channels: int) -> Float32GroupNorm:
    """Return the group normalization that both networks use."""
    return Float32GroupNorm(GROUPS, channels, eps=EPS)


def swish(x: Tensor) -> Tensor:
    """Return ``x * sigmoid(x)``."""
    return x * torch.sigmoid(x)


class ResBlock(nn.Module):
    """Twice norm, swish and 3x3 convolution, plus the input or a 1x1 convolution of it.

    Args:
        inputs: channels in.
        outputs: channels out.
        shortcut: name of the 1x1 convolution, which exists only if ``inputs != outputs``.
    """

    def __init__(self, inputs: int, outputs: int, shortcut: str) -> None:
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = conv3x3(inputs, outputs)
        self.norm2 = norm(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.shortcut = shortcut if inputs != outputs else ""
        if self.shortcut:
            self.add_module(shortcut, nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[n, inputs, h, w]`` to ``[n, outputs, h, w]``."""
        inner = self.conv1(swish(self.norm1(x)))
        out: Tensor = self.conv2(swish(self.norm2(inner)))
        return out + (self.get_submodule(self.shortcut)(x) if self.shortcut else x)


class Halve(nn.Module):
    """A 3x3 convolution with stride 2, after padding by one row and column of zeros."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the size of ``[n, c, h, w]``."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Double(nn.Module):
    """Nearest-neighbor upsampling by 2, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Double the size of ``[n, c, h, w]``."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Codebook(KeepFP32, nn.Module):
    """The table of learned codes, in float32."""

    def __init__(self, codes: int, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, length)
        nn.init.uniform_(self.embedding.weight, -1 / codes, 1 / codes)

    def forward(self, indices: Tensor, side: int) -> Tensor:
        """Map indices ``[n, side * side]`` to float32 features ``[n, length, side, side]``."""
        found: Tensor = self.embedding(indices)
        return found.transpose(1, 2).reshape(-1, found.shape[2], side, side)


def as_taken_by(features: Tensor, layer: nn.Module) -> Tensor:
    """Cast ``features`` to the dtype of a convolution; other layers cast by themselves."""
    return features.to(layer.weight.dtype) if isinstance(layer, nn.Conv2d) else features


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute attention of ``[..., tokens, length]`` in float32; return the dtype of ``value``.

    The query is scaled before the product, which then stays within the range of half precision even
    if a backend computes it in half precision.
    """
    scores = (query.float() * query.shape[-1] ** -0.5) @ key.float().transpose(-2, -1)
    found: Tensor = scores.softmax(-1) @ value.float()
    return found.to(value.dtype)

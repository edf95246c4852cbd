"""Parts that several networks share.

Those from :func:`norm` on are of the VQGAN networks for faces (CodeFormer, RestoreFormer), and
marked for half precision. Which code of the codebook a piece of a face gets is a decision: a little
noise tips it, and the piece is another one. So all that leads there is float32, whatever the
precision of the rest.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resharp.models.fp32_modules import Float32GroupNorm, KeepFP32

SLOPE = 0.2
"""Of leaky ReLUs."""
GROUPS = 32
EPS = 1e-6


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """A convolution that keeps the size."""
    return nn.Conv2d(inputs, outputs, 3, 1, 1)


def conv_pair(channels: int) -> nn.Sequential:
    """Two convolutions around a leaky ReLU."""
    return nn.Sequential(
        conv3x3(channels, channels), nn.LeakyReLU(SLOPE), conv3x3(channels, channels)
    )


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU as most of these networks have it."""
    return F.leaky_relu(x, SLOPE)


def rounded_up(size: Any, multiple: int) -> Any:
    """The next multiple of a size, which under a tracer is a tensor, or a symbol.

    Not ``-size % multiple``: TensorRT-RTX 1.7 cannot infer shapes through a remainder.
    """
    return (size + multiple - 1) // multiple * multiple


def reflected(x: Tensor, tall: int, wide: int) -> Tensor:
    """``[n, c, h, w]`` to ``[n, c, tall, wide]``: more rows and columns at the bottom and right.

    By reflection without the edge itself, as upstream's ``F.pad(..., "reflect")``, but for any
    size: where a picture has fewer rows than are wanted, its first one is repeated. No branch,
    which a tracer would bake, and no remainder (see :func:`rounded_up`).
    """
    rows = _sources(x.shape[2], tall, x.device)
    columns = _sources(x.shape[3], wide, x.device)
    return x.index_select(2, rows).index_select(3, columns)


def _sources(size: int, wanted: int, device: torch.device) -> Tensor:
    """Which row each row of the result is: 0, 1, ..., size - 1, size - 2, ..., 0, 0, ..."""
    index = torch.arange(wanted, device=device)
    return torch.minimum(index, 2 * (size - 1) - index).clamp(min=0)


def norm(channels: int) -> Float32GroupNorm:
    """Group normalisation as both networks have it."""
    return Float32GroupNorm(GROUPS, channels, eps=EPS)


def swish(x: Tensor) -> Tensor:
    """``x * sigmoid(x)``."""
    return x * torch.sigmoid(x)


class ResBlock(nn.Module):
    """Twice norm, swish and 3x3 convolution, beside the input or a 1x1 convolution of it.

    Args:
        inputs: channels in.
        outputs: channels out.
        shortcut: name of the 1x1 convolution, which is there where ``inputs != outputs``.
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
        """``[n, inputs, h, w]`` to ``[n, outputs, h, w]``."""
        inner = self.conv1(swish(self.norm1(x)))
        out: Tensor = self.conv2(swish(self.norm2(inner)))
        return out + (self.get_submodule(self.shortcut)(x) if self.shortcut else x)


class Halve(nn.Module):
    """A 3x3 convolution of stride 2 on a picture with one more row and column of zeros."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, c, h, w]`` to half the size."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Double(nn.Module):
    """Nearest-neighbour doubling and a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, c, h, w]`` to twice the size."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Codebook(KeepFP32, nn.Module):
    """The learned codes."""

    def __init__(self, codes: int, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, length)
        nn.init.uniform_(self.embedding.weight, -1 / codes, 1 / codes)

    def forward(self, indices: Tensor, side: int) -> Tensor:
        """Indices ``[n, side * side]`` to float32 features ``[n, length, side, side]``."""
        found: Tensor = self.embedding(indices)
        return found.transpose(1, 2).reshape(-1, found.shape[2], side, side)


def as_taken_by(features: Tensor, layer: nn.Module) -> Tensor:
    """``features`` in the type of a convolution's weights; as they are where it casts by itself."""
    return features.to(layer.weight.dtype) if isinstance(layer, nn.Conv2d) else features


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention in float32: ``[..., tokens, length]`` each; gives the type of ``value``.

    The query is scaled before the product, which then cannot leave the range of half precision
    even where a backend computes it so.
    """
    scores = (query.float() * query.shape[-1] ** -0.5) @ key.float().transpose(-2, -1)
    found: Tensor = scores.softmax(-1) @ value.float()
    return found.to(value.dtype)

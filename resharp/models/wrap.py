"""The module for pictures around a network, whichever network it is."""

from __future__ import annotations

from torch import Tensor, nn

from resharp.models.architectures import NetworkFacts
from resharp.models.face_io import ByteFace, FloatFace
from resharp.models.image_io import ByteImage, FloatImage

DTYPES = ("uint8", "float32")


def for_pictures(network: nn.Module, facts: NetworkFacts, dtype: str) -> nn.Module:
    """BGR pixels ``[n, h, w, 3]`` in and out, in eval mode.

    Args:
        network: what ``build`` gave, or such a network in another precision.
        facts: of its checkpoint.
        dtype: ``uint8``, or ``float32`` in 0..1.
    """
    small = dtype == "uint8"
    if facts.fixed_size is None:
        return (ByteImage if small else FloatImage)(network).eval()
    return (ByteFace if small else FloatFace)(network, facts.fixed_size).eval()


def planes(pixels: Tensor, facts: NetworkFacts) -> Tensor:
    """float32 BGR ``[n, h, w, 3]`` in 0..1 as a network takes it: ``[n, c, h, w]``, its range."""
    rgb = pixels.permute(0, 3, 1, 2).flip(1)
    if facts.in_channels == 1:
        return rgb.mean(1, keepdim=True)
    return rgb if facts.fixed_size is None else rgb * 2 - 1

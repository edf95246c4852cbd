"""The largest activation on the export picture, which says where GPUs begin: fp16 or mixed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resharp.drawing import draw, fitted, middle
from resharp.models import NetworkFacts, planes
from resharp.models.precision import choose_precision, peak

SIDE = 64
"""Of the picture measured on, where the network takes any size."""


def example(facts: NetworkFacts, picture: NDArray[Any] | None = None) -> Tensor:
    """Float planes ``[1, c, h, w]`` in the network's own range, to see that of activations on.

    Args:
        facts: of the network.
        picture: uint8 BGR photo, whose middle is used; None draws one.
    """
    side = facts.fixed_size or SIDE
    if picture is None:
        picture = draw(side, side)
    picture = middle(picture, side, side) if facts.fixed_size is None else fitted(picture, side)
    pixels = picture.astype(np.float32) / np.float32(255)
    return planes(torch.from_numpy(pixels[None]), facts)


def measure(
    network: nn.Module, facts: NetworkFacts, picture: NDArray[Any] | None = None
) -> tuple[float | None, str]:
    """The manifest's ``peak`` and ``engine_precision``: one run of the network in fp32.

    Args:
        network: in fp32, on the CPU.
        facts: of the network.
        picture: see :func:`example`.
    """
    largest, _ = peak(network, example(facts, picture))
    found = float(f"{largest:.6g}") if math.isfinite(largest) else None
    return found, choose_precision(largest)

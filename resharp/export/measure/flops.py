"""How much a network computes for each input pixel, counted without weights, pixels or time."""

from __future__ import annotations

import copy
import logging

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from resharp.models import NetworkFacts

log = logging.getLogger(__name__)

SIDE = 128
"""Of the picture counted on; larger than any window of attention, so that padding adds nothing."""


def per_pixel(network: nn.Module, facts: NetworkFacts) -> float | None:
    """Floating-point operations of convolutions, matrix products and attention, per input pixel.

    A multiplication and an addition are two. None for networks that do not run on shapes alone.

    Args:
        network: from planes to planes; it is left as it is.
        facts: of the network.
    """
    side = facts.fixed_size or SIDE
    shadow = copy.deepcopy(network).to("meta")
    planes = torch.empty((1, facts.in_channels, side, side), device="meta")
    extra = (torch.empty((1,), device="meta") for _ in facts.extra)
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            shadow(planes, *extra)
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        log.info("operations were not counted: %s", error)
        return None
    return counter.get_total_flops() / side**2

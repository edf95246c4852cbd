"""What a state dict says of an SRVGGNetCompact: there is one naming, ``body.N.weight``."""

from __future__ import annotations

import logging
import re
from math import isqrt

from torch import Tensor

from resharp.models.state import Parameters, State, size

log = logging.getLogger(__name__)

_WEIGHT = re.compile(r"body\.(\d+)\.weight")


def matches(state: State) -> bool:
    """Whether the body begins with a plain convolution."""
    first = state.get("body.0.weight")
    return first is not None and first.ndim == 4


def convert(state: State) -> dict[str, Tensor]:
    """The same tensors: their names are the official ones already."""
    return dict(state)


def infer(state: State) -> Parameters:
    """The parameters of the SRVGGNetCompact whose weights these are.

    The network adds its input, so it has as many output channels as input channels, and the last
    convolution has ``channels * upscale**2``. Activations with weights are PReLU. ReLU and
    LeakyReLU leave no weights behind and cannot be told apart: ``relu`` is taken, with a warning in
    the log. No official file has either, so this is a choice and no knowledge; where it is wrong,
    ``read_checkpoint(path, parameters={"act_type": "leakyrelu"})`` overrides it.
    """
    weights = {int(found[1]): state[name] for name in state if (found := _WEIGHT.fullmatch(name))}
    convolutions = [index for index, tensor in weights.items() if tensor.ndim == 4]
    channels = size(state, "body.0.weight", 1, 3)
    last = size(state, f"body.{max(convolutions, default=0)}.weight", 0, 16 * channels)
    return {
        "num_in_ch": channels,
        "num_out_ch": channels,
        "num_feat": size(state, "body.0.weight", 0, 64),
        "num_conv": max(len(convolutions) - 2, 0) if weights else 16,
        "upscale": max(isqrt(last // max(channels, 1)), 1),
        "act_type": _activation(weights),
    }


def _activation(weights: dict[int, Tensor]) -> str:
    if not weights or any(tensor.ndim == 1 for tensor in weights.values()):
        return "prelu"
    log.warning(
        "SRVGGNetCompact without activation weights: taken for relu; leakyrelu is possible too, "
        'and parameters={"act_type": "leakyrelu"} chooses it'
    )
    return "relu"

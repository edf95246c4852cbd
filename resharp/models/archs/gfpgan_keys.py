"""What a state dict says of a GFPGANv1Clean: there is one naming, the official one.

The release files hold ``params_ema`` (and training files ``params`` too); upstream's ``GFPGANer``
takes the first of these, as ``read_checkpoint`` does. Older GFPGAN 1 files (``GFPGANv1.pth``) are
another network, with CUDA operators and ``conv_body_first.0``.
"""

from __future__ import annotations

import re

from torch import Tensor

from resharp.errors import UnknownArchitectureError
from resharp.models.state import Parameters, State, size

_DOWN = re.compile(r"conv_body_down\.\d+\.conv1\.weight")
_MLP = re.compile(r"stylegan_decoder\.style_mlp\.\d+\.weight")
_OLD = "conv_body_first.0.weight"
_DECODER = "stylegan_decoder.constant_input.weight"


def matches(state: State) -> bool:
    """Whether there is a StyleGAN2 decoder and a U-Net before it."""
    return _DECODER in state and ("conv_body_first.weight" in state or _OLD in state)


def convert(state: State) -> dict[str, Tensor]:
    """The same tensors: their names are the official ones already.

    Raises:
        UnknownArchitectureError: the first GFPGAN, which is another network.
    """
    if _OLD in state:
        raise UnknownArchitectureError(
            "these are the weights of the first GFPGAN (GFPGANv1), which resharp does not have: "
            "use gfpgan-v1.3 or gfpgan-v1.4"
        )
    return dict(state)


def infer(state: State) -> Parameters:
    """The parameters of the GFPGANv1Clean whose weights these are."""
    halvings = sum(1 for name in state if _DOWN.fullmatch(name)) if state else 7
    features = size(state, _DECODER, 1, 512)
    first = "stylegan_decoder.style_conv1.modulated_conv.modulation.weight"
    wide = size(state, "stylegan_decoder.to_rgbs.3.modulated_conv.weight", 2, features)
    return {
        "out_size": 4 << min(max(halvings, 1), 8),
        "num_style_feat": size(state, first, 1, 512),
        "channel_multiplier": max(2 * wide // max(features, 1), 1),
        "num_mlp": sum(1 for name in state if _MLP.fullmatch(name)) if state else 8,
        "num_feat": features,
    }

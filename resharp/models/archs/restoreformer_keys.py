"""What a state dict says of a RestoreFormer: the official names, with or without ``vqvae.``.

GFPGAN's release file has the bare names under ``params``; the authors' own checkpoints have them
under ``state_dict`` with the prefix, beside the networks of their losses, which are dropped.
"""

from __future__ import annotations

import re

from torch import Tensor

from resharp.models.state import Parameters, State, size

PREFIX = "vqvae."
_DOWN = re.compile(r"encoder\.down\.(\d+)\.block\.0\.conv1\.weight")
_BLOCK = re.compile(r"encoder\.down\.0\.block\.(\d+)\.conv1\.weight")
OFFICIAL: Parameters = {
    "resolution": 512,
    "ch": 64,
    "ch_mult": "1,2,2,4,4,8",
    "num_res_blocks": 2,
    "n_embed": 1024,
    "embed_dim": 256,
    "z_channels": 256,
    "head_size": 8,
}
SMALLEST = 16
"""Side of the codes in the official network; weights do not tell."""


def matches(state: State) -> bool:
    """Whether there are an encoder, a codebook and a decoder that attends to two norms."""
    names = convert(state)
    wanted = ("encoder.conv_in.weight", "quantize.embedding.weight", "quant_conv.weight")
    return all(name in names for name in wanted) and "decoder.mid.attn_1.norm2.weight" in names


def convert(state: State) -> dict[str, Tensor]:
    """The same tensors under their official names, without those of the losses."""
    if not any(name.startswith(PREFIX) for name in state):
        return dict(state)
    return {
        name.removeprefix(PREFIX): tensor
        for name, tensor in state.items()
        if name.startswith(PREFIX)
    }


def infer(state: State) -> Parameters:
    """The parameters of the RestoreFormer whose weights these are.

    Weights tell neither the number of attention heads, which is the official 8, nor the size of the
    pictures, which is taken for 16 at the smallest. ``parameters`` overrule.
    """
    if not state:
        return dict(OFFICIAL)
    ch = max(size(state, "encoder.conv_in.weight", 0, 64), 1)
    levels = [int(found[1]) for name in state if (found := _DOWN.fullmatch(name))]
    widths = [
        size(state, f"encoder.down.{level}.block.0.conv2.weight", 0, ch)
        for level in range(len(levels) or 1)
    ]
    return {
        "resolution": SMALLEST << len(widths) - 1,
        "ch": ch,
        "ch_mult": ",".join(str(max(width // ch, 1)) for width in widths),
        "num_res_blocks": sum(1 for name in state if _BLOCK.fullmatch(name)),
        "n_embed": size(state, "quantize.embedding.weight", 0, 1024),
        "embed_dim": size(state, "quantize.embedding.weight", 1, 256),
        "z_channels": size(state, "quant_conv.weight", 1, 256),
        "head_size": 8,
    }

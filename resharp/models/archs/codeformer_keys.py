"""What a state dict says of a CodeFormer: there is one naming, the official one.

The release file holds ``params_ema``, which ``read_checkpoint`` takes first.
"""

from __future__ import annotations

import re
from math import isqrt

from torch import Tensor

from resharp.models.state import Parameters, State, size

_HALVE = re.compile(r"encoder\.blocks\.(\d+)\.conv\.weight")
_BLOCK = re.compile(r"encoder\.blocks\.(\d+)\.conv1\.weight")
_LAST = re.compile(r"encoder\.blocks\.(\d+)\.weight")
_LAYER = re.compile(r"ft_layers\.(\d+)\.linear1\.weight")
_FUSE = re.compile(r"fuse_convs_dict\.(\d+)\.scale\.0\.weight")
OFFICIAL: Parameters = {
    "img_size": 512,
    "nf": 64,
    "ch_mult": "1,2,2,4,4,8",
    "res_blocks": 2,
    "emb_dim": 256,
    "codebook_size": 1024,
    "dim_embd": 512,
    "n_head": 8,
    "n_layers": 9,
    "connect": "32,64,128,256",
}


def matches(state: State) -> bool:
    """Whether there are a position embedding, an encoder in one list, and a transformer."""
    wanted = ("position_emb", "encoder.blocks.0.weight", "idx_pred_layer.1.weight")
    return all(name in state for name in wanted)


def convert(state: State) -> dict[str, Tensor]:
    """The same tensors: their names are the official ones already."""
    return dict(state)


def infer(state: State) -> Parameters:
    """The parameters of the CodeFormer whose weights these are.

    Weights do not tell the number of attention heads: it is the official 8, unless
    ``read_checkpoint(path, parameters={"n_head": 4})`` overrules it.
    """
    if not state:
        return dict(OFFICIAL)
    nf = max(size(state, "encoder.blocks.0.weight", 0, 64), 1)
    halves = sorted(_indices(state, _HALVE))
    tokens = size(state, "position_emb", 0, 256)
    ends = [f"encoder.blocks.{index}.conv.weight" for index in halves]
    ends.append(f"encoder.blocks.{max(_indices(state, _LAST), default=0)}.weight")
    blocks = [index for index in _indices(state, _BLOCK) if index < min(halves, default=0)]
    return {
        "img_size": max(isqrt(tokens), 1) << len(halves),
        "nf": nf,
        "ch_mult": ",".join(str(max(size(state, name, 1, nf) // nf, 1)) for name in ends),
        "res_blocks": len(blocks) or 2,
        "emb_dim": size(state, "quantize.embedding.weight", 1, 256),
        "codebook_size": size(state, "quantize.embedding.weight", 0, 1024),
        "dim_embd": size(state, "position_emb", 1, 512),
        "n_head": 8,
        "n_layers": len(_indices(state, _LAYER)),
        "connect": ",".join(str(side) for side in sorted(_indices(state, _FUSE))),
    }


def _indices(state: State, pattern: re.Pattern[str]) -> list[int]:
    return [int(found[1]) for name in state if (found := pattern.fullmatch(name))]

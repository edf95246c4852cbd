"""What a state dict says of a SwinIR: there is one naming, and everything but a range is in it."""

from __future__ import annotations

import re
from math import isqrt

import torch
from torch import Tensor

from resharp.models.archs.swinir import position_index
from resharp.models.state import Parameters, State, size

JPEG_WINDOW = 7
"""Only upstream's JPEG networks have this window size, and only they work on 0..255."""

_BLOCK = re.compile(r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.(.+)")
_TABLE = "attn.relative_position_bias_table"
_INDEX = ".attn.relative_position_index"
_MASK = ".attn_mask"
_LARGEST = 64
"""Window sizes beyond this are damage."""


def matches(state: State) -> bool:
    """Whether any Swin block has a table of position biases."""
    return any((found := _BLOCK.fullmatch(name)) and found[3] == _TABLE for name in state)


def convert(state: State) -> dict[str, Tensor]:
    """The weights without the tables that upstream stores beside them.

    ``attn_mask`` belongs to the size of the training crops. ``relative_position_index`` follows
    from the window size; one that says something else is kept, so that the comparison refuses it.
    """
    kept = {}
    for name, tensor in state.items():
        if _BLOCK.fullmatch(name) and (name.endswith(_MASK) or _is_index(name, tensor)):
            continue
        kept[name] = tensor
    return kept


def infer(state: State) -> Parameters:
    """The parameters of the SwinIR whose official names these are.

    ``img_range`` leaves no trace in the weights. As spandrel (MIT) does, 255 is taken with a window
    of 7, upstream's JPEG networks, and 1 otherwise; where that is wrong,
    ``read_checkpoint(path, parameters={"img_range": 1})`` overrules it.
    """
    dim = max(size(state, "conv_first.weight", 0, 180), 1)
    channels = size(state, "conv_first.weight", 1, 3)
    feat = size(state, "conv_before_upsample.0.weight", 0, 64)
    first = "layers.0.residual_group.blocks.0"
    window = (isqrt(size(state, f"{first}.{_TABLE}", 0, 225)) + 1) // 2
    upsampler, upscale = _upsampling(state, channels, feat) if state else ("pixelshuffle", 4)
    depths, heads = _layers(state, dim)
    return {
        "in_chans": channels,
        "embed_dim": dim,
        "depths": ",".join(map(str, depths)),
        "num_heads": ",".join(map(str, heads)),
        "window_size": min(max(window, 1), _LARGEST),
        "mlp_dim": size(state, f"{first}.mlp.fc1.weight", 0, 2 * dim),
        "upscale": upscale,
        "img_range": 255 if window == JPEG_WINDOW else 1,
        "upsampler": upsampler,
        "resi_connection": "3conv" if "conv_after_body.0.weight" in state else "1conv",
        "num_feat": feat,
    }


def _is_index(name: str, tensor: Tensor) -> bool:
    side = isqrt(tensor.shape[0]) if tensor.ndim == 2 else 0
    if not name.endswith(_INDEX) or not 0 < side <= _LARGEST or tensor.shape != (side**2,) * 2:
        return False
    return tensor.is_meta or torch.equal(tensor.long(), position_index(side))


def _layers(state: State, dim: int) -> tuple[list[int], list[int]]:
    """Blocks and attention heads of each RSTB."""
    blocks: dict[int, set[int]] = {}
    for name in state:
        if found := _BLOCK.fullmatch(name):
            blocks.setdefault(int(found[1]), set()).add(int(found[2]))
    if not blocks:
        return [6] * 6, [6 if dim % 6 == 0 else 1] * 6
    tables = (f"layers.{layer}.residual_group.blocks.0.{_TABLE}" for layer in sorted(blocks))
    heads = [size(state, table, 1, 1) for table in tables]
    depths = [len(blocks[layer]) for layer in sorted(blocks)]
    return depths, [count if count and dim % count == 0 else 1 for count in heads]


def _upsampling(state: State, channels: int, feat: int) -> tuple[str, int]:
    """The upsampler, and the scale that its convolutions make."""
    if "conv_up1.weight" in state:
        return "nearest+conv", 2 ** sum(f"conv_up{index}.weight" in state for index in range(1, 9))
    if "conv_before_upsample.0.weight" in state:
        if size(state, "upsample.0.weight", 0, 0) == 9 * feat:
            return "pixelshuffle", 3
        steps = sum(f"upsample.{2 * index}.weight" in state for index in range(8))
        return "pixelshuffle", 2**steps
    if "upsample.0.weight" in state:
        outputs = size(state, "upsample.0.weight", 0, 0) // max(channels, 1)
        return "pixelshuffledirect", max(isqrt(outputs), 1)
    return "", 1

"""What a state dict says of an RRDBNet: its three namings, and the network's parameters.

========================  ===================================  ===============================
official (BasicSR)        first ESRGAN release, BSRGAN         oldest ESRGAN, community files
========================  ===================================  ===============================
conv_first                conv_first                           model.0
body.N.rdb1.conv1         RRDB_trunk.N.RDB1.conv1              model.1.sub.N.RDB1.conv1.0
conv_body                 trunk_conv                           model.1.sub.<number of blocks>
conv_up1, conv_up2 ...    upconv1, upconv2 ...                 model.3, model.6 ...
conv_hr                   HRconv                               model.<last upsampling + 2>
conv_last                 conv_last                            model.<last upsampling + 4>
========================  ===================================  ===============================

The oldest naming counts the layers of one ``nn.Sequential``: each doubling is (upsample,
convolution, activation), so the numbers give the scale. Which files have which naming was read off
chaiNNer-org/spandrel (MIT).
"""

from __future__ import annotations

import re

from torch import Tensor

from resharp.errors import UnknownArchitectureError
from resharp.models.state import Parameters, State, size

_BLOCK = re.compile(
    r"(?:body|RRDB_trunk|model\.1\.sub)\.(\d+)\.(?:rdb|RDB)([123])\.conv([1-5])"
    r"(?:\.0)?\.(weight|bias)"
)
_OLD_TRUNK = re.compile(r"model\.1\.sub\.\d+\.(weight|bias)")
_OLD_LAYER = re.compile(r"model\.(\d+)\.(weight|bias)")
_RENAMED = re.compile(r"(trunk_conv|HRconv|upconv\d+)\.(weight|bias)")
_NEW_NAMES = {"trunk_conv": "conv_body", "HRconv": "conv_hr"}
_UPSAMPLING = re.compile(r"conv_up\d+\.weight")


def matches(state: State) -> bool:
    """Whether any tensor is part of a residual dense block, in any of the three namings."""
    return any(_BLOCK.fullmatch(name) or ".conv1x1." in name for name in state)


def convert(state: State) -> dict[str, Tensor]:
    """The same tensors under their official names; unknown names stay as they are.

    Raises:
        UnknownArchitectureError: an ESRGAN+ network, which has further convolutions.
    """
    if extra := [name for name in state if ".conv1x1." in name]:
        raise UnknownArchitectureError(
            f"these are the weights of an ESRGAN+ network ({extra[0]} and {len(extra) - 1} more), "
            "which resharp does not have: use an ESRGAN or Real-ESRGAN checkpoint"
        )
    layers = _old_layers(state)
    return {_official(name, layers): tensor for name, tensor in state.items()}


def infer(state: State) -> Parameters:
    """The parameters of the RRDBNet whose official names these are.

    A first convolution with 4 or 16 times as many channels as there are output channels means a
    pixel-unshuffle by 2 or 4 ("plus" models); the scale is what the upsampling then makes of it.
    The oldest x3 networks have the names of x2 and cannot be told from them.
    """
    outputs = size(state, "conv_last.weight", 0, 3)
    inputs = size(state, "conv_first.weight", 1, 3)
    doublings = sum(1 for name in state if _UPSAMPLING.fullmatch(name)) if state else 2
    unshuffle = {4 * outputs: 2, 16 * outputs: 4}.get(inputs, 1)
    if 2**doublings < unshuffle:
        unshuffle = 1
    blocks = {found[1] for name in state if (found := _BLOCK.fullmatch(name))}
    return {
        "num_in_ch": inputs // unshuffle**2,
        "num_out_ch": outputs,
        "scale": 2**doublings // unshuffle,
        "num_feat": size(state, "conv_first.weight", 0, 64),
        "num_block": len(blocks) or 23,
        "num_grow_ch": size(state, "body.0.rdb1.conv1.weight", 0, 32),
        "unshuffle": unshuffle,
    }


def _official(name: str, layers: dict[str, str]) -> str:
    if found := _BLOCK.fullmatch(name):
        block, dense, convolution, kind = found.groups()
        return f"body.{block}.rdb{dense}.conv{convolution}.{kind}"
    if found := _OLD_TRUNK.fullmatch(name):
        return f"conv_body.{found[1]}"
    if found := _OLD_LAYER.fullmatch(name):
        return f"{layers[found[1]]}.{found[2]}" if found[1] in layers else name
    if found := _RENAMED.fullmatch(name):
        new = _NEW_NAMES.get(found[1]) or found[1].replace("upconv", "conv_up")
        return f"{new}.{found[2]}"
    return name


def _old_layers(state: State) -> dict[str, str]:
    """Official names by layer number of the oldest naming; empty where it is not used."""
    numbers = [int(found[1]) for name in state if (found := _OLD_LAYER.fullmatch(name))]
    if not numbers:
        return {}
    doublings = max(max(numbers) - 4, 0) // 3
    names = {"0": "conv_first"} | {str(3 * i): f"conv_up{i}" for i in range(1, doublings + 1)}
    return names | {str(3 * doublings + 2): "conv_hr", str(3 * doublings + 4): "conv_last"}

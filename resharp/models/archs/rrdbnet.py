"""RRDBNet, the residual-in-residual dense network of ESRGAN and Real-ESRGAN.

Sources: "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks" (Wang et al., ECCVW
2018); the names are those of ``basicsr/archs/rrdbnet_arch.py`` (BasicSR, Apache-2.0), which
Real-ESRGAN (BSD-3-Clause) uses too; the third upsampling convolution of x8 is that of
ai-forever/Real-ESRGAN (BSD-3-Clause). Reimplemented here.

State dicts use one of three namings:

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

The oldest naming numbers the layers of one ``nn.Sequential``: each doubling is (upsample,
convolution, activation), so the numbers determine the scale. Which files have which naming was
taken from chaiNNer-org/spandrel (MIT).
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resharp.errors import UnknownArchitectureError
from resharp.models.architecture import (
    Architecture,
    Parameters,
    State,
    facts_named,
    indices,
    size,
)
from resharp.models.archs.layers import conv3x3, leaky, reflected, rounded_up

RESIDUAL_SCALE = 0.2
_BLOCK = re.compile(
    r"(?:body|RRDB_trunk|model\.1\.sub)\.(\d+)\.(?:rdb|RDB)([123])\.conv([1-5])"
    r"(?:\.0)?\.(weight|bias)"
)
_OLD_TRUNK = re.compile(r"model\.1\.sub\.\d+\.(weight|bias)")
_OLD_LAYER = re.compile(r"model\.(\d+)\.(weight|bias)")
_RENAMED = re.compile(r"(trunk_conv|HRconv|upconv\d+)\.(weight|bias)")
_NEW_NAMES = {"trunk_conv": "conv_body", "HRconv": "conv_hr"}
_UPSAMPLING = re.compile(r"conv_up(\d+)\.weight")


def official_unshuffle(scale: int) -> int:
    """Return BasicSR's pixel-unshuffle factor for a scale: 4 for x1, 2 for x2, otherwise 1."""
    return {1: 4, 2: 2}.get(scale, 1)


class ResidualDenseBlock(nn.Module):
    """Five 3x3 convolutions, each of which receives all earlier outputs; float ``[n, f, h, w]``."""

    def __init__(self, num_feat: int, num_grow_ch: int) -> None:
        super().__init__()
        for index in range(5):
            outputs = num_grow_ch if index < 4 else num_feat
            convolution = conv3x3(num_feat + index * num_grow_ch, outputs)
            _start_small(convolution)
            self.add_module(f"conv{index + 1}", convolution)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` plus a fifth of the output of the five convolutions."""
        *growing, last = self.children()
        seen = [x]
        for convolution in growing:
            seen.append(leaky(convolution(torch.cat(seen, 1) if len(seen) > 1 else x)))
        out: Tensor = last(torch.cat(seen, 1))
        return out * RESIDUAL_SCALE + x


class RRDB(nn.Module):
    """Three dense blocks within another residual connection; float ``[n, f, h, w]``."""

    def __init__(self, num_feat: int, num_grow_ch: int) -> None:
        super().__init__()
        self.rdb1 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.rdb2 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.rdb3 = ResidualDenseBlock(num_feat, num_grow_ch)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` plus a fifth of the output of the three blocks."""
        out: Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return out * RESIDUAL_SCALE + x


class RRDBNet(nn.Module):
    """A trunk of RRDBs at low resolution, then upsampling convolutions that double the size.

    Args:
        num_in_ch: channels of the input image, before any pixel-unshuffle.
        num_out_ch: channels of the output.
        scale: output size over input size.
        num_feat: channels of the trunk.
        num_block: RRDBs in the trunk.
        num_grow_ch: channels added by each dense convolution.
        unshuffle: pixel-unshuffle factor before the first convolution; ``None`` uses BasicSR's
            (4 for x1, 2 for x2, 1 otherwise). Older x1 and x2 networks use 1. There are
            ``log2(scale * unshuffle)`` upsampling convolutions.

    ``forward`` takes float RGB ``[n, num_in_ch, h, w]`` in 0..1, any h and w from 1, and returns
    ``[n, num_out_ch, h*scale, w*scale]``, not clamped.

    Raises:
        ValueError: ``scale * unshuffle`` is not a power of two, or a number is below 1.
    """

    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        scale: int = 4,
        num_feat: int = 64,
        num_block: int = 23,
        num_grow_ch: int = 32,
        unshuffle: int | None = None,
    ) -> None:
        super().__init__()
        unshuffle = official_unshuffle(scale) if unshuffle is None else unshuffle
        if min(num_in_ch, num_out_ch, scale, num_feat, num_block, num_grow_ch, unshuffle) < 1:
            raise ValueError("every parameter of RRDBNet must be at least 1")
        growth = scale * unshuffle
        if growth & (growth - 1):
            raise ValueError(f"scale * unshuffle must be a power of two, got {scale} * {unshuffle}")
        self.num_in_ch, self.num_out_ch = num_in_ch, num_out_ch
        self.scale, self.unshuffle = scale, unshuffle
        self.num_up = growth.bit_length() - 1
        self.conv_first = conv3x3(num_in_ch * unshuffle**2, num_feat)
        self.body = nn.Sequential(*(RRDB(num_feat, num_grow_ch) for _ in range(num_block)))
        self.conv_body = conv3x3(num_feat, num_feat)
        for index in range(1, self.num_up + 1):
            self.add_module(f"conv_up{index}", conv3x3(num_feat, num_feat))
        self.conv_hr = conv3x3(num_feat, num_feat)
        self.conv_last = conv3x3(num_feat, num_out_ch)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale float ``[n, c, h, w]`` to ``[n, num_out_ch, h*scale, w*scale]``."""
        if self.unshuffle == 1:
            return self._upscale(x)
        # No `if` on the sizes: a traced graph would freeze its outcome.
        height, width, step = x.shape[2], x.shape[3], self.unshuffle
        padded = reflected(x, rounded_up(height, step), rounded_up(width, step))
        out = self._upscale(F.pixel_unshuffle(padded, step))
        return out[:, :, : height * self.scale, : width * self.scale]

    def _upscale(self, x: Tensor) -> Tensor:
        features: Tensor = self.conv_first(x)
        features = features + self.conv_body(self.body(features))
        for index in range(1, self.num_up + 1):
            features = F.interpolate(features, scale_factor=2.0, mode="nearest")
            features = leaky(self.get_submodule(f"conv_up{index}")(features))
        out: Tensor = self.conv_last(leaky(self.conv_hr(features)))
        return out


def _start_small(convolution: nn.Conv2d) -> None:
    """Scale Kaiming weights by 0.1 (section 3.1 of the paper), which keeps a deep trunk finite."""
    if convolution.weight.is_meta:  # nothing to fill, and sympy would be imported: 1 s
        return
    nn.init.kaiming_normal_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    with torch.no_grad():
        convolution.weight.mul_(0.1)


def matches(state: State) -> bool:
    """Return whether any tensor is part of a residual dense block, in any of the three namings."""
    return any(_BLOCK.fullmatch(name) or ".conv1x1." in name for name in state)


def convert(state: State) -> dict[str, Tensor]:
    """Return the same tensors under their official names; unknown names are kept.

    Raises:
        UnknownArchitectureError: the network is ESRGAN+, which has additional convolutions.
    """
    if extra := [name for name in state if ".conv1x1." in name]:
        raise UnknownArchitectureError(
            f"these are weights of an ESRGAN+ network ({extra[0]} and {len(extra) - 1} more), "
            "which resharp does not support: use an ESRGAN or Real-ESRGAN checkpoint"
        )
    layers = _old_layers(state)
    return {_official(name, layers): tensor for name, tensor in state.items()}


def infer(state: State) -> Parameters:
    """Infer the parameters of the RRDBNet with these official names.

    A first convolution with 4 or 16 times as many channels as there are output channels means a
    pixel-unshuffle by 2 or 4 ("plus" models); the scale is the upsampling divided by that factor.
    The oldest x3 networks have the same names as x2 and cannot be distinguished from them.
    """
    outputs = size(state, "conv_last.weight", 0, 3)
    inputs = size(state, "conv_first.weight", 1, 3)
    doublings = len(indices(state, _UPSAMPLING))
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
    """Return official names by layer number of the oldest naming; empty if it is not used."""
    numbers = indices(state, _OLD_LAYER)
    if not numbers:
        return {}
    doublings = max(max(numbers) - 4, 0) // 3
    names = {"0": "conv_first"} | {str(3 * i): f"conv_up{i}" for i in range(1, doublings + 1)}
    return names | {str(3 * doublings + 2): "conv_hr", str(3 * doublings + 4): "conv_last"}


ARCHITECTURE = Architecture(
    build=RRDBNet,
    matches=matches,
    convert=convert,
    infer=infer,
    facts=facts_named(scale="scale", channels=("num_in_ch", "num_out_ch"), multiple="unshuffle"),
)

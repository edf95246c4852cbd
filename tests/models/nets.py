"""Tiny random networks, and their weights under the names of older releases."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resharp.models import Checkpoint, RRDBNet, SRVGGNetCompact, read_checkpoint


def rrdbnet(scale: int = 4, *, seed: int = 0, **parameters: Any) -> RRDBNet:
    """One block of 8 channels by default."""
    torch.manual_seed(seed)
    small: dict[str, Any] = {"num_feat": 8, "num_block": 1, "num_grow_ch": 4}
    return RRDBNet(scale=scale, **(small | parameters)).eval()


def srvgg(*, seed: int = 0, **parameters: Any) -> SRVGGNetCompact:
    """Two middle convolutions of 8 channels by default."""
    torch.manual_seed(seed)
    return SRVGGNetCompact(**({"num_feat": 8, "num_conv": 2} | parameters)).eval()


def run(network: nn.Module, height: int = 6, width: int = 7, channels: int = 3) -> Tensor:
    """The network's answer to one fixed random image."""
    picture = torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out: Tensor = network(picture)
    return out


def checkpoint(network: nn.Module, folder: Path, name: str = "net.pth") -> Checkpoint:
    """The network, saved as upstream does and read back."""
    torch.save({"params_ema": network.state_dict()}, folder / name)
    return read_checkpoint(folder / name)


def community_names(state: Mapping[str, Tensor], *, inner: str = ".0") -> dict[str, Tensor]:
    """Official names to those of the first ESRGAN code, which community files still have."""
    ups = sum(1 for name in state if re.fullmatch(r"conv_up\d\.weight", name))
    blocks = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("body."))
    layers = {"conv_first": 0, "conv_hr": 3 * ups + 2, "conv_last": 3 * ups + 4}
    layers |= {f"conv_up{number}": 3 * number for number in range(1, ups + 1)}
    renamed = {}
    for name, tensor in state.items():
        stem, _, kind = name.rpartition(".")
        if stem == "conv_body":
            stem = f"model.1.sub.{blocks}"
        elif stem.startswith("body."):
            stem = stem.replace("body.", "model.1.sub.").replace("rdb", "RDB") + inner
        else:
            stem = f"model.{layers[stem]}"
        renamed[f"{stem}.{kind}"] = tensor
    return renamed


def release_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names to those of the ESRGAN repository's release."""
    pairs = (("conv_body", "trunk_conv"), ("body.", "RRDB_trunk."), ("rdb", "RDB"))
    renamed = {}
    for name, tensor in state.items():
        new = name.replace("conv_up", "upconv").replace("conv_hr", "HRconv")
        for official, old in pairs:
            new = new.replace(official, old)
        renamed[new] = tensor
    return renamed

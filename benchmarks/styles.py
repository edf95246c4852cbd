"""``python -m benchmarks.styles PHOTOS``: GFPGAN's styles from 1e-3 to 3000 in half precision.

Ours beside StyleGAN2's own way to write the modulated convolution, which GFPGAN has: weights are
scaled by the styles and divided by the root of their summed squares, all of it in half.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import json_option, load, photos_argument, report
from benchmarks.truth import faces
from resharp.models import GFPGANv1Clean, find, planes
from resharp.models.archs.gfpgan import ModulatedConv2d
from resharp.models.precision import with_precision

MAGNITUDES = (1e-3, 0.03, 1.0, 30.0, 300.0, 3000.0)
"""Mean absolute style of each convolution."""
LIMIT = 1e-2
"""Largest error of a layer allowed, over the deviation of its result."""
COLUMNS = (
    "magnitude",
    "layer: ours",
    "layer: upstream's way",
    "network: ours",
    "network: upstream's way",
)


def upstream(conv: ModulatedConv2d, x: Tensor, style: Tensor) -> Tensor:
    """The modulated convolution of StyleGAN2, in the type of ``x``."""
    kind, count = x.dtype, len(x)
    own = conv.modulation
    styles = F.linear(style.to(kind), own.weight.to(kind), own.bias.to(kind))
    weight = conv.weight.to(kind) * styles[:, None, :, None, None]
    if conv.demodulate:
        power = weight.square().sum((2, 3, 4), keepdim=True)
        weight = weight * torch.rsqrt(power + 1e-8)
    grouped = weight.flatten(0, 1)
    height, width = x.shape[2:]
    out = F.conv2d(
        x.reshape(1, -1, height, width), grouped, padding=weight.shape[-1] // 2, groups=count
    )
    return out.reshape(count, -1, height, width)


class Upstream(nn.Module):
    """Upstream's way in place of ours."""

    def __init__(self, conv: ModulatedConv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, style: Tensor, gain: float = 1.0) -> Tensor:
        """As :class:`ModulatedConv2d`."""
        return upstream(self.conv, x, style) * gain


def scaled(network: nn.Module, given: Tensor, magnitude: float) -> tuple[nn.Module, Tensor]:
    """A copy whose styles have that mean absolute size on a face, and its fp32 result."""
    own = copy.deepcopy(network).requires_grad_(False)

    def scale(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        factor = magnitude / out.abs().mean()
        for one in module.parameters():
            one.mul_(factor)
        return out * factor

    convs = [one for one in own.modules() if isinstance(one, ModulatedConv2d)]
    handles = [conv.modulation.register_forward_hook(scale) for conv in convs]
    with torch.no_grad():
        exact = own(given)
    for handle in handles:
        handle.remove()
    return own, exact


def layer(magnitude: float) -> tuple[Tensor, Tensor, Tensor]:
    """A convolution of the full network: float64 in upstream's way, ours and theirs in half."""
    torch.manual_seed(0)
    conv = ModulatedConv2d(512, 512, 3, 512).requires_grad_(False)
    conv.modulation.bias.zero_()
    style, x = torch.randn(1, 512), torch.randn(1, 512, 16, 16)
    style *= magnitude / conv.modulation(style).abs().mean()
    exact = upstream(conv, x.double(), style.double())
    half = copy.deepcopy(conv).half()
    return exact, half(x.half(), style.half()), upstream(half, x.half(), style.half())


@contextmanager
def summed_in_float() -> Iterator[None]:
    """Convolutions of half numbers sum in float32, as a GPU's do; and CPUs are slow without it."""
    conv2d = F.conv2d

    def wide(x: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **more: Any) -> Any:
        if x.dtype is not torch.float16:
            return conv2d(x, weight, bias, *rest, **more)
        offset = None if bias is None else bias.float()
        return conv2d(x.float(), weight.float(), offset, *rest, **more).half()

    with patch.object(F, "conv2d", wide):
        yield


def error(found: Tensor, exact: Tensor) -> float:
    """Largest difference over the deviation of the exact result; NaN where it is not finite."""
    gap = (found.double() - exact.double()).abs().max() / exact.double().std()
    return float(gap) if bool(torch.isfinite(found).all()) else math.nan


def said(found: Tensor, exact: Tensor) -> str:
    """The error in words."""
    if bool(torch.isnan(found).any()):
        return f"NaN in {float(torch.isnan(found).float().mean()):.0%}"
    if not bool(torch.isfinite(found).all()):
        return f"infinite in {float(torch.isinf(found).float().mean()):.0%}"
    if not bool(found.any()):
        return "0 everywhere"
    return f"{error(found, exact):.1e}"


def networks(network: nn.Module, given: Tensor, magnitude: float) -> tuple[str, str]:
    """The whole network with such styles in half against fp32: ours, and in upstream's way."""
    own, exact = scaled(network, given, magnitude)
    half = with_precision(own, "fp16")
    with torch.inference_mode():
        ours = said(half(given.half()), exact)
        for module in list(half.modules()):
            conv = getattr(module, "modulated_conv", None)
            if isinstance(conv, ModulatedConv2d):
                module.modulated_conv = Upstream(conv)
        return ours, said(half(given.half()), exact)


@click.command()
@photos_argument
@click.option("--weights", type=click.Path(path_type=Path), help="Folder with the face detector.")
@click.option("--side", default=512, show_default=True, help="Of the network; 512 is the official.")
@json_option
def main(photos: Path, weights: Path | None, side: int, json_file: Path | None) -> None:
    """Random weights: no official GFPGAN is at hand."""
    torch.manual_seed(0)
    network = GFPGANv1Clean(out_size=side).eval()
    (face, *_) = faces(load(photos), weights)
    pixels = torch.from_numpy(face)[None].float() / 255
    facts = find("GFPGANv1Clean").facts({"out_size": side})
    given = F.interpolate(planes(pixels, facts), size=(side, side), mode="area")
    rows, worst = [], 0.0
    for magnitude in MAGNITUDES:
        with summed_in_float():
            exact, ours, theirs = layer(magnitude)
            whole = networks(network, given, magnitude)
        worst = error(ours, exact) if not error(ours, exact) <= worst else worst
        rows.append((magnitude, said(ours, exact), said(theirs, exact), *whole))
        click.echo(" ".join(map(str, rows[-1])), err=True)
    summary = {"what": "largest error over the deviation", "side": side, "weights": "random"}
    report("GFPGAN's styles in half precision", COLUMNS, rows, summary, json_file)
    if not worst <= LIMIT:  # NaN compares false
        raise click.ClickException(f"a layer is {worst:.1e} off")


if __name__ == "__main__":
    main()

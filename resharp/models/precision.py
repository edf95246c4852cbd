"""Copies of networks in another precision: fp16, mixed or bf16.

Modules that a network marks as islands (``fp32_modules.py``) stay fp32 in every precision. Weights
that stay fp32 are never rounded.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from resharp.checks import shown
from resharp.errors import OptionError
from resharp.models.fp32_modules import casts, kept

PRECISIONS = ("fp16", "mixed", "fp32", "bf16")
LARGE = 1e4
"""Largest activation of a layer that ``mixed`` converts to fp16; fp16 itself ends at 65504."""
_WEIGHTED = (nn.Conv2d, nn.Linear)
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)


class _HalfLayer(nn.Module):
    """A layer that computes in fp16 between fp32 neighbors."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.half()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; input and output are fp32."""
        out: Tensor = self.layer(x.half()).float()
        return out


def with_precision(network: nn.Module, precision: str, example: Tensor | None = None) -> nn.Module:
    """Return a copy of a network that computes in another precision.

    ``fp16`` and ``bf16`` convert everything except the islands. ``mixed`` converts convolutions and
    linear layers, except the first, the last, those in islands and those whose input or output
    exceeds :data:`LARGE` on ``example``; activations, sums and norms between them stay fp32.

    Args:
        network: network in fp32.
        precision: one of :data:`PRECISIONS`.
        example: float32 ``[n, c, h, w]`` in the network's own value range, on which ``mixed``
            measures activations; None skips the measurement.

    Raises:
        OptionError: ``precision`` is not one of :data:`PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise OptionError(
            f"precision must be one of {', '.join(PRECISIONS)}, got {shown(precision)}"
        )
    own = copy.deepcopy(network)
    if precision == "fp16":
        return own.half()
    if precision == "bf16":
        return own.bfloat16()
    if precision == "mixed":
        _mix(own, example)
    return own


def ranges(network: nn.Module, example: Tensor) -> dict[str, float]:
    """Return the largest absolute input or output of each convolution, linear layer and norm.

    The input of a norm shows how large the preceding residual sums become. NaN if any value is NaN.
    """
    found: dict[str, list[float]] = {}

    def hook(name: str) -> object:
        def note(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
            values = (value for value in (*inputs[:1], out) if isinstance(value, Tensor))
            found.setdefault(name, []).extend(float(value.abs().max()) for value in values)

        return note

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in network.named_modules()
        if _weighted(module) or isinstance(module, _NORMS)
    ]
    try:
        with torch.inference_mode():
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: math.nan if any(map(math.isnan, values)) else max(values, default=0.0)
        for name, values in found.items()
    }


def peak(network: nn.Module, example: Tensor) -> tuple[float, str]:
    """Return the largest of :func:`ranges` that fp16 would have to hold, and the layer's name.

    Islands stay fp32 and do not count. NaN counts as larger than any number.
    """
    islands = kept(network)
    found = {name: top for name, top in ranges(network, example).items() if name not in islands}
    if not found:
        return 0.0, ""
    name = max(found, key=lambda one: math.inf if math.isnan(found[one]) else found[one])
    return found[name], name


def choose_precision(largest: float) -> str:
    """Return the precision an engine build starts with, from the :func:`peak` on the export image.

    ``fp16`` up to :data:`LARGE`: other images then have six times as much headroom, since fp16 ends
    at 65504. ``mixed`` above it, or if the peak is not finite. Never ``fp32``: a build falls back
    to it by itself when its checks reject both.
    """
    return "fp16" if largest <= LARGE else "mixed"  # false for NaN


def _weighted(module: nn.Module) -> bool:
    return isinstance(module, _WEIGHTED) or casts(module)


def _mix(network: nn.Module, example: Tensor | None) -> None:
    large = {} if example is None else ranges(network, example)
    islands = kept(network)
    names = [name for name, module in network.named_modules() if _weighted(module)]
    for name in names[1:-1]:
        if name in islands or not large.get(name, 0.0) <= LARGE:  # false for NaN
            continue
        parent, _, child = name.rpartition(".")
        owner = network.get_submodule(parent) if parent else network
        layer = getattr(owner, child)
        setattr(owner, child, layer.half() if casts(layer) else _HalfLayer(layer))

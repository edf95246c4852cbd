from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from resharp.models.fp32_modules import Float32Linear
from resharp.models.precision import LARGE, choose_precision, peak, ranges, with_precision


@pytest.mark.parametrize(
    ("largest", "expected"),
    [
        (0.0, "fp16"),
        (LARGE, "fp16"),
        (math.nextafter(LARGE, math.inf), "mixed"),
        (65504.0, "mixed"),
        (math.inf, "mixed"),
        (math.nan, "mixed"),
    ],
)
def test_what_engines_begin_with(largest: float, expected: str) -> None:
    assert choose_precision(largest) == expected


class Net(nn.Module):
    """``x`` times the weights of three layers: a plain one, an island, a norm's input."""

    def __init__(self, plain: float, island: float, summed: float) -> None:
        super().__init__()
        self.plain, self.island = nn.Linear(4, 4, bias=False), Float32Linear(4, 4, bias=False)
        self.norm, self.summed = nn.LayerNorm(4), summed
        with torch.no_grad():
            self.plain.weight.copy_(torch.eye(4) * plain)
            self.island.weight.copy_(torch.eye(4) * island)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, 4]`` to the same."""
        out: Tensor = self.norm((self.plain(x) + self.island(x) * 0) * self.summed)
        return out


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (Net(3.0, 1.0, 0.5), (3.0, "plain")),
        (Net(3.0, 1e6, 0.5), (3.0, "plain")),  # islands are ignored
        (Net(3.0, 1.0, 7.0), (21.0, "norm")),  # a sum that is no layer's output
    ],
)
def test_the_peak_is_what_fp16_would_have_to_hold(net: Net, expected: tuple[float, str]) -> None:
    assert peak(net, torch.ones(2, 4)) == expected


def test_a_network_without_layers_has_no_peak() -> None:
    assert peak(nn.Identity(), torch.ones(1, 4)) == (0.0, "")


@pytest.mark.parametrize("at", ["first", "second"])
def test_nan_is_larger_than_any_number(at: str) -> None:
    """Whether it comes out of a layer or goes into one."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    layer = net[1] if at == "first" else net[2]
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.fill_(math.nan)
    found = ranges(net, torch.ones(1, 4))
    assert math.isnan(found["1"]) is (at == "first")
    assert math.isnan(found["2"])
    assert math.isnan(peak(net, torch.ones(1, 4))[0])
    mixed = with_precision(net, "mixed", torch.ones(1, 4))
    kept = mixed.get_parameter("2.weight").dtype
    assert kept is torch.float32  # and so is a layer with non-finite values

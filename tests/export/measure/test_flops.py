"""Operations of a network, counted at export."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from resharp import models
from resharp.engines import Bundle
from resharp.export.measure.costs import flops_per_pixel
from resharp.models import NetworkFacts
from resharp.runtime import DEFAULT_MODEL, resolve

FACTS = NetworkFacts(scale=2, in_channels=3, out_channels=3, size_multiple=1)


def test_those_of_convolutions() -> None:
    network = models.SRVGGNetCompact(num_feat=8, num_conv=2, upscale=2)
    before = copy.deepcopy(network.state_dict())
    assert flops_per_pixel(network, FACTS) == 2 * 9 * (3 * 8 + 2 * 8 * 8 + 8 * 12)
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_they_are_in_the_manifest(compact: Bundle) -> None:
    assert compact.manifest.flops_per_pixel == 2 * 9 * (3 * 8 + 3 * 8 * 8 + 8 * 12)
    shipped = models.SRVGGNetCompact(num_feat=48, num_conv=12, upscale=4)
    assert resolve(DEFAULT_MODEL).manifest.flops_per_pixel == flops_per_pixel(shipped, FACTS)


def test_attention_counts() -> None:
    network = models.SwinIR(embed_dim=12, depths="2", num_heads="2", window_size=4, upscale=2)
    linear = [m for m in network.modules() if isinstance(m, nn.Linear)]
    least = sum(2 * m.in_features * m.out_features for m in linear)
    found = flops_per_pixel(network, FACTS)
    assert found is not None
    assert found > least


def test_what_cannot_run_on_shapes_alone_is_not_counted() -> None:
    class Reads(nn.Module):
        def forward(self, planes: torch.Tensor) -> torch.Tensor:
            return planes * float(planes.mean())

    assert flops_per_pixel(Reads(), FACTS) is None


@pytest.mark.parametrize("extra", [(), (("fidelity", 0.5),)])
def test_further_inputs_are_given(extra: tuple[tuple[str, float], ...]) -> None:
    class Takes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 1)

        def forward(self, planes: torch.Tensor, *numbers: torch.Tensor) -> torch.Tensor:
            assert len(numbers) == len(extra)
            result: torch.Tensor = self.layer(planes)
            return result

    facts = NetworkFacts(
        scale=1, in_channels=3, out_channels=3, size_multiple=1, fixed_size=32, extra=extra
    )
    assert flops_per_pixel(Takes(), facts) == 2 * 3 * 4

"""RRDBNet and SRVGGNetCompact against spandrel; the others have their own files."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests import oracle
from tests.models import nets

SIZES = ((8, 12), (17, 9), (30, 22))
NETWORKS: list[tuple[str, dict[str, Any]]] = [
    *[("rrdbnet", {"scale": scale, "num_block": 2, "num_grow_ch": 32}) for scale in (1, 2, 4, 8)],
    ("rrdbnet", {"scale": 2, "num_grow_ch": 32, "unshuffle": 1}),
    *[("srvgg", {"upscale": scale}) for scale in (1, 2, 3, 4)],
]


def strong(network: nn.Module) -> nn.Module:
    """Weights that give an output of range about 1, and different slopes."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.rand(parameter.shape) * 0.3)
            else:
                parameter.mul_(1.5)
    return network


@oracle.needs_oracle
@pytest.mark.parametrize(("kind", "parameters"), NETWORKS, ids=str)
def test_computes_what_spandrel_computes(kind: str, parameters: dict[str, Any]) -> None:
    spandrel = oracle.load()
    network = strong(getattr(nets, kind)(**parameters))
    theirs = spandrel.ModelLoader().load_from_state_dict(dict(network.state_dict())).model.eval()
    for count in (1, 3):
        for height, width in SIZES:
            given = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))
            with torch.inference_mode():
                expected, found = theirs(given), network(given)
            assert 0.05 < float(expected.std()) < 5
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)

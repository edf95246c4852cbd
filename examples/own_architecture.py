"""Export a network of your own: describe it, register it, export its checkpoint, and restore.

``python examples/own_architecture.py`` exports a tiny network with random weights. The exported
bundle runs without PyTorch and without this file: ``resharp upscale photo.jpg -o out/ -m
my-network``.
"""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from resharp import Upscaler, export_model
from resharp.drawing import draw
from resharp.models import Architecture, NetworkFacts, State, register


class MyNetwork(nn.Module):
    """Maps RGB images in 0..1, ``[n, 3, h, w]``, to images twice as large."""

    def __init__(self, features: int = 16) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, features, 3, padding=1)
        self.tail = nn.Conv2d(features, 3 * 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge by nearest neighbor and add what the network has learned."""
        larger = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
        details = nn.functional.pixel_shuffle(self.tail(self.head(x).relu()), 2)
        return larger + details


def infer(state: State) -> dict[str, int | str]:
    """Read the constructor's arguments from the tensors."""
    return {"features": state["head.weight"].shape[0]}


register(
    Architecture(
        build=MyNetwork,
        matches=lambda state: "head.weight" in state and "tail.weight" in state,
        infer=infer,
        facts=lambda parameters: NetworkFacts(scale=2, in_channels=3, out_channels=3),
    )
)

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        network = MyNetwork(features=8)
        nn.init.normal_(network.tail.weight, std=0.01)
        path = Path(folder) / "my-network.pth"
        torch.save(network.state_dict(), path)
        bundle = export_model(path, force=True, log=print)
    with Upscaler(bundle) as upscaler:
        print(upscaler(draw(48, 64)).shape, "with", upscaler.backend)

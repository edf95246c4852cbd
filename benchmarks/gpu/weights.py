"""Networks with reproducible weights: the same bytes on every machine, so kits need not hold them.

``python -m benchmarks.gpu.weights KIT STORE`` creates a store from the bundles of a kit, recreates
their weights and checks them against the SHA-256 in their manifests.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.gpu.checks import Checks
from resharp import models
from resharp.drawing import draw
from resharp.engines import Bundle
from resharp.engines.manifest import parse

SEED = 1
SIDE = 64
"""Side of the image used to scale the last layer, in pixels."""
SPREAD = 0.2
"""Target standard deviation of the output, around a mean of 0.5."""
STORE, SEEDS = "store", "seeds.json"
"""Names inside a kit: the folder of the bundles and the file of their weight recipes."""


def seeded(data: Mapping[str, Any]) -> nn.Module:
    """Build a network with uniform weights within ±1 over the square root of a layer's inputs.

    The bits come directly from PCG64, whose stream numpy guarantees, and each is scaled by a single
    multiplication, because PyTorch's generators may round differently on other CPUs.

    Args:
        data: ``architecture`` and its ``parameters``; ``layer``, ``factor`` and ``shift``, if one
            layer is to be scaled and shifted.
    """
    architecture = next(a for a in models.ARCHITECTURES if a.name == data["architecture"])
    network: nn.Module = architecture.build(**data["parameters"]).eval()
    bits = np.random.PCG64(SEED)
    with torch.no_grad():
        for _, parameter in sorted(network.named_parameters()):
            raw = np.asarray(bits.random_raw(parameter.numel()), np.uint64) >> np.uint64(40)
            uniform = raw.astype(np.float32) / np.float32(1 << 23) - np.float32(1)
            inputs = math.prod(parameter.shape[1:]) if parameter.ndim > 1 else len(parameter)
            scaled = uniform * np.float32(1 / math.sqrt(inputs))
            parameter.copy_(torch.from_numpy(scaled).view_as(parameter))
        if "layer" in data:
            _scale(network, data["layer"], data["factor"], data["shift"])
    return network


def settled(data: Mapping[str, Any], layer: str) -> dict[str, Any]:
    """Add the ``factor`` and ``shift`` of the last layer that bring the output into 0..1.

    They are computed on this machine and stored, so that others recreate exactly the same weights.
    """
    network = seeded(data)
    picture = torch.from_numpy(draw(SIDE, SIDE)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        result = network(picture)
    factor = float(np.float32(SPREAD / float(result.std())))
    shift = float(np.float32(0.5 - factor * float(result.mean())))
    return {**data, "layer": layer, "factor": factor, "shift": shift}


def _scale(network: nn.Module, layer: str, factor: float, shift: float) -> None:
    last: Any = network.get_submodule(layer)
    last.weight.mul_(factor)
    last.bias.mul_(factor).add_(shift)


def save(network: nn.Module, target: Path) -> None:
    """Write the weights in the format of a bundle."""
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "network.pth"
        torch.save({"params": network.state_dict()}, checkpoint)
        models.save_safetensors(models.read_checkpoint(checkpoint), target)


def make(folder: Path, data: Mapping[str, Any]) -> str:
    """Recreate the weights in a bundle's folder and return the start of their SHA-256.

    Raises:
        BundleError: the weights or a graph do not match the manifest.
    """
    manifest = parse((folder / "manifest.json").read_text(encoding="utf-8"), str(folder))
    save(seeded(data), folder / manifest.weights.name)
    Bundle.open(folder).verify()
    return manifest.weights.sha256[:12]


def main() -> None:
    """Create the store."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kit", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("--records", type=Path)
    options = parser.parse_args()
    check = Checks(options.records, "weights")
    seeds = json.loads((options.kit / SEEDS).read_text(encoding="utf-8"))
    shutil.copytree(options.kit / STORE, options.store, dirs_exist_ok=True)
    for name, data in seeds.items():
        check(name, partial(make, options.store / name, data))
    check.end()


if __name__ == "__main__":
    main()

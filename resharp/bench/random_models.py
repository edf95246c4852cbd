"""Networks with random weights, which stand in for official checkpoints that are not available.

Speed and memory do not depend on the weights, but parity does: a network whose random output would
be all black or all white is brought into 0..1 by scaling its last layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resharp.checks import shown
from resharp.engines import Bundle
from resharp.errors import OptionError
from resharp.optional import require

if TYPE_CHECKING:
    from torch import nn

SEED = 1
SIDE = 64
"""Side of the image used to scale the last layer, in pixels."""
SPREAD = 0.2
"""Target standard deviation of the output, around a mean of 0.5."""


def make_random_model(name: str, data: Mapping[str, Any], folder: Path) -> Bundle:
    """Create a network with random weights and export it into a store in ``folder``.

    Args:
        name: name of the bundle.
        data: ``architecture``, its ``parameters``, and ``last``, the layer to scale, if any.
        folder: folder for the checkpoint and the store.

    Raises:
        MissingExtraError: the extra ``export`` is not installed.
        OptionError: the architecture is unknown, or does not have these parameters or this layer.
        ResharpError: the export fails, see :func:`resharp.export.export`.
    """
    for module in ("torch", "onnx", "onnxruntime", "safetensors"):
        require(module, feature=f"The stand-in {name}", extra="export")
    import torch

    from resharp import models
    from resharp.export import ExportOptions, export

    torch.manual_seed(SEED)
    known = {one.name: one for one in models.ARCHITECTURES}
    chosen = data.get("architecture")
    if chosen not in known:
        raise OptionError(
            f"stand-in {name}: architecture must be one of {', '.join(known)}, got {shown(chosen)}"
        )
    try:
        network = known[chosen].build(**data.get("parameters", {})).eval()
        if "last" in data:
            _normalize(network, data["last"])
    except (AttributeError, TypeError) as error:
        raise OptionError(f"stand-in {name}: {error}") from error
    checkpoint = folder / f"{name}.pth"
    torch.save({"params": network.state_dict()}, checkpoint)
    return export(checkpoint, ExportOptions(name=name, offline=True), store=folder / "store")


def _normalize(network: nn.Module, layer: str) -> None:
    import torch

    from resharp.drawing import draw

    picture = torch.from_numpy(draw(SIDE, SIDE)).permute(2, 0, 1)[None] / 255
    last: Any = network.get_submodule(layer)
    with torch.no_grad():
        result = network(picture)
        factor = SPREAD / float(result.std())
        last.weight.mul_(factor)
        last.bias.mul_(factor).add_(0.5 - factor * float(result.mean()))

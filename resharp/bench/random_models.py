"""Networks with random weights, exported, for where official checkpoints cannot be had.

Speed and memory do not depend on the weights. Parity does, so a network whose random result would
be black or white throughout is brought into 0..1 by its last layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resharp.engines import Bundle
from resharp.errors import OptionError
from resharp.optional import require

if TYPE_CHECKING:
    from torch import nn

SEED = 1
SIDE = 64
"""Of the picture that the last layer is set by."""
SPREAD = 0.2
"""Standard deviation of the result, about a mean of 0.5."""


def make_random_model(name: str, data: Mapping[str, Any], folder: Path) -> Bundle:
    """Make a network and export it into a store in ``folder``.

    Args:
        name: of the bundle.
        data: ``architecture``, its ``parameters``, and ``last``: the layer to set, if any.
        folder: for the checkpoint and the store.

    Raises:
        MissingExtraError: the extra ``export`` is not installed.
        OptionError: there is no such architecture, or it has no such parameters or layer.
        ResharpError: see :func:`resharp.export.export`.
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
            f"stand-in {name}: architecture must be one of {', '.join(known)}, got {chosen!r}"
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

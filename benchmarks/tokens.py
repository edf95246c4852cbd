"""``python -m benchmarks.tokens PHOTOS``: codes of CodeFormer and RestoreFormer that half flips.

With islands, as fp16 is here, and with all of the network in half, to see what islands are for.
No official weights are at hand, so the weights are random: how often a trained network's codes
would flip is not told, only that nothing flips where what decides is float32.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.common import Image, json_option, load, photos_argument, report
from resharp import models
from resharp.drawing import fitted
from resharp.models.precision import with_precision

SIDE = 512


class _Seen(Exception):  # noqa: N818 (no error: what follows the look-up is not needed)
    pass


def codes(network: nn.Module, planes: Tensor) -> NDArray[Any]:
    """The codes that a network looks up; it is left there."""
    seen: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])
        raise _Seen

    handle = network.get_submodule("quantize.embedding").register_forward_pre_hook(note)
    try:
        with torch.inference_mode():
            network(planes)
    except _Seen:
        pass
    finally:
        handle.remove()
    return seen[0].numpy()


def rounded(network: nn.Module) -> nn.Module:
    """A copy without islands: all weights, and what each module gives, are rounded to half.

    Sums within a layer stay float32, as on a GPU's matrix units, and as onnxruntime does it.
    """
    own = copy.deepcopy(network)
    with torch.no_grad():
        for one in own.parameters():
            one.copy_(one.half().float())
    for module in own.modules():
        module.register_forward_hook(_round)
    return own


def _round(module: nn.Module, inputs: tuple[Any, ...], out: Any) -> Any:
    return out.half().float() if isinstance(out, Tensor) and out.is_floating_point() else out


def random_network(name: str, given: Tensor) -> nn.Module:
    """Upstream's initialisation; a codebook to be nearest to is drawn from a picture's features."""
    torch.manual_seed(0)
    network = models.find(name).build().eval()
    if name == "RestoreFormer":
        features: list[Tensor] = []
        conv = network.get_submodule("quant_conv")
        handle = conv.register_forward_hook(lambda module, inputs, out: features.append(out))
        codes(network, given)
        handle.remove()
        tokens = features[0].flatten(2)[0].T
        table = network.get_parameter("quantize.embedding.weight")
        with torch.no_grad():
            noise = torch.randn(table.shape) * tokens.std(0)
            table.copy_(tokens[torch.randint(len(tokens), (len(table),))] + 0.3 * noise)
    return network


def measure(name: str, pictures: list[Image]) -> tuple[str | int, ...]:
    """One row."""
    facts = models.find(name).facts(models.detect(_empty(name))[1])
    batches = [torch.from_numpy(one[None].astype(np.float32) / 255) for one in pictures]
    given = [models.planes(one, facts) for one in batches]
    network = random_network(name, given[0])
    spared, half = with_precision(network, "fp16"), rounded(network)
    total, kinds, flips = 0, set[int](), [0, 0]
    for planes in given:
        exact = codes(network, planes)
        total, kinds = total + exact.size, kinds | set(exact.ravel().tolist())
        flips[0] += int(np.count_nonzero(codes(spared, planes) != exact))
        flips[1] += int(np.count_nonzero(codes(half, planes.half().float()) != exact))
        click.echo(f"{name} {total} codes, {len(kinds)} kinds, flipped {flips}", err=True)
    return (name, len(given), total, len(kinds), flips[0], flips[1])


def _empty(name: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(models.find(name).build().state_dict())


@click.command()
@photos_argument
@click.option("--count", default=4, show_default=True, help="Photos, each its middle at 512x512.")
@json_option
def main(photos: Path, count: int, json_file: Path | None) -> None:
    """Every code of every picture, both networks in full size."""
    pictures = [fitted(photo, SIDE) for photo in list(load(photos).values())[:count]]
    rows = [measure(name, pictures) for name in ("CodeFormer", "RestoreFormer")]
    columns = ("network", "pictures", "codes", "kinds", "fp16 with islands", "all in half")
    report("Codes that flip in half", columns, rows, {"weights": "random, seed 0"}, json_file)
    if any(row[4] for row in rows):
        raise click.ClickException("a code flipped in spite of the islands")


if __name__ == "__main__":
    main()

"""``resharp models export``, also ``resharp export``: a checkpoint to an ONNX bundle."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from resharp.checks import shown
from resharp.cli import common
from resharp.deploy import export_model
from resharp.errors import OptionError

parameter_option = click.option(
    "--parameter",
    "parameters",
    multiple=True,
    metavar="KEY=VALUE",
    help="Network argument that its weights do not reveal, e.g. act_type=leakyrelu.",
)
image_option = click.option(
    "--image",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Photo to measure on (default: a drawn one).",
)


@click.command(short_help="Export a model or a checkpoint to ONNX.")
@click.argument("source", metavar="NAME|FILE")
@common.denoise_option
@click.option("--name", help="Name of the bundle (default: the model's, or the file's).")
@click.option(
    "--exporter",
    type=click.Choice(["legacy", "dynamo"]),
    help="Exporter of PyTorch (default: the one that suits the network).",
)
@image_option
@parameter_option
@click.option("--force", is_flag=True, help="Export again, replacing a bundle of that name.")
@common.offline_option
@common.weights_dir_option
@common.store_option
def command(source: str, image: Path | None, parameters: tuple[str, ...], **options: Any) -> None:
    """Export a model NAME, or a checkpoint FILE (.pth, .pt, .safetensors), to ONNX.

    'resharp models list' shows the names. A checkpoint that is missing is downloaded.
    """
    began, steps = time.monotonic(), Steps()
    bundle = export_model(
        source,
        image=pixels(image),
        parameters=parse_parameters(parameters),
        log=steps.next,
        **options,
    )
    manifest = bundle.manifest
    click.echo(f"{manifest.name}: {bundle.folder} ({time.monotonic() - began:.0f} s)")
    if manifest.parity is not None:
        click.echo(
            f"  scale {manifest.scale}, overlap {manifest.overlap}; against PyTorch: at most "
            f"{manifest.parity.uint8_max_levels} of 255 levels, "
            f"{manifest.parity.uint8_differing:.4%} of values differ"
        )
    use = "-m" if manifest.fixed_size is None else "--face"
    click.echo(f"  next: resharp upscale PHOTO -o OUT {use} {manifest.name}")


class Steps:
    """Prints each step with the time since the start."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def next(self, line: str) -> None:
        """Print a step that begins."""
        common.say(f"[{time.monotonic() - self._began:5.1f} s] {line}")


def pixels(path: Path | None) -> Any:
    """Read a photo as uint8 BGR; None stays None."""
    if path is None:
        return None
    import numpy as np

    from resharp.images import read
    from resharp.runtime.imaging.layout import to_network

    found = read(path).pixels
    color = to_network(found if found.ndim == 2 else found[..., :3])
    return color if color.dtype == np.uint8 else np.rint(color * 255).astype(np.uint8)


def parse_parameters(items: Iterable[str]) -> dict[str, int | str]:
    """Parse ``KEY=VALUE`` texts; whole numbers become numbers.

    Raises:
        OptionError: one has no key, or no ``=``.
    """
    found: dict[str, int | str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise OptionError(f"`parameter` must be KEY=VALUE, got {shown(item)}")
        found[key] = int(value) if value.lstrip("-").isdecimal() else value
    return found

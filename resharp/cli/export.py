"""``resharp export``: a checkpoint to an ONNX bundle."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from resharp.errors import OptionError
from resharp.optional import require

parameter_option = click.option(
    "--parameter",
    "parameters",
    multiple=True,
    metavar="KEY=VALUE",
    help="Argument of the network that its weights cannot tell: act_type=leakyrelu.",
)


@click.command()
@click.argument("source", metavar="NAME|FILE")
@click.option("--denoise", type=float, help="Denoise strength 0..1, for realesr-general-x4v3.")
@click.option("--name", help="Name of the bundle (default: the model's, or the file's).")
@click.option(
    "--exporter",
    type=click.Choice(["legacy", "dynamo"]),
    help="torch's exporter (default: the one that suits the network).",
)
@click.option(
    "--image",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A photo of yours to measure the overlap on (default: one is drawn).",
)
@parameter_option
@click.option("--force", is_flag=True, help="Export again, and replace other weights of the name.")
@click.option("--offline", is_flag=True, default=None, help="Download nothing.")
@click.option("--weights-dir", type=click.Path(path_type=Path), help="Folder of the checkpoints.")
@click.option("--store", type=click.Path(path_type=Path), help="Folder of the store.")
def command(
    source: str,
    name: str | None,
    image: Path | None,
    parameters: tuple[str, ...],
    weights_dir: Path | None,
    store: Path | None,
    **options: Any,
) -> None:
    """Export NAME (see: resharp weights list) or your own FILE (.pth, .pt, .safetensors)."""
    for module in ("torch", "onnx", "onnxruntime", "safetensors"):
        require(module, feature="Exporting", extra="export")
    from resharp.export import ExportOptions, export

    chosen = ExportOptions(
        name=name, image=pixels(image), parameters=parse_parameters(parameters), **options
    )
    began = time.monotonic()
    steps = Steps()
    bundle = export(source, chosen, weights_dir=weights_dir, store=store, log=steps.next)
    manifest = bundle.manifest
    click.echo(f"{manifest.name}: {bundle.folder} ({time.monotonic() - began:.0f} s)")
    if manifest.parity is not None:
        click.echo(
            f"  scale {manifest.scale}, overlap {manifest.overlap}; against PyTorch: "
            f"{manifest.parity.uint8_max_levels} of 255 levels at most, "
            f"{manifest.parity.uint8_differing:.4%} of values differ"
        )
    use = "-m" if manifest.fixed_size is None else "--face"
    click.echo(f"  next: resharp upscale PHOTO -o OUT {use} {manifest.name}")


class Steps:
    """Prints each step with the time since the start."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def next(self, line: str) -> None:
        """One step begins."""
        click.echo(f"[{time.monotonic() - self._began:5.1f} s] {line}", err=True)


def pixels(path: Path | None) -> Any:
    """A photo as uint8 BGR; None stays None."""
    if path is None:
        return None
    import numpy as np

    from resharp.images import read
    from resharp.runtime.imaging.layout import to_network

    color = to_network(read(path).pixels[..., :3])
    return color if color.dtype == np.uint8 else np.rint(color * 255).astype(np.uint8)


def parse_parameters(items: Iterable[str]) -> dict[str, int | str]:
    """``KEY=VALUE`` texts as a dictionary; whole numbers become numbers.

    Raises:
        OptionError: one has no key, or no ``=``.
    """
    found: dict[str, int | str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise OptionError(f"--parameter {item!r} is not KEY=VALUE")
        found[key] = int(value) if value.lstrip("-").isdecimal() else value
    return found

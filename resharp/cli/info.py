"""``resharp info``: facts about exported models."""

from __future__ import annotations

from pathlib import Path

import click

from resharp.cli import common
from resharp.engines.model_info import ModelInfo
from resharp.runtime.bundle_lookup import DEFAULT_MODEL, model_info


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@common.denoise_option
@common.store_option
@common.json_option
def command(
    models: tuple[str, ...], denoise: float | None, store: Path | None, as_json: bool
) -> None:
    """Show facts about exported MODELs (default: the built-in one)."""
    found = [model_info(name, store=store, denoise=denoise) for name in models or (DEFAULT_MODEL,)]
    if as_json:
        common.print_json([info.to_dict() for info in found])
    else:
        click.echo("\n\n".join(map(_text, found)))


def _text(info: ModelInfo) -> str:
    memory = info.memory_per_megapixel
    lines = [
        f"{info.name}: {info.title}",
        f"  {info.architecture}, {info.parameters:,} parameters, {info.bytes / 1e6:.1f} MB",
        f"  {info.task}, scale {info.scale}, overlap {info.overlap}",
        "  memory: not measured"
        if memory is None
        else f"  memory: {memory / 1e9:.1f} GB per megapixel of a tile (CPU, FP32)",
        f"  license: {info.license}" + (f" ({info.terms})" if info.terms else ""),
        f"  TensorRT engines: {info.engines}",
    ]
    return "\n".join(lines)

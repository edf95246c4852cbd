"""``export-engines``: says what it still lacks."""

from __future__ import annotations

import click

from resharp.errors import BackendError


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> None:
    """Build TensorRT engines from exported models (not in this release)."""
    raise BackendError(
        "this release builds no TensorRT engines: its export ends at the ONNX graph "
        "(resharp export MODEL), which runs with --backend torch or --backend onnx"
    )

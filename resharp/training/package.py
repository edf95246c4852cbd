"""``python -m resharp.training.package CHECKPOINT``: build the wheel's built-in bundle."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import click

from resharp.export import ExportOptions, export
from resharp.runtime.bundle_lookup import DEFAULT_MODEL, builtin_store

LIMIT = 2_500_000
"""Maximum size of the bundle in the wheel, in bytes."""


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(checkpoint: Path) -> None:
    """Export CHECKPOINT with the usual checks and copy the bundle into the package."""
    place = builtin_store().folder / DEFAULT_MODEL
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder) / f"{DEFAULT_MODEL}.pth"
        shutil.copy(checkpoint, named)
        options = ExportOptions(
            builtin=True,
            force=True,
            title="resharp's own compact x4 network for ordinary photos",
            license="BSD-3-Clause",
        )
        bundle = export(named, options, store=Path(folder) / "store", log=click.echo)
        size = sum(path.stat().st_size for path in bundle.folder.iterdir())
        if size > LIMIT:
            raise click.ClickException(f"the bundle must not exceed {LIMIT} bytes, got {size}")
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(bundle.folder, place)
    click.echo(f"{place}: {size} bytes")


if __name__ == "__main__":
    main()

"""``resharp engines``: the store of bundles."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from resharp.engines import Bundle, Store
from resharp.errors import BundleError
from resharp.paths import engines_folder
from resharp.runtime.resolve import builtin_store

_folder = click.option("--engines", type=click.Path(path_type=Path), help="Folder of the store.")


@click.group()
def command() -> None:
    """List, verify and remove the bundles that 'resharp export' made."""


@command.command("list")
@_folder
@click.option("--json", "as_json", is_flag=True, help="Print the manifests as JSON.")
def list_(engines: Path | None, as_json: bool) -> None:
    """List the built-in bundles and those of the store."""
    shipped, _ = builtin_store().bundles()
    stored, damaged = Store(engines_folder(engines)).bundles()
    if as_json:
        click.echo(json.dumps([asdict(b.manifest) for b in (*shipped, *stored)], indent=2))
    else:
        for bundle in (*shipped, *stored):
            click.echo(_line(bundle))
    for line in damaged:
        click.echo(f"damaged: {line}", err=True)


@command.command()
@_folder
def verify(engines: Path | None) -> None:
    """Hash every file of every bundle."""
    shipped, _ = builtin_store().bundles()
    stored, damaged = Store(engines_folder(engines)).bundles()
    bad = list(damaged)
    for bundle in (*shipped, *stored):
        try:
            bundle.verify()
        except BundleError as error:
            bad.append(str(error))
        else:
            click.echo(f"{bundle.manifest.name}: whole")
    if bad:
        raise BundleError("\n".join(bad))


@command.command()
@click.argument("names", nargs=-1, required=True)
@_folder
def remove(names: tuple[str, ...], engines: Path | None) -> None:
    """Remove bundles from the store."""
    store = Store(engines_folder(engines))
    for name in names:
        store.remove(name)
        click.echo(f"{name}: removed")


def _line(bundle: Bundle) -> str:
    manifest = bundle.manifest
    size = sum(file.size for file in manifest.files()) / 1e6
    return (
        f"{manifest.name:32} x{manifest.scale}  {size:7.1f} MB  overlap {manifest.overlap:2}  "
        f"{manifest.licence}" + (f"  ({manifest.terms})" if manifest.terms else "")
    )

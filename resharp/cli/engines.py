"""``resharp engines``: the store of bundles and of their TensorRT engines."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from resharp.engines import Bundle, Engine, Store
from resharp.errors import BundleError, OptionError
from resharp.paths import store_folder
from resharp.runtime.bundle_lookup import builtin_store, resolve

_folder = click.option("--store", type=click.Path(path_type=Path), help="Folder of the store.")


@click.group()
def command() -> None:
    """List, verify and remove what 'resharp export' and 'export-engines' made."""


@command.command("list")
@_folder
@click.option("--json", "as_json", is_flag=True, help="Print manifests and sidecars as JSON.")
def list_(store: Path | None, as_json: bool) -> None:
    """List the built-in bundles and those of the store, each with its TensorRT engines."""
    bundles, damaged = _bundles(store)
    found = []
    for bundle in bundles:
        built, bad = bundle.engine_store.engines()
        damaged += bad
        sidecars = [{"key": engine.key, **asdict(engine)} for engine in built]
        found.append({**asdict(bundle.manifest), "engines": sidecars})
        if as_json:
            continue
        click.echo(_line(bundle))
        for engine in built:
            profile = engine.spec.profile
            click.echo(
                f"  {engine.key[:12]}  {_describe(engine)}, tile {profile.tile}, "
                f"batch {profile.batch}, {engine.file.size / 1e6:.1f} MB"
            )
    if as_json:
        click.echo(json.dumps(found, indent=2))
    for line in damaged:
        click.echo(f"damaged: {line}", err=True)


@command.command()
@_folder
def verify(store: Path | None) -> None:
    """Hash every file of every bundle and engine."""
    bundles, bad = _bundles(store)
    for bundle in bundles:
        built, unread = bundle.engine_store.engines()
        bad += unread
        checks = [(bundle.manifest.name, bundle.verify)]
        for engine in built:
            name = f"{engine.model} {engine.key[:12]} ({_describe(engine)})"
            checks.append((name, partial(bundle.engine_store.verify, engine)))
        for name, check in checks:
            try:
                check()
            except BundleError as error:
                bad.append(str(error))
            else:
                click.echo(f"{name}: whole")
    if bad:
        raise BundleError("\n".join(bad))


@command.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--built", is_flag=True, help="Only the TensorRT engines; keep the bundle.")
@_folder
def remove(names: tuple[str, ...], built: bool, store: Path | None) -> None:
    """Remove bundles from the store, or the TensorRT engines of bundles."""
    bundles = Store(store_folder(store))
    for name in names:
        if built:
            count = resolve(name, store=store).engine_store.clear()
            click.echo(f"{name}: {count} TensorRT engines removed")
        elif name in builtin_store() and name not in bundles:
            raise OptionError(f"{name} is built in; its TensorRT engines go with --built")
        else:
            bundles.remove(name)
            click.echo(f"{name}: removed")


@command.command()
@_folder
def prune(store: Path | None) -> None:
    """Remove engines that no machine can use: damaged, or of an older export of their model.

    Engines for other GPUs, drivers and versions of TensorRT stay: a store may serve several.
    """
    count = 0
    for bundle in _bundles(store)[0]:
        for line in bundle.engine_store.prune(bundle.manifest):
            click.echo(f"{bundle.manifest.name}: removed: {line}")
            count += 1
    if not count:
        click.echo("nothing to remove")


def _bundles(store: Path | None) -> tuple[list[Bundle], list[str]]:
    """The built-in bundles and those of the store, and a line for each that is damaged."""
    stored, damaged = Store(store_folder(store)).bundles()
    shipped = [resolve(name, store=store) for name in builtin_store().names()]
    return [*shipped, *stored], list(damaged)


def _line(bundle: Bundle) -> str:
    manifest = bundle.manifest
    size = sum(file.size for file in manifest.files()) / 1e6
    return (
        f"{manifest.name:32} x{manifest.scale}  {size:7.1f} MB  overlap {manifest.overlap:2}  "
        f"{manifest.license}" + (f"  ({manifest.terms})" if manifest.terms else "")
    )


def _describe(engine: Engine) -> str:
    spec = engine.spec
    place = spec.gpu or "+".join(spec.targets)
    return f"{spec.dtype} {spec.precision}, {spec.variant} {spec.version}, {place}"

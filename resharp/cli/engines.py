"""``resharp engines``: build, list, verify and prune TensorRT engines."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from resharp.cli import common
from resharp.cli.export_engines import command as build_command
from resharp.engines import Bundle, Engine, Store
from resharp.errors import BundleError, OptionError
from resharp.paths import store_folder
from resharp.runtime.bundle_lookup import builtin_store, resolve


@click.group(cls=common.OrderedGroup)
def engines() -> None:
    """Build, list, verify and prune TensorRT engines."""


engines.add_command(build_command, "build")


@engines.command("list", short_help="List the engines of each model.")
@common.store_option
@common.json_option
def list_command(store: Path | None, as_json: bool) -> None:
    """List the exported models, each with its TensorRT engines."""
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
        if not built:
            click.echo("  no engines")
    if as_json:
        common.print_json(found)
    for line in damaged:
        common.say(f"damaged: {line}")


@engines.command("verify", short_help="Hash every engine.")
@common.store_option
def verify_command(store: Path | None) -> None:
    """Hash the files of every engine, and of the bundles they belong to."""
    bundles, bad = _bundles(store)
    for bundle in bundles:
        built, unread = bundle.engine_store.engines()
        bad += unread
        try:
            bundle.verify()
            click.echo(f"ok  {bundle.manifest.name}")
        except BundleError as error:
            bad.append(str(error))
        for engine in built:
            try:
                bundle.engine_store.verify(engine)
                click.echo(f"ok  {engine.model} {engine.key[:12]} ({_describe(engine)})")
            except BundleError as error:
                bad.append(str(error))
    if bad:
        raise BundleError("\n".join(bad))


@engines.command("prune", short_help="Remove unusable engines.")
@click.argument("names", nargs=-1, metavar="[MODEL]...")
@click.option("--all", "everything", is_flag=True, help="Remove every engine of the MODELs.")
@common.store_option
def prune_command(names: tuple[str, ...], everything: bool, store: Path | None) -> None:
    """Remove engines that no machine can use: damaged, or of an older export of their model.

    Engines for other GPUs, drivers and versions of TensorRT stay, since a store may serve several.
    """
    if everything and not names:
        raise OptionError("`all` requires the names of models")
    bundles = [resolve(name, store=store) for name in names] or _bundles(store)[0]
    count = 0
    for bundle in bundles:
        name = bundle.manifest.name
        if everything:
            removed = bundle.engine_store.clear()
            click.echo(f"{name}: {removed} TensorRT engines removed")
            count += removed
            continue
        for line in bundle.engine_store.prune(bundle.manifest):
            click.echo(f"{name}: removed {line}")
            count += 1
    if not count and not everything:
        click.echo("nothing to remove")


def _bundles(store: Path | None) -> tuple[list[Bundle], list[str]]:
    """Return the built-in bundles and those of the store, and a line per damaged one."""
    stored, damaged = Store(store_folder(store)).bundles()
    shipped = [resolve(name, store=store) for name in builtin_store().names()]
    return [*shipped, *stored], list(damaged)


def _line(bundle: Bundle) -> str:
    manifest = bundle.manifest
    size = sum(file.size for file in manifest.files()) / 1e6
    return f"{manifest.name:32} x{manifest.scale}  {size:7.1f} MB  overlap {manifest.overlap:2}"


def _describe(engine: Engine) -> str:
    spec = engine.spec
    place = spec.gpu or "+".join(spec.targets)
    return f"{spec.dtype} {spec.precision}, {spec.variant} {spec.version}, {place}"

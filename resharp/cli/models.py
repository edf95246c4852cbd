"""``resharp models``: list, fetch, import, export, verify and remove models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from resharp import weights
from resharp.cli import common
from resharp.cli.export import command as export_command
from resharp.cli.export import parameter_option, parse_parameters
from resharp.cli.wording import with_flags
from resharp.deploy import import_checkpoint
from resharp.engines import Manifest, Store
from resharp.errors import BundleError, ChecksumError, NotExportedError, OptionError
from resharp.paths import store_folder, weights_folder
from resharp.runtime.bundle_lookup import builtin_store
from resharp.weights import ModelEntry
from resharp.weights.local import LOCAL


@click.group(cls=common.OrderedGroup)
def models() -> None:
    """List, fetch, import, export, verify and remove models.

    A model is a checkpoint until it is exported; then it is a bundle of the store.
    """


@models.command("list", short_help="List all models.")
@common.store_option
@common.weights_dir_option
@common.json_option
def list_command(store: Path | None, weights_dir: Path | None, as_json: bool) -> None:
    """List every model, its license, and whether it is exported or fetched."""
    place = weights_folder(weights_dir)
    bundles, damaged = Store(store_folder(store)).bundles()
    manifests = {one.manifest.name: one.manifest for one in bundles}
    builtin = {one.manifest.name: one.manifest for one in builtin_store().bundles()[0]}
    entries = {**weights.catalogue(), **weights.local_entries(place)}
    rows = [
        _record(name, builtin, manifests, entries, place)
        for name in [*builtin, *entries, *(name for name in manifests if name not in entries)]
    ]
    if as_json:
        common.print_json(rows)
    else:
        _print_table(rows)
    for line in damaged:
        common.say(f"damaged: {line}")


def _record(
    name: str,
    builtin: dict[str, Manifest],
    exported: dict[str, Manifest],
    entries: dict[str, ModelEntry],
    place: Path,
) -> dict[str, Any]:
    """Return what is known of a model, as JSON."""
    state = {"builtin": name in builtin, "exported": name in exported}
    entry = entries.get(name)
    if entry is None:
        manifest = (builtin | exported)[name]
        names = ("name", "title", "task", "architecture", "scale", "license", "terms")
        facts = {one: getattr(manifest, one) for one in names}
        return {**facts, "bytes": manifest.weights.size, **state, "state": None, "path": None}
    found = weights.inspect(entry, place, quick=True)
    return {**entry.to_json(), **state, "state": found.state, "path": str(found.path)}


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    terms = dict.fromkeys(row["terms"] for row in rows if row["terms"])
    marks = {text: number for number, text in enumerate(terms, start=1)}
    titles = ("NAME", "TASK", "SCALE", "SIZE", "LICENSE", "STATE")
    table = [titles, *(_cells(row, marks) for row in rows)]
    common.print_table(table)
    for text, mark in marks.items():
        click.echo(f"\n[{mark}] {text}")
    if not all(row["bytes"] for row in rows):
        click.echo("\n[?] No published size and hash: 'resharp models fetch' needs --sha256.")


def _cells(row: dict[str, Any], marks: dict[str, int]) -> tuple[str, ...]:
    mark = f" [{marks[row['terms']]}]" if row["terms"] else ""
    size = f"{row['bytes'] / 1e6:.1f} MB" if row["bytes"] else "[?]"
    have = "imported" if row["path"] and Path(row["path"]).parent.name == LOCAL else "fetched"
    here = {None: "", "missing": "", "present": have, "ok": have}
    states = ("built-in" if row["builtin"] else "", "exported" if row["exported"] else "")
    state = ", ".join(filter(None, (*states, here.get(row["state"], row["state"]))))
    scale = f"x{row['scale']}"
    return row["name"], row["task"], scale, size, row["license"] + mark, state or "-"


@models.command("fetch", short_help="Download and verify checkpoints.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@common.weights_dir_option
@click.option("--mirror", metavar="URL", help="Try URL/<file> first.  [env: RESHARP_MIRROR]")
@click.option(
    "--offline", is_flag=True, default=None, help="Forbid downloads.  [env: RESHARP_OFFLINE]"
)
@click.option("--sha256", metavar="HASH", help="Expected hash, if the catalogue has none.")
def fetch_command(
    names: Sequence[str],
    weights_dir: Path | None,
    mirror: str | None,
    offline: bool | None,
    sha256: str | None,
) -> None:
    """Download the checkpoints of models and verify them; existing files are only verified."""
    if sha256 is not None and len(names) != 1:
        raise OptionError(f"`sha256` is the hash of one file, but {len(names)} names were given")
    for entry in [weights.resolve(name, weights_dir) for name in names]:
        _show_terms(entry)
        path = weights.fetch(
            entry, weights_dir, sha256=sha256, mirror=mirror, offline=offline, progress=True
        )
        click.echo(f"{entry.name}: {path}")


@models.command("import", short_help="Import a checkpoint of your own.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="Name of the model (default: from the file name).")
@click.option("--force", is_flag=True, help="Replace another file of that name.")
@parameter_option
@click.option("--license", default="unknown", show_default=True, help="License of the weights.")
@common.weights_dir_option
def import_command(
    file: Path,
    name: str | None,
    force: bool,
    parameters: tuple[str, ...],
    license: str,
    weights_dir: Path | None,
) -> None:
    """Import a checkpoint FILE of your own as a model.

    An official file, recognized by its name and hash, takes its official place.
    """
    entry = import_checkpoint(
        file,
        name=name,
        parameters=parse_parameters(parameters),
        license=license,
        force=force,
        weights_dir=weights_dir,
        log=lambda note: common.say(f"note: {file.name} {note}"),
    )
    _show_terms(entry)
    path = weights_folder(weights_dir) / entry.file
    click.echo(f"{entry.name}: {entry.architecture}, x{entry.scale}, {path}")
    if entry.exports:
        click.echo(f"  next: resharp export {entry.name}")


models.add_command(export_command, "export")


@models.command("verify", short_help="Hash checkpoints and bundles.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@common.store_option
@common.weights_dir_option
def verify_command(names: Sequence[str], store: Path | None, weights_dir: Path | None) -> None:
    """Hash the checkpoints and bundles of models, all that are present by default."""
    wrong = []
    for state, name, detail in _verified(names, store, weights_dir):
        click.echo("  ".join(filter(None, (f"{state:10}", name, detail))))
        if state in ("damaged", "missing"):
            wrong.append(name)
    if wrong:
        raise ChecksumError(
            f"damaged or missing: {', '.join(wrong)}. Run 'resharp models fetch' (or 'import' for "
            "your own) for checkpoints, and 'resharp export' with `force` for bundles"
        )


def _verified(
    names: Sequence[str], store: Path | None, weights_dir: Path | None
) -> Iterator[tuple[str, str, str]]:
    """Yield the state, name and details of each checkpoint and bundle."""
    places = (builtin_store(), Store(store_folder(store)))
    stores = {name: place for place in places for name in place.names()}
    entries = {**weights.catalogue(), **weights.local_entries(weights_dir)}
    known = [name for name in names if name not in stores or name in entries]
    if known or not names:
        for report in weights.verify(known or None, weights_dir):
            exported = report.name in stores
            if report.state != "missing" or (names and not exported):
                yield report.state, report.name, f"checkpoint {report.detail or report.path}"
    for name, place in stores.items():
        if not names or name in names:
            try:
                bundle = place.find(name)
                bundle.verify()
            except BundleError as error:
                yield "damaged", name, with_flags(str(error))
            else:
                yield "ok", name, f"bundle {bundle.folder}"


@models.command("remove", short_help="Remove exported models.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--checkpoint", is_flag=True, help="Also delete the fetched or imported file.")
@common.store_option
@common.weights_dir_option
def remove_command(
    names: Sequence[str], checkpoint: bool, store: Path | None, weights_dir: Path | None
) -> None:
    """Remove the bundles of models, with their TensorRT engines."""
    bundles = Store(store_folder(store))
    entries = {**weights.catalogue(), **weights.local_entries(weights_dir)}
    for name in names:
        if name not in bundles and name not in builtin_store():
            name = weights.resolve(name, weights_dir).name  # raises if nothing has that name
        if name in bundles:
            bundles.remove(name)
            click.echo(f"{name}: removed the bundle")
        elif name in builtin_store():
            raise OptionError(
                f"{name} is built in; 'resharp engines prune {name}' with `all` removes its engines"
            )
        elif not checkpoint:
            raise NotExportedError(
                f"{name} has no bundle in {bundles.folder}; pass `checkpoint` to delete its file"
            )
        if checkpoint:
            path = weights.remove(name, weights_dir) if name in entries else None
            click.echo(f"{name}: {'no checkpoint' if path is None else f'removed {path}'}")


def _show_terms(entry: ModelEntry) -> None:
    if entry.terms:
        click.echo(f"{entry.name} ({entry.license}): {entry.terms}", err=True)

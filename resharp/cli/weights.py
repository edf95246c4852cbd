"""``resharp weights``: list, fetch, verify and import checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from resharp.cli.export import parameter_option, parse_parameters
from resharp.errors import CheckpointError, ChecksumError, OptionError
from resharp.optional import require
from resharp.paths import weights_folder
from resharp.weights import (
    CheckpointStatus,
    ModelEntry,
    adopt,
    catalogue,
    fetch,
    inspect,
    kebab,
    local_entries,
    lookup,
    register,
    resolve,
    verify,
)

folder_option = click.option(
    "--weights-dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of weights.  [default: in the user's cache, or RESHARP_HOME]",
)


@click.group("weights")
def weights() -> None:
    """List, download, verify and import checkpoints."""


@weights.command("list")
@folder_option
@click.option("--json", "as_json", is_flag=True, help="Everything that is known, as JSON.")
def list_command(folder: Path | None, as_json: bool) -> None:
    """Show every checkpoint, its limits of use, and whether it is here."""
    place = weights_folder(folder)
    entries = [*catalogue().values(), *local_entries(place).values()]
    rows = [(entry, inspect(entry, place, quick=True)) for entry in entries]
    if as_json:
        records = [
            {**entry.to_json(), "state": report.state, "path": str(report.path)}
            for entry, report in rows
        ]
        click.echo(json.dumps(records, indent=2, ensure_ascii=False))
        return
    terms = dict.fromkeys(entry.terms for entry in entries if entry.terms)
    marks = {text: number for number, text in enumerate(terms, start=1)}
    titles = ("NAME", "TASK", "SCALE", "SIZE", "LICENSE", "STATE")
    table = [titles, *(_cells(entry, report, marks) for entry, report in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
    for text, mark in marks.items():
        click.echo(f"\n[{mark}] {text}")


@weights.command("fetch")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@folder_option
@click.option("--mirror", metavar="URL", help="Try URL/<file> first.  [env: RESHARP_MIRROR]")
@click.option(
    "--offline", is_flag=True, default=None, help="Download nothing.  [env: RESHARP_OFFLINE]"
)
@click.option("--sha256", metavar="HASH", help="Hash to enforce where the catalogue has none.")
def fetch_command(
    names: Sequence[str],
    folder: Path | None,
    mirror: str | None,
    offline: bool | None,
    sha256: str | None,
) -> None:
    """Download the checkpoints NAME... and verify them; what is here already is only verified."""
    if sha256 is not None and len(names) != 1:
        raise OptionError(f"--sha256 is the hash of one file, but {len(names)} names are given")
    for entry in [resolve(name, folder) for name in names]:
        _show_terms(entry)
        path = fetch(entry, folder, sha256=sha256, mirror=mirror, offline=offline, progress=True)
        click.echo(f"{entry.name}: {path}")


@weights.command("verify")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@folder_option
def verify_command(names: Sequence[str], folder: Path | None) -> None:
    """Hash the checkpoints that are here, or the checkpoints NAME..."""
    reports = verify(names or None, folder)
    shown = [report for report in reports if names or report.state != "missing"]
    for report in shown:
        click.echo("  ".join(filter(None, (f"{report.state:10}", report.name, report.detail))))
    if not shown:
        click.echo(f"no checkpoint is in {weights_folder(folder)}")
    wrong = [report.name for report in shown if report.state in ("damaged", "missing")]
    if wrong:
        raise ChecksumError(
            f"damaged or missing: {', '.join(wrong)}; 'resharp weights fetch' (or 'import', for "
            "your own) brings them back"
        )


@weights.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="Name of the model.  [default: from FILE]")
@click.option("--force", is_flag=True, help="Replace another file of that name.")
@parameter_option
@click.option("--license", default="unknown", show_default=True, help="License of the weights.")
@folder_option
def import_command(
    file: Path,
    name: str | None,
    force: bool,
    parameters: tuple[str, ...],
    license: str,
    folder: Path | None,
) -> None:
    """Copy a checkpoint of your own into the folder of weights.

    An official file, recognised by its name and hash, takes its official place.
    """
    if not file.is_file():
        raise CheckpointError(f"there is no file {file}")
    name = name or kebab(file.name)
    if not name:
        raise OptionError(f"no name can be made from {file.name}: choose one with --name")
    official = lookup(name)
    if official is not None:
        path = adopt(file, official, folder)
        _show_terms(official)
        click.echo(f"{official.name}: {path}")
        return
    # Not at the top: torch is slow to import, and only this command needs it.
    models = require(
        "resharp.models", feature="Reading a checkpoint", extra="export", package="torch"
    )
    found = models.read_checkpoint(file, parameters=parse_parameters(parameters))
    theirs = models.spandrel_models
    if theirs.is_foreign(found.architecture):
        raise CheckpointError(
            f"{file} is of {theirs.label(found.architecture)}: the folder of weights holds "
            f"resharp's own architectures only; export the file itself: resharp export {file}"
        )
    facts = found.facts
    if (facts.in_channels, facts.out_channels) not in ((3, 3), (1, 1)):
        raise CheckpointError(
            f"{file} works on {facts.in_channels} channels and gives {facts.out_channels}: this "
            "release runs networks for color pictures, 3 and 3, and gray ones, 1 and 1"
        )
    entry = register(
        file,
        name=name,
        architecture=found.architecture,
        parameters=found.parameters,
        scale=facts.scale,
        license=license,
        folder=folder,
        force=force,
    )
    click.echo(f"{entry.name}: {entry.architecture}, x{entry.scale}, {entry.file}")


def _show_terms(entry: ModelEntry) -> None:
    if entry.terms:
        click.echo(f"{entry.name} ({entry.license}): {entry.terms}", err=True)


def _cells(entry: ModelEntry, report: CheckpointStatus, marks: dict[str, int]) -> tuple[str, ...]:
    mark = f" [{marks[entry.terms]}]" if entry.terms else ""
    size = f"{entry.bytes / 1e6:.1f} MB" if entry.bytes else "?"
    state = report.state if report.state != "missing" else "-"
    return entry.name, entry.task, f"x{entry.scale}", size, entry.license + mark, state

"""The user's own checkpoints.

Each has a sidecar ``local/<name>.json`` that names the copy ``local/<name>-<hash>.<suffix>``. The
sidecar is replaced atomically, so a name always refers to one complete file, even while ``force``
replaces it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from resharp.checks import is_schema, shown
from resharp.errors import CheckpointError, OptionError
from resharp.fsutil import commit_file, copy_hashed
from resharp.paths import as_path, weights_folder
from resharp.reading import open_regular, read_json
from resharp.weights.catalogue import SUFFIXES, catalogue, kebab, lookup, unknown
from resharp.weights.entry import BUILTIN, ModelEntry, Parameter
from resharp.weights.files import writing

LOCAL = "local"
SCHEMA = 1

logger = logging.getLogger(__name__)


def register(
    file: str | os.PathLike[str],
    *,
    name: str,
    architecture: str,
    parameters: Mapping[str, Parameter],
    scale: int,
    license: str = "unknown",
    folder: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> ModelEntry:
    """Copy a checkpoint into the weights folder as a model called ``name`` (kebab-case).

    Registering the same bytes with the same description again changes nothing.

    Raises:
        OptionError: the name is invalid, belongs to the catalogue, or is used by another file and
            ``force`` is not set.
        CheckpointError: ``file`` cannot be read, or its description is invalid.
        OutputError: the copy cannot be written; existing files are unchanged.
    """
    source = as_path(file, "`file`", "a file")
    suffix = source.suffix.lower()
    _check_name(name)
    place = weights_folder(folder)
    with writing(place, f"local-{name}") as part:
        sha256, size = _copy(source, part)
        try:
            entry = ModelEntry(
                name=name,
                title=f"imported from {source.name}",
                task="upscale" if scale > 1 else "restoration",
                architecture=architecture,
                parameters=dict(parameters),
                scale=scale,
                file=f"{LOCAL}/{name}-{sha256[:16]}{suffix if suffix in SUFFIXES else '.pth'}",
                bytes=size,
                sha256=sha256,
                license=license,
            )
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        _check_free(entry, place, force)
        _store(entry, part, place)
    return entry


def adopt(
    file: str | os.PathLike[str], entry: ModelEntry, folder: str | os.PathLike[str] | None = None
) -> Path:
    """Copy a catalogue checkpoint that was obtained by other means into the weights folder.

    Raises:
        OptionError: ``file`` does not have the hash of ``entry``.
        CheckpointError: ``file`` cannot be read.
        OutputError: the copy cannot be written.
    """
    place = weights_folder(folder)
    path = place / entry.file
    with writing(place, entry.file) as part:
        sha256, _ = _copy(as_path(file, "`file`", "a file"), part)
        if sha256 != entry.sha256:
            raise OptionError(
                f"the name {shown(entry.name)} belongs to the catalogue, but {file} is not its "
                f"file (expected sha256 {entry.sha256 or 'unknown'}, found {sha256}): "
                "choose another `name`"
            )
        commit_file(part, path)
    return path


def local_entries(folder: str | os.PathLike[str] | None = None) -> Mapping[str, ModelEntry]:
    """Return the user's own checkpoints by name; damaged sidecars are logged and skipped.

    Raises:
        CheckpointError: the folder exists and cannot be read.
    """
    found: dict[str, ModelEntry] = {}
    place = weights_folder(folder) / LOCAL
    try:
        paths = sorted(path for path in place.iterdir() if path.suffix == ".json")
    except FileNotFoundError:
        return found
    except OSError as error:
        raise CheckpointError(
            f"cannot read the folder of checkpoints {place}: {error.strerror or error}. Choose "
            "another one with `weights_dir` or RESHARP_HOME."
        ) from error
    for path in paths:
        try:
            found[path.stem] = _read(path)
        except CheckpointError as error:
            logger.warning("%s", error)
    return found


def resolve(name: str, folder: str | os.PathLike[str] | None = None) -> ModelEntry:
    """Return the checkpoint called ``name``: the user's own, otherwise the catalogue's.

    The user's own takes precedence, so that a later catalogue cannot change what a name refers to.

    Raises:
        UnknownModelError: the name is unknown; the message suggests similar names.
        CheckpointError: the checkpoint is the user's own and its sidecar is damaged.
    """
    place = weights_folder(folder)
    sidecar = place / LOCAL / f"{kebab(name)}.json"
    if kebab(name) and os.path.isfile(sidecar):
        return _read(sidecar)
    entry = lookup(name)
    if entry is None:
        raise unknown(name, [*catalogue(), *local_entries(place)])
    return entry


def _check_name(name: str) -> None:
    if not name or kebab(name) != name:
        hint = f", e.g. {shown(kebab(name))}" if kebab(name) else ""
        raise OptionError(
            f"{shown(name)} is not a valid model name: use a-z, 0-9, '-' and '.'{hint}"
        )
    if name == BUILTIN:
        raise OptionError(f"{name} is the built-in model: choose another `name`")
    taken = lookup(name)
    if taken is not None:
        raise OptionError(
            f"the name {shown(name)} refers to {taken.name} in the catalogue: choose another `name`"
        )


def _copy(source: Path, part: Path) -> tuple[str, int]:
    """Copy and hash in one pass, so that the hash matches the copy."""
    try:
        reader = open_regular(source)
    except OSError as error:
        raise CheckpointError(f"cannot read {source}: {error.strerror or error}") from error
    with reader:
        sha256, size = copy_hashed(reader, part)
    if not size:
        raise CheckpointError(f"{source} is empty")
    return sha256, size


def _check_free(entry: ModelEntry, place: Path, force: bool) -> None:
    """Refuse to replace another file unless forced, in which case a damaged sidecar is ignored."""
    sidecar = place / LOCAL / f"{entry.name}.json"
    if force or not os.path.exists(sidecar):
        return
    old = _read(sidecar)
    if old.sha256 != entry.sha256:
        raise OptionError(
            f"the name {shown(entry.name)} is used by another file ({old.title}, sha256 "
            f"{old.sha256}): choose another `name`, or replace the file with `force`"
        )


def _store(entry: ModelEntry, part: Path, place: Path) -> None:
    commit_file(part, place / entry.file)
    text = json.dumps({"schema": SCHEMA, **entry.to_json()}, indent=2) + "\n"
    part.write_text(text, encoding="utf-8")
    commit_file(part, place / LOCAL / f"{entry.name}.json")
    for other in (place / LOCAL).iterdir():
        # Includes copies without a sidecar, whose process was killed before writing it.
        if _owner(other.name) == entry.name and other != place / entry.file:
            with suppress(OSError):
                other.unlink()


def _owner(file: str) -> str | None:
    """Return ``name`` for ``name-<16 hex>.suffix``; None for other files, e.g. a sidecar."""
    stem, _, tail = Path(file).stem.rpartition("-")
    copy = len(tail) == 16 and Path(file).suffix in SUFFIXES
    return stem if copy else None


def _read(sidecar: Path) -> ModelEntry:
    try:
        data = read_json(sidecar)
        schema = data.pop("schema", None)
        if not is_schema(schema, SCHEMA):
            raise ValueError(f"schema {schema!r}, expected {SCHEMA}")
        return ModelEntry.from_json(data)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{sidecar} does not describe a checkpoint ({error}): "
            "import the file again with `force`"
        ) from error

"""Checkpoints of the user's own.

Each has a sidecar ``local/<name>.json`` that names the copy ``local/<name>-<hash>.<suffix>``. The
sidecar is replaced in one step, so a name always means one whole file, also while ``force``
replaces it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from resharp.errors import CheckpointError, OptionError
from resharp.fsutil import commit_file, copy_hashed
from resharp.paths import weights_folder
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
    """Copy a checkpoint into the folder of weights, as a model called ``name`` (kebab-case).

    The same bytes with the same description again change nothing.

    Raises:
        OptionError: the name is the catalogue's or no name, or is taken by another file and
            ``force`` is not given.
        CheckpointError: ``file`` cannot be read, or its description makes no sense.
        OutputError: the copy cannot be written; what was there before is as it was.
    """
    source = Path(file).expanduser()
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
    """Copy a checkpoint of the catalogue, got by other means, to its place.

    Raises:
        OptionError: ``file`` does not have the hash of ``entry``.
        CheckpointError: ``file`` cannot be read.
        OutputError: the copy cannot be written.
    """
    place = weights_folder(folder)
    path = place / entry.file
    with writing(place, entry.file) as part:
        sha256, _ = _copy(Path(file).expanduser(), part)
        if sha256 != entry.sha256:
            raise OptionError(
                f"the name {entry.name} belongs to the catalogue and {file} is not that file "
                f"(expected sha256 {entry.sha256 or 'not known'}, found {sha256}): "
                "choose another name with `name`"
            )
        commit_file(part, path)
    return path


def local_entries(folder: str | os.PathLike[str] | None = None) -> Mapping[str, ModelEntry]:
    """The user's own checkpoints by name; a damaged sidecar is logged and left out."""
    found: dict[str, ModelEntry] = {}
    for path in sorted((weights_folder(folder) / LOCAL).glob("*.json")):
        try:
            found[path.stem] = _read(path)
        except CheckpointError as error:
            logger.warning("%s", error)
    return found


def resolve(name: str, folder: str | os.PathLike[str] | None = None) -> ModelEntry:
    """The checkpoint called ``name``: the user's own, or else the catalogue's.

    The user's own comes first, so that a later catalogue cannot change what a name means to them.

    Raises:
        UnknownModelError: there is none; the message has the nearest names of both.
        CheckpointError: it is the user's own and its sidecar is damaged.
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
        hint = f"; {kebab(name)!r} would do" if kebab(name) else ""
        raise OptionError(f"{name!r} is no name for a model: use a-z, 0-9, '-' and '.'{hint}")
    if name == BUILTIN:
        raise OptionError(f"{name} is the built-in model: choose another name with `name`")
    taken = lookup(name)
    if taken is not None:
        raise OptionError(
            f"the name {name!r} means {taken.name} of the catalogue: choose another with `name`"
        )


def _copy(source: Path, part: Path) -> tuple[str, int]:
    """Copy and hash in one pass, so that the hash is that of the copy."""
    try:
        reader = source.open("rb")
    except OSError as error:
        raise CheckpointError(f"cannot read {source}: {error.strerror or error}") from error
    with reader:
        sha256, size = copy_hashed(reader, part)
    if not size:
        raise CheckpointError(f"{source} is empty")
    return sha256, size


def _check_free(entry: ModelEntry, place: Path, force: bool) -> None:
    """Refuse to replace another file, unless forced (then a damaged sidecar does not matter)."""
    sidecar = place / LOCAL / f"{entry.name}.json"
    if force or not sidecar.exists():
        return
    old = _read(sidecar)
    if old.sha256 != entry.sha256:
        raise OptionError(
            f"the name {entry.name!r} is taken by another file ({old.title}, sha256 "
            f"{old.sha256}): choose another with `name`, or replace it with --force"
        )


def _store(entry: ModelEntry, part: Path, place: Path) -> None:
    commit_file(part, place / entry.file)
    text = json.dumps({"schema": SCHEMA, **entry.to_json()}, indent=2) + "\n"
    part.write_text(text, encoding="utf-8")
    commit_file(part, place / LOCAL / f"{entry.name}.json")
    for other in (place / LOCAL).iterdir():
        # Also copies whose sidecar never came because the process was killed in between.
        if _owner(other.name) == entry.name and other != place / entry.file:
            with suppress(OSError):
                other.unlink()


def _owner(file: str) -> str | None:
    """``name`` of ``name-<16 hex>.suffix``; None for any other file, such as a sidecar."""
    stem, _, tail = Path(file).stem.rpartition("-")
    copy = len(tail) == 16 and Path(file).suffix in SUFFIXES
    return stem if copy else None


def _read(sidecar: Path) -> ModelEntry:
    try:
        data = json.loads(sidecar.read_text(encoding="utf-8"))
        schema = data.pop("schema", None)
        if schema != SCHEMA:
            raise ValueError(f"schema {schema!r}, expected {SCHEMA}")
        return ModelEntry.from_json(data)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{sidecar} does not describe a checkpoint ({error}): "
            "import the file again with --force"
        ) from error

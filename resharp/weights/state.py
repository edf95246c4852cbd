"""Whether the files on the disk are the ones that were promised."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from resharp.errors import CheckpointError
from resharp.fsutil import sha256_of
from resharp.paths import weights_folder
from resharp.weights.catalogue import catalogue
from resharp.weights.entry import ModelEntry, check_sha256
from resharp.weights.local import local_entries, resolve

State = Literal["missing", "present", "ok", "damaged", "unverified"]
"""``present``: the size fits, the hash was not computed; ``unverified``: no hash is known."""


@dataclass(frozen=True, kw_only=True)
class CheckpointStatus:
    """What was found of one checkpoint."""

    name: str
    """Name of its entry."""
    path: Path
    """Where it is, or would be."""
    state: State
    """See :data:`State`."""
    detail: str = ""
    """For a damaged file: expected and found."""


def promised(entry: ModelEntry, folder: Path) -> str | None:
    """The hash of the catalogue, else the one that the user fetched the file with, else None."""
    if entry.sha256 is not None:
        return entry.sha256
    try:
        return check_sha256(recorded(entry, folder).read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def recorded(entry: ModelEntry, folder: Path) -> Path:
    """Where the user's own hash is kept, in the format of sha256sum."""
    return folder / f"{entry.file}.sha256"


def inspect(
    entry: ModelEntry, folder: Path, *, sha256: str | None = None, quick: bool = False
) -> CheckpointStatus:
    """Compare one file with its entry: size, then SHA-256 (not with ``quick``).

    Raises:
        CheckpointError: the file is there but cannot be read.
    """
    path = folder / entry.file
    wanted = sha256 or promised(entry, folder)
    try:
        state, detail = _compare(path, entry.bytes, wanted, quick)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    return CheckpointStatus(name=entry.name, path=path, state=state, detail=detail)


def verify(
    names: Iterable[str] | None = None, folder: str | os.PathLike[str] | None = None
) -> tuple[CheckpointStatus, ...]:
    """Hash the files of ``names``, or else of every known checkpoint, in the folder of weights.

    Raises:
        UnknownModelError: one of ``names`` is not known.
    """
    place = weights_folder(folder)
    if names is None:
        entries = [*catalogue().values(), *local_entries(place).values()]
    else:
        entries = [resolve(name, place) for name in names]
    return tuple(inspect(entry, place) for entry in entries)


def _compare(path: Path, size: int | None, wanted: str | None, quick: bool) -> tuple[State, str]:
    try:
        found_size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return "missing", ""
    if size is not None and found_size != size:
        return "damaged", f"expected {size} bytes, found {found_size}"
    if wanted is None:
        return "unverified", "no hash is known"
    if quick:
        return "present", ""
    found = sha256_of(path)
    if found != wanted:
        return "damaged", f"expected sha256 {wanted}, found {found}"
    return "ok", ""

"""Verification of checkpoint files on disk against their known hashes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from resharp.errors import CheckpointError
from resharp.fsutil import sha256_of
from resharp.paths import weights_folder
from resharp.reading import NotRegularError, kind_of, read_bounded
from resharp.weights.catalogue import catalogue
from resharp.weights.entry import ModelEntry, check_sha256
from resharp.weights.local import local_entries, resolve

State = Literal["missing", "present", "ok", "damaged", "unverified"]
"""``present``: the size matches, the hash was not computed; ``unverified``: no hash is known."""


@dataclass(frozen=True, kw_only=True)
class CheckpointStatus:
    """The state of one checkpoint on disk."""

    name: str
    """Name of the checkpoint's entry."""
    path: Path
    """Path of the file, whether or not it exists."""
    state: State
    """Result of the check, one of :data:`State`."""
    detail: str = ""
    """For a damaged file, the expected and the found size or hash."""


def promised(entry: ModelEntry, folder: Path) -> str | None:
    """Return the catalogue's hash, else the one the user fetched the file with, else None."""
    if entry.sha256 is not None:
        return entry.sha256
    try:
        return check_sha256(read_bounded(recorded(entry, folder), 4096).decode("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def recorded(entry: ModelEntry, folder: Path) -> Path:
    """Return the path of the file with the user's own hash, in the format of sha256sum."""
    return folder / f"{entry.file}.sha256"


def inspect(
    entry: ModelEntry, folder: Path, *, sha256: str | None = None, quick: bool = False
) -> CheckpointStatus:
    """Compare one file with its entry: size, then SHA-256 (skipped if ``quick``).

    Raises:
        CheckpointError: the file exists but cannot be read.
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
    """Hash the files of ``names``, or of every known checkpoint, in the weights folder.

    Raises:
        UnknownModelError: one of ``names`` is unknown.
    """
    place = weights_folder(folder)
    if names is None:
        entries = [*catalogue().values(), *local_entries(place).values()]
    else:
        entries = [resolve(name, place) for name in names]
    return tuple(inspect(entry, place) for entry in entries)


def _compare(path: Path, size: int | None, wanted: str | None, quick: bool) -> tuple[State, str]:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return "missing", ""
    if not stat.S_ISREG(found.st_mode):
        raise NotRegularError(f"it is {kind_of(found.st_mode)}, not a file")
    found_size = found.st_size
    if size is not None and found_size != size:
        return "damaged", f"expected {size} bytes, found {found_size}"
    if wanted is None:
        return "unverified", "no hash is known"
    if quick:
        return "present", ""
    sha256 = sha256_of(path)
    if sha256 != wanted:
        return "damaged", f"expected sha256 {wanted}, found {sha256}"
    return "ok", ""

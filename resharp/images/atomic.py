"""A file appears whole under its name, or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
from pathlib import Path

from resharp.errors import OutputError

SUFFIX = ".part"


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` under a temporary name beside `path`, flush it to the disk, then rename it.

    On any failure the temporary file is removed, `path` is as it was, and OutputError says why. A
    process that is killed leaves ``.<name>.<random>.part``. A link is followed; rights of a new
    file come from the umask, as for any file.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{_shortened(target.name)}.{secrets.token_hex(4)}{SUFFIX}")
    try:
        _write_flushed(temporary, data)
        temporary.replace(target)
    except OSError as exc:
        _remove(temporary)
        raise OutputError(f"{path} cannot be written: {_reason(exc, target)}") from exc
    except BaseException:
        _remove(temporary)
        raise
    _flush_folder(target.parent)


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove what killed processes left of `path`; the caller knows that nobody is writing it."""
    target = Path(os.path.realpath(path))
    name = glob.escape(f".{_shortened(target.name)}.")
    for part in target.parent.glob(f"{name}{'[0-9a-f]' * 8}{SUFFIX}"):
        _remove(part)


def take_name(part: Path, target: Path) -> None:
    """Give a file that is finished its name, so that a power cut leaves it whole or not there.

    Raises:
        OSError: the disk refused.
    """
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(part, target)
    _flush_folder(target.parent)


def _write_flushed(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, 0o666), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make the rename survive a power cut, where folders can be flushed (not on Windows)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _shortened(name: str) -> str:
    """At most 200 bytes, for the temporary name is longer and file systems stop at 255."""
    return name.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "ignore")


def _reason(exc: OSError, target: Path) -> str:
    if not os.path.isdir(target.parent):
        return f"the folder {target.parent} does not exist. Create it first."
    if os.path.isdir(target):
        return "a folder has that name. Choose another."
    if isinstance(exc, PermissionError):
        return f"{target.parent} may not be written to. Choose another folder."
    return f"{exc.strerror or exc}. Free space or choose another folder."

"""Atomic file writes, locks between processes, and SHA-256.

A file is written under a temporary name on the same file system, flushed to disk and renamed, so a
killed process or a power cut leaves either the old file or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from resharp.errors import OutputError
from resharp.optional import require
from resharp.reading import NotRegularError, kind_of, open_regular

PART = ".part"
"""Suffix of temporary files."""
CHUNK = 1 << 20


class LockTimeoutError(TimeoutError):
    """A lock still held by another process or thread."""


def write_whole(path: str | os.PathLike[str], data: Any, *, parents: bool = False) -> None:
    """Write bytes to a file atomically; see :func:`replacing`.

    Args:
        path: file to write.
        data: bytes, or any object with the buffer protocol.
        parents: create missing folders.

    Raises:
        OutputError: the file cannot be written; an existing file is left unchanged.
    """
    try:
        if parents:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_bytes(data)
    except OSError as error:
        reason = _reason(error, Path(os.path.realpath(path)))
        raise OutputError(f"{path} cannot be written: {reason}") from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a new, empty file that is renamed to ``path`` at the end of the block.

    On any exception the new file is removed and ``path`` is left unchanged. A killed process leaves
    ``.<name>.<random>.part`` in the same folder: see :func:`remove_leftovers`. Links are followed;
    the permissions of the new file come from the umask, as usual.

    Raises:
        NotRegularError: ``path`` is a pipe, a socket or a device: renaming would remove it.
        OSError: a file operation failed.
    """
    target = Path(os.path.realpath(path))
    _check_replaceable(target)
    part = target.with_name(f".{_shortened(target.name)}.{secrets.token_hex(4)}{PART}")
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield part
        commit_file(part, target)
    finally:
        _remove(part)


def make_folder(path: Path) -> list[Path]:
    """Create a folder and its parents; return those that may be removed if they stay empty.

    They are those that did not exist, the outermost first.

    Raises:
        OSError: the folder cannot be created.
    """
    missing = [one for one in (path, *path.parents) if not os.path.isdir(one)]
    path.mkdir(parents=True, exist_ok=True)
    # A path with ".." needs the folders that it leads through.
    return [] if ".." in path.parts else missing[::-1]


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove temporary files left by killed processes; no process may be writing ``path``."""
    target = Path(os.path.realpath(path))
    name = glob.escape(f".{_shortened(target.name)}.")
    for part in target.parent.glob(f"{name}{'[0-9a-f]' * 8}{PART}"):
        _remove(part)


def flush(path: Path) -> None:
    """Wait until the contents of a file are on disk.

    Raises:
        OSError: a file operation failed.
    """
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def commit_file(part: Path, target: Path) -> None:
    """Flush a finished file to disk and rename it to ``target``; create missing folders.

    Raises:
        OSError: a file operation failed.
    """
    flush(part)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, target)
    # Flush the folder so that the rename survives a power cut too (not possible on Windows).
    with contextlib.suppress(OSError):
        handle = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def locked(
    path: Path, *, timeout: float = -1, on_wait: Callable[[], object] | None = None
) -> Iterator[None]:
    """Hold a lock between processes and threads; the system releases that of a killed process.

    The lock file is kept: removing it while another process waits would let two processes in.

    Args:
        path: lock file; missing folders are created.
        timeout: seconds to wait for another holder; negative waits without limit.
        on_wait: called once if the lock is already held.

    Raises:
        LockTimeoutError: the lock was still held elsewhere after ``timeout``.
        OSError: the lock file cannot be created or locked.
    """
    filelock: Any = require("filelock", feature="Locking files", extra="")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path, thread_local=False)
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if on_wait is not None:
                on_wait()
            lock.acquire(timeout=timeout)
    except filelock.Timeout as error:
        raise LockTimeoutError(f"{path} is locked by another process") from error
    try:
        yield
    finally:
        lock.release()


def sha256_of(source: Path | bytes) -> str:
    """Return the SHA-256 of a file or of bytes, as 64 hexadecimal digits.

    Raises:
        NotRegularError: it is a pipe, a socket or a device.
        OSError: the file cannot be read.
    """
    if not isinstance(source, Path):
        return hashlib.sha256(source).hexdigest()
    digest = hashlib.sha256()
    with open_regular(source) as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def copy_hashed(source: BinaryIO, target: Path) -> tuple[str, int]:
    """Copy and hash a stream in one pass, so that the hash is that of the copy.

    Returns:
        SHA-256 as 64 hexadecimal digits, and the size in bytes.

    Raises:
        OSError: the source cannot be read, or the target cannot be written.
    """
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as stream:
        while chunk := source.read(CHUNK):
            size += stream.write(chunk)
            digest.update(chunk)
    return digest.hexdigest(), size


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _check_replaceable(target: Path) -> None:
    try:
        mode = target.stat().st_mode
    except OSError:  # it does not exist, or creating the file raises the proper error
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise NotRegularError(f"it is {kind_of(mode)}, which is not replaced")


def _shortened(name: str) -> str:
    """Limit a name to 200 bytes: temporary names are longer and file systems allow 255.

    The bytes are those of the file system's encoding, which may be ASCII: Python then holds all
    other bytes as surrogates, which must stay as they are.
    """
    while len(os.fsencode(name)) > 200:
        name = name[:-1]
    return name


def _reason(error: OSError, target: Path) -> str:
    if not os.path.isdir(target.parent):
        return f"the folder {target.parent} does not exist. Create it first."
    if os.path.isdir(target):
        return "it is a folder. Choose another name."
    if isinstance(error, NotRegularError):
        return f"{error}. Choose another name."
    if error.errno == errno.ENAMETOOLONG:
        return "its name is too long. Choose a shorter one."
    if isinstance(error, PermissionError):
        return f"no permission to write to {target.parent}. Choose another folder."
    return f"{error.strerror or error}. Free some space or choose another folder."

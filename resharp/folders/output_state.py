"""State of one folder of results: the journal of finished images, and the claims of each run.

Each claim is a file lock, which the system releases when its holder dies. Lock files are removed
only by a process that is alone in the folder: otherwise, one of two waiting processes could hold
the lock of a file that was removed. Each run holds a lock of its own to show that it is alive; its
name says which options it has.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resharp.errors import OutputError
from resharp.folders.discovery import Job
from resharp.fsutil import PART, make_folder, remove_leftovers, sha256_of
from resharp.optional import require
from resharp.outputs import (
    GATE,
    LOCK_TIMEOUT,
    JournalEntry,
    JournalPlace,
    OutputRecords,
    name_in,
)

logger = logging.getLogger(__name__)

RUN, LOCKS = "run-", "locks"


@dataclass(frozen=True)
class Lease:
    """The exclusive right of this run to write one result."""

    state: OutputState
    lock: Any | None
    """None if locks do not work in the folder."""


class OutputState:
    """Journal and locks of one folder of results, as seen by one run.

    Args:
        root: the folder; no file is created before :meth:`open`.
        place: where the journal is kept.
    """

    def __init__(self, root: Path, place: JournalPlace = "output") -> None:
        self.root, self.records = root, OutputRecords(root, place)
        self.snapshot = self.records.journal.lines
        """Number of lines at the start; later ones come from this run or concurrent ones."""
        self.alone = False
        """Whether another run with other options must not write to the folder at the same time,
        since that would leave a mixture."""
        self._filelock = require("filelock", feature="Restoring folders", extra="")
        self._threads = threading.Lock()
        self._run: Any = None
        self._held: set[Any] = set()
        self._claimed: set[str] = set()  # names of the locks that this run has made
        self._created: list[Path] = []
        self._tried = False

    def open(self, key: str) -> None:
        """Prepare to claim and to record results; a second call does nothing.

        If locks do not work beside the results, log a warning and keep the journal in the cache
        folder. If they do not work there either, nothing is recorded.

        Args:
            key: hash of the options of the run.

        Raises:
            OutputError: another run with other options is writing to the folder.
        """
        if self._tried:
            return
        self._tried = True
        while True:
            try:
                self._enter(key)
                return
            except OutputError:
                raise
            except OSError as error:
                if self.records.place == "cache":
                    text = "cannot lock files in %s, so no journal is kept and runs may collide: %s"
                    logger.warning(text, self._folder, error)
                    return
                text = "cannot lock files in %s, so the journal is kept in the cache folder: %s"
                logger.warning(text, self._folder, error)
                self.records.use_cache()
                self.snapshot = self.records.journal.lines

    def _enter(self, key: str) -> None:
        """Show that this run is alive, unless another one with other options is."""
        kind = "alone" if self.alone else "any"
        name = f"{RUN}{kind}-{key[:16]}-{os.getpid()}-{secrets.token_hex(4)}"
        with self._exclusive():
            mixed = self._mixed(key, self._folder)
            if any(self.alone or one.split("-")[1] == "alone" for one in mixed):
                raise OutputError(self._mixture)
            run = self._lock(name)
            run.acquire(timeout=1)  # a run with its journal in the other place may be looking at it
            # Such a run does the same, so that of two runs at least one sees the other.
            mixed = self._mixed(key, self.records.other_folder / LOCKS) if self.alone else []
            if any(one.split("-")[1] == "alone" for one in mixed):
                run.release()
                self._remove_locks()
                raise OutputError(self._mixture)
            self._run = run

    @property
    def _mixture(self) -> str:
        return (
            f"another run with other options is writing to {self.root}, and the results would be a "
            "mixture: wait until it has ended, or choose another `dst`"
        )

    def _mixed(self, key: str, folder: Path) -> list[str]:
        """Return the names of the other runs that have other options."""
        return [one for one in self._others(folder) if one.split("-")[2] != key[:16]]

    @property
    def _folder(self) -> Path:
        return self.records.folder / LOCKS

    @property
    def has_locks(self) -> bool:
        """Whether another run is alive in the folder, or has been killed."""
        return os.path.isdir(self._folder)

    @property
    def _is_open(self) -> bool:
        return self._run is not None

    def make_folder(self, folder: Path) -> None:
        """Create a folder of results and its parents; those that stay empty are removed at the end.

        Raises:
            OSError: it cannot be created.
        """
        with self._threads:
            self._created += make_folder(folder)

    def claim(self, job: Job) -> Lease | None:
        """Claim a result, and remove what a killed run left of it; None if another run has it.

        Raises:
            OutputError: the lock file cannot be created or locked.
        """
        if not self._is_open:
            return Lease(self, None)
        lock = self._lock(sha256_of(os.fsencode(job.name))[:40])
        try:
            self.make_folder(self._folder)
            before = os.path.exists(lock.lock_file)
            lock.acquire(timeout=0)
        except self._filelock.Timeout:
            return None
        except OSError as error:
            raise OutputError(f"cannot lock files in {self._folder}: {error}") from error
        with self._threads:
            self._held.add(lock)
            self._claimed.add(Path(lock.lock_file).name)
        if before:
            remove_leftovers(job.target)
        return Lease(self, lock)

    def release(self, lease: Lease) -> None:
        """Release a claim."""
        if lease.lock is not None:
            with self._threads:
                self._held.discard(lease.lock)
            lease.lock.release()

    def record(self, entry: JournalEntry) -> None:
        """Add an entry to the journal; without one, it counts for this run only.

        Raises:
            OutputError: the journal cannot be written.
        """
        if not self._is_open:
            self.records.remember(entry)
            return
        try:
            with self._exclusive():
                self.records.journal.append(entry)
        except OSError as error:
            self.records.remember(entry)
            raise OutputError(f"cannot write the journal in {self.root}: {error}") from error

    def close(self) -> None:
        """Release all claims; the last run in the folder compacts the journal and removes locks.

        A run that made nothing leaves nothing: neither the folder of the journal nor folders for
        results that were not made.
        """
        if not self._tried:
            return
        if self._is_open:
            for lock in tuple(self._held):
                self.release(Lease(self, lock))
            try:
                with self._exclusive():
                    self._run.release()
                    if not self._remove_locks():
                        return
                    self.records.journal.compact()
            except OSError:
                self._run.release()  # the folder was removed or is read-only: no cleanup
        for folder in (self._folder, self.records.folder):
            with contextlib.suppress(OSError):  # it is not empty, or was not created
                folder.rmdir()
        for folder in sorted(self._created, reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _remove_locks(self) -> bool:
        """Remove all locks, unless another run is alive; return whether that was done."""
        if self._others(self._folder):
            return False
        locks = list(self._folder.glob("*.lock"))
        if any(path.name not in {*self._claimed, f"{GATE}.lock"} for path in locks):
            self._remove_leftovers()
        for path in locks:  # the gate too: see _exclusive
            with contextlib.suppress(OSError):  # Windows keeps files that are open
                path.unlink()
        return True

    def _remove_leftovers(self) -> None:
        """Remove partial files of killed runs whose images this run had no need to claim."""
        if self._others(self.records.other_folder / LOCKS):
            return
        for folder in {(self.root / name).parent for name in self.records.names}:
            for path in folder.glob(f".*{PART}"):
                target = path.with_name(path.name[1:].removesuffix(PART).rpartition(".")[0] or "-")
                if self.records.all(name_in(target, self.root)):
                    remove_leftovers(target)

    def _lock(self, name: str) -> Any:
        # One thread claims and another one releases, so the lock must not belong to a thread.
        return self._filelock.FileLock(self._folder / f"{name}.lock", thread_local=False)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Exclude all other processes from writing the journal and removing locks.

        Raises:
            OSError: the lock cannot be acquired.
        """
        path = self._folder / f"{GATE}.lock"
        while True:
            self.make_folder(self._folder)  # it may have been removed
            gate = self._lock(GATE)
            with self._threads, gate.acquire(timeout=LOCK_TIMEOUT, poll_interval=0.005):
                if _is_file_of(gate, path):
                    yield
                    return
            # A run that was alone has removed the file while this one waited for its lock.

    def _others(self, folder: Path) -> list[str]:
        """Return the names of the other runs in a folder of locks; remove the locks of dead ones.

        In the folder of the other place, these are left to the runs there.
        """
        alive = []
        for path in folder.glob(f"{RUN}*.lock"):
            if self._run is not None and self._run.is_locked and path == Path(self._run.lock_file):
                continue
            try:
                with self._filelock.FileLock(path, thread_local=False).acquire(timeout=0):
                    pass
                if folder == self._folder:
                    path.unlink(missing_ok=True)
            except self._filelock.Timeout:
                alive.append(path.stem)
            except OSError:
                if folder == self._folder:
                    raise
        return alive


def _is_file_of(lock: Any, path: Path) -> bool:
    """Return whether a lock is held on the file that is at its path now."""
    handle = getattr(getattr(lock, "_context", None), "lock_file_fd", None)
    try:
        now = path.stat()
        return not isinstance(handle, int) or os.path.samestat(os.fstat(handle), now)
    except OSError:
        return False

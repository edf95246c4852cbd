"""State of one folder of results: the journal of finished images, and the claims of each run.

The journal is a file of JSON lines that several processes append to. A line is written at once and
read only when it is complete; the last line of a target counts. Invalid lines are ignored, e.g. a
partial one after a power cut.

Each claim is a file lock, which the system releases when its holder dies. Lock files are removed
only by a process that is alone in the folder: otherwise, one of two waiting processes could hold
the lock of a file that was removed. Each run holds a lock of its own to show that it is alive.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from resharp.errors import OutputError
from resharp.folders.discovery import Job
from resharp.fsutil import remove_leftovers, sha256_of, write_whole
from resharp.optional import require

logger = logging.getLogger(__name__)

FOLDER = ".resharp"
"""Name of our folder in the folder of results; hidden folders are not searched for images."""
SCHEMA = 1
"""Version of the journal's lines; lines of other versions are ignored."""
SPARE = 200
"""Number of lines, beyond two per target, above which a journal is compacted."""
MUTEX, RUN = "gate", "run-"
LOCK_TIMEOUT = 60.0
"""Seconds to wait for the mutex, which is never held for more than a moment."""


@dataclass(frozen=True)
class FileStat:
    """A file's size and time, to detect a change without reading the file."""

    size: int
    """Size in bytes."""
    mtime_ns: int
    """Time of the last change, in nanoseconds."""

    @classmethod
    def of(cls, path: Path) -> FileStat:
        """Read them from the file system.

        Raises:
            OSError: the file does not exist or is not accessible.
        """
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns)


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """One finished image."""

    target: str
    """Path of the result, relative to the folder of results, with slashes."""
    source: str
    """Path of the input, relative to the folder of results if they are on one drive."""
    key: str
    """Hash of everything that the result depends on, from :meth:`SkipPolicy.key`."""
    input_sha256: str
    """Hash of the input file."""
    input_size: int
    input_mtime_ns: int
    output_sha256: str
    """Hash of the file that was written."""
    output_size: int
    output_mtime_ns: int

    def line(self) -> bytes:
        """Return the entry as a line of the journal."""
        return json.dumps({"v": SCHEMA, **asdict(self)}).encode("ascii") + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> JournalEntry | None:
        """Parse a line; return None if it is not a valid line of this version."""
        try:
            values = json.loads(line)
        except ValueError:
            return None
        if not isinstance(values, dict) or values.pop("v", None) != SCHEMA:
            return None
        types = {field.name: field.type for field in fields(cls)}
        found = {name: type(value).__name__ for name, value in values.items()}
        return cls(**values) if found == types else None


class Journal:
    """The entries of one journal file. Safe to use from several threads.

    Args:
        path: path of the file, which may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._warned = False
        self._forget()

    def _forget(self) -> None:
        self._entries: dict[str, tuple[int, JournalEntry]] = {}
        self.lines, self._offset = 0, 0
        self._file: tuple[int, int] | None = None

    def refresh(self) -> None:
        """Read the lines that any process has appended since the last call."""
        with self._lock:
            try:
                with self._path.open("rb") as file:
                    self._read(file)
            except FileNotFoundError:
                self._forget()
            except OSError as error:
                logger.warning(
                    "cannot read %s, so results are recognized by name only: %s", self._path, error
                )

    def _read(self, file: Any) -> None:
        found = os.fstat(file.fileno())
        if (found.st_dev, found.st_ino) != self._file or found.st_size < self._offset:
            self._forget()
            self._file = (found.st_dev, found.st_ino)
        file.seek(self._offset)
        whole, end, _ = file.read().rpartition(b"\n")
        self._offset += len(whole + end)
        for line in whole.split(b"\n") if end else ():
            self.lines += 1
            entry = JournalEntry.parse(line)
            if entry is not None:
                self._entries[entry.target] = (self.lines, entry)
        if found.st_size and not self._entries and not self._warned:
            self._warned = True
            text = "%s has no valid entries, so results are recognized by name only"
            logger.warning(text, self._path)

    def get(self, target: str, since: int = -1) -> JournalEntry | None:
        """Return the newest entry of a target if its line number is above ``since``, else None."""
        line, entry = self._entries.get(target, (-1, None))
        return entry if line > since else None

    def append(self, entry: JournalEntry) -> None:
        """Append a line; the caller holds the lock that excludes other processes.

        Raises:
            OSError: the file cannot be written.
        """
        with self._path.open("a+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 1, 0))
            torn = size and file.read(1) != b"\n"  # a process was killed while writing a line
            file.write((b"\n" if torn else b"") + entry.line())

    def compact(self) -> None:
        """Drop outdated lines if they are the majority; no other process may use the file."""
        self.refresh()
        if self.lines > 2 * len(self._entries) + SPARE:
            lines = [entry.line() for _, entry in self._entries.values()]
            with contextlib.suppress(OSError):
                write_whole(self._path, b"".join(lines))


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
    """

    def __init__(self, root: Path) -> None:
        self.root, self._folder = root, root / FOLDER / "locks"
        self.journal = Journal(root / FOLDER / "journal.jsonl")
        self.journal.refresh()
        self.snapshot = self.journal.lines
        """Number of lines at the start; later ones come from this run or concurrent ones."""
        self._filelock = require("filelock", feature="Restoring folders", extra="")
        self._threads = threading.Lock()
        self._mutex, self._run = (
            self._lock(MUTEX),
            self._lock(f"{RUN}{os.getpid()}-{secrets.token_hex(4)}"),
        )
        self._held: set[Any] = set()
        self._tried = False

    def open(self) -> None:
        """Prepare to claim and to record results; a second call does nothing.

        If locks do not work, log a warning; results are then recognized by name only.
        """
        if self._tried:
            return
        self._tried = True
        try:
            with self._exclusive():
                self._run.acquire(timeout=0)
        except OSError as error:
            text = "cannot lock files in %s, so no journal is kept and runs may collide: %s"
            logger.warning(text, self._folder, error)

    def claim(self, job: Job) -> Lease | None:
        """Claim a result, and remove what a killed run left of it; None if another run has it.

        Raises:
            OutputError: the lock file cannot be created or locked.
        """
        if not self._run.is_locked:
            return Lease(self, None)
        lock = self._lock(sha256_of(os.fsencode(job.name))[:40])
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            before = os.path.exists(lock.lock_file)
            lock.acquire(timeout=0)
        except self._filelock.Timeout:
            return None
        except OSError as error:
            raise OutputError(f"cannot lock files in {self._folder}: {error}") from error
        with self._threads:
            self._held.add(lock)
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
        """Add an entry to the journal.

        Raises:
            OutputError: the journal cannot be written.
        """
        if not self._run.is_locked:
            return
        try:
            with self._exclusive():
                self.journal.append(entry)
        except OSError as error:
            raise OutputError(f"cannot write the journal in {self.root}: {error}") from error

    def close(self) -> None:
        """Release all claims; the last run in the folder compacts the journal and removes locks."""
        if not self._run.is_locked:
            return
        for lock in tuple(self._held):
            self.release(Lease(self, lock))
        try:
            with self._exclusive():
                self._run.release()
                if not self._others():
                    self.journal.compact()
                    for path in self._folder.glob("*.lock"):
                        if path.name != f"{MUTEX}.lock":
                            path.unlink(missing_ok=True)
        except OSError:
            self._run.release()  # the folder was removed or is read-only: no cleanup

    def source_of(self, job: Job) -> str:
        """Return a job's input as it is named in the journal."""
        path = os.path.realpath(job.source)
        with contextlib.suppress(ValueError):  # on another Windows drive
            path = os.path.relpath(path, os.path.realpath(self.root))
        return path.replace(os.sep, "/")

    def _lock(self, name: str) -> Any:
        # One thread claims and another one releases, so the lock must not belong to a thread.
        return self._filelock.FileLock(self._folder / f"{name}.lock", thread_local=False)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Exclude all other processes from writing the journal and removing locks.

        Raises:
            OSError: the lock cannot be acquired.
        """
        with self._threads:
            self._folder.mkdir(parents=True, exist_ok=True)  # it may have been removed
            with self._mutex.acquire(timeout=LOCK_TIMEOUT, poll_interval=0.005):
                yield

    def _others(self) -> bool:
        """Whether another run is alive in the folder; remove the locks of dead ones."""
        alive = False
        for path in self._folder.glob(f"{RUN}*.lock"):
            try:
                with self._lock(path.stem).acquire(timeout=0):
                    pass
                path.unlink(missing_ok=True)
            except self._filelock.Timeout:
                alive = True
        return alive

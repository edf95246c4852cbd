"""State of one folder of results: the journal of what was made, and who is at work on what.

The journal is a file of JSON lines that several processes append to. A line is written at once and
read only when its end is there; the last line of a target counts. What is no line of ours, a half
one after a power cut say, is passed over.

Each claim is a lock on a file, which the system gives back when its holder dies. Files of locks are
removed only by a process that is alone in the folder: removed earlier, one of two waiting processes
could hold the lock of a file that is gone. That is what the lock of each run says.
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
"""In the folder of results; hidden, so that nothing in it is taken for a picture."""
SCHEMA = 1
"""Version of a line of the journal; lines of others are passed over."""
SPARE = 200
"""Lines that a journal may hold beyond two for each target, before it is written anew."""
MUTEX, RUN = "gate", "run-"
LOCK_TIMEOUT = 60.0
"""Seconds to wait for the mutex, which is never held for more than a moment."""


@dataclass(frozen=True)
class FileStat:
    """A file's size and time, by which a change is seen without reading it."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileStat:
        """Raises OSError where there is no such file."""
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns)


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """One result."""

    target: str
    """Its path below the folder of results, with slashes."""
    source: str
    """Path of its input, relative to the folder of results where there is such a path."""
    key: str
    """See :meth:`SkipPolicy.key`."""
    input_sha256: str
    """Of the bytes that were restored."""
    input_size: int
    input_mtime_ns: int
    output_sha256: str
    """Of the bytes that were written."""
    output_size: int
    output_mtime_ns: int

    def line(self) -> bytes:
        """As it is stored."""
        return json.dumps({"v": SCHEMA, **asdict(self)}).encode("ascii") + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> JournalEntry | None:
        """Read a line; None if it is none of this schema."""
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
    """The entries of one file. Safe to use from several threads.

    Args:
        path: of the file; it need not exist.
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
        """Read what was appended since the last time, by whomever."""
        with self._lock:
            try:
                with self._path.open("rb") as file:
                    self._read(file)
            except FileNotFoundError:
                self._forget()
            except OSError as error:
                logger.warning(
                    "%s cannot be read, so results are known by name: %s", self._path, error
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
            logger.warning("%s holds nothing that is known: results are known by name", self._path)

    def get(self, target: str, since: int = -1) -> JournalEntry | None:
        """The newest entry of a target, if it was read after so many :attr:`lines`."""
        line, entry = self._entries.get(target, (-1, None))
        return entry if line > since else None

    def append(self, entry: JournalEntry) -> None:
        """Add a line; the caller holds the lock that keeps other processes from it.

        Raises:
            OSError: the disk refused.
        """
        with self._path.open("a+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 1, 0))
            torn = size and file.read(1) != b"\n"  # somebody was killed in the middle of a line
            file.write((b"\n" if torn else b"") + entry.line())

    def compact(self) -> None:
        """Write it anew if most of it is history; the caller is alone with it."""
        self.refresh()
        if self.lines > 2 * len(self._entries) + SPARE:
            lines = [entry.line() for _, entry in self._entries.values()]
            with contextlib.suppress(OSError):
                write_whole(self._path, b"".join(lines))


@dataclass(frozen=True)
class Lease:
    """That a result is this run's to make."""

    state: OutputState
    lock: Any | None
    """None where nothing can be locked."""


class OutputState:
    """Journal and locks of one folder of results, as seen by one run.

    Args:
        root: the folder; nothing is made before :meth:`open`.
    """

    def __init__(self, root: Path) -> None:
        self.root, self._folder = root, root / FOLDER / "locks"
        self.journal = Journal(root / FOLDER / "journal.jsonl")
        self.journal.refresh()
        self.snapshot = self.journal.lines
        """Lines that were there at the first look; what comes later is another run's beside it."""
        self._filelock = require("filelock", feature="Restoring folders", extra="")
        self._threads = threading.Lock()
        self._mutex, self._run = (
            self._lock(MUTEX),
            self._lock(f"{RUN}{os.getpid()}-{secrets.token_hex(4)}"),
        )
        self._held: set[Any] = set()
        self._tried = False

    def open(self) -> None:
        """Begin to claim and to write; doing so twice does nothing.

        Where that cannot be, a warning says so, and results are known by their names alone.
        """
        if self._tried:
            return
        self._tried = True
        try:
            with self._exclusive():
                self._run.acquire(timeout=0)
        except OSError as error:
            text = f"nothing can be locked in {self._folder}: {error}"
            logger.warning("%s: no journal is kept there, and two runs may collide", text)

    def claim(self, job: Job) -> Lease | None:
        """Claim a result; None if another run has it. What a killed one left of it is removed.

        Raises:
            OutputError: nothing can be locked.
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
            raise OutputError(f"nothing can be locked in {self._folder}: {error}") from error
        with self._threads:
            self._held.add(lock)
        if before:
            remove_leftovers(job.target)
        return Lease(self, lock)

    def release(self, lease: Lease) -> None:
        """Give a claim back."""
        if lease.lock is not None:
            with self._threads:
                self._held.discard(lease.lock)
            lease.lock.release()

    def record(self, entry: JournalEntry) -> None:
        """Write that a result was made.

        Raises:
            OutputError: the journal cannot be written.
        """
        if not self._run.is_locked:
            return
        try:
            with self._exclusive():
                self.journal.append(entry)
        except OSError as error:
            raise OutputError(f"the journal in {self.root} cannot be written: {error}") from error

    def close(self) -> None:
        """Give all claims back; whoever is the last one in the folder tidies up."""
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
            self._run.release()  # the folder is gone or read-only: nothing to tidy up

    def source_of(self, job: Job) -> str:
        """A job's input as the journal names it."""
        path = os.path.realpath(job.source)
        with contextlib.suppress(ValueError):  # another drive of Windows
            path = os.path.relpath(path, os.path.realpath(self.root))
        return path.replace(os.sep, "/")

    def _lock(self, name: str) -> Any:
        # Claimed by one thread and given back by another, so not of a thread.
        return self._filelock.FileLock(self._folder / f"{name}.lock", thread_local=False)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Be the only one, of all processes, who writes to the journal or removes locks.

        Raises:
            OSError: no lock can be had.
        """
        with self._threads:
            self._folder.mkdir(parents=True, exist_ok=True)  # somebody may have tidied up
            with self._mutex.acquire(timeout=LOCK_TIMEOUT, poll_interval=0.005):
                yield

    def _others(self) -> bool:
        """Whether another run is alive in the folder; what the dead left is removed."""
        alive = False
        for path in self._folder.glob(f"{RUN}*.lock"):
            try:
                with self._lock(path.stem).acquire(timeout=0):
                    pass
                path.unlink(missing_ok=True)
            except self._filelock.Timeout:
                alive = True
        return alive

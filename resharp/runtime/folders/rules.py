"""Whether a picture is to be done: by the names that are there, and by the journal."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resharp.fsutil import sha256_of
from resharp.images.formats import choose
from resharp.runtime.folders.jobs import Job
from resharp.runtime.folders.journal import Entry, key_of
from resharp.runtime.folders.ledger import Ledger


@dataclass(frozen=True)
class Verdict:
    """What is to be done about a picture."""

    do: bool
    """Restore it."""
    redone: bool = False
    """It was done before, of other contents, with another model or other options."""
    note: str = ""
    """Why not, where that is no matter of course."""


DO, SKIP = Verdict(True), Verdict(False)
CHANGED = Verdict(False, note="changed since it was written: left as it is; --overwrite redoes it")


@dataclass(frozen=True)
class Stamp:
    """A file's size and time, by which a change is seen without reading it."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Raises OSError where there is no such file."""
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns)


class Rules:
    """Decides about pictures.

    Args:
        recipe: gives the key of what makes the results; called only where it matters.
        quality: of the encoder, as it was given.
        overwrite: redo what is done.
    """

    def __init__(self, recipe: Callable[[], str], quality: int | None, overwrite: bool) -> None:
        self._recipe, self._quality, self._overwrite = recipe, quality, overwrite
        self._key: str | None = None
        self._hashes: dict[tuple[Path, Stamp], str] = {}

    def decide(self, job: Job, ledger: Ledger | None) -> Verdict:
        """What is to be done about a picture, as things are.

        Raises:
            ResharpError: the model cannot be found.
        """
        if ledger is None or not os.path.exists(job.target):
            return DO if self._overwrite or not os.path.exists(job.target) else SKIP
        entry = ledger.journal.get(job.name)
        if self._overwrite:
            fresh = ledger.journal.since(job.name, ledger.mark)  # by a run beside this one
            done = fresh and entry is not None and self._judge(job, ledger, entry) == SKIP
            return SKIP if done else DO
        return SKIP if entry is None else self._judge(job, ledger, entry)

    def _judge(self, job: Job, ledger: Ledger, entry: Entry) -> Verdict:
        try:
            if not self._is_ours(job.target, entry):
                return CHANGED
            key = self.key(job, self._input(job.source, entry))
        except OSError:  # gone, or not to be read: who restores it says so
            return SKIP
        if key == entry.key:
            return SKIP
        if ledger.source_of(job) != entry.source:
            text = f"it is the result of {entry.source}: choose another -o, or --overwrite"
            return Verdict(False, note=text)
        return Verdict(True, redone=True)

    def key(self, job: Job, input_sha256: str) -> str:
        """The key of a result, see :func:`key_of`."""
        if self._key is None:
            self._key = self._recipe()
        form = choose(job.target.suffix)
        quality = None if form.quality is None else self._quality or form.quality
        options = hashlib.sha256(f"{self._key} {form.name} {quality}".encode()).hexdigest()
        return key_of(options, input_sha256)

    def _is_ours(self, target: Path, entry: Entry) -> bool:
        """Whether a result is as it was written, also if it was copied since."""
        found = Stamp.of(target)
        if found.size != entry.output_size:
            return False
        if found.mtime_ns == entry.output_mtime_ns:
            return True
        return self._hash(target, found) == entry.output_sha256

    def _input(self, source: Path, entry: Entry) -> str:
        found = Stamp.of(source)
        if found == Stamp(entry.input_size, entry.input_mtime_ns):
            return entry.input_sha256
        return self._hash(source, found)

    def _hash(self, path: Path, stamp: Stamp) -> str:
        if (path, stamp) not in self._hashes:
            self._hashes[path, stamp] = sha256_of(path)
        return self._hashes[path, stamp]

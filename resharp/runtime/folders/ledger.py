"""The book of one folder of results: its journal, and who is at work on what."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resharp.errors import OutputError
from resharp.images import remove_leftovers
from resharp.runtime.folders.claims import Claims
from resharp.runtime.folders.jobs import Job
from resharp.runtime.folders.journal import Entry, Journal

log = logging.getLogger(__name__)

FOLDER = ".resharp"
"""In the folder of results; hidden, so that nothing in it is taken for a picture."""


@dataclass(frozen=True)
class Held:
    """That a result is this run's to make."""

    lock: Any | None
    """None where nothing can be claimed."""


class Ledger:
    """Journal and claims of one folder of results.

    Args:
        root: the folder; nothing is made before :meth:`open`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.journal = Journal(root / FOLDER / "journal.jsonl")
        self.journal.refresh()
        self.mark = self.journal.lines
        """Lines that were there at the first look; what comes later is another run's beside it."""
        self._claims: Claims | None = None
        self._tried = False

    def open(self) -> None:
        """Begin to claim and to write; doing so twice does nothing.

        Where that cannot be, a warning says so, and results are known by their names alone.
        """
        if self._tried:
            return
        self._tried = True
        try:
            self._claims = Claims(self.root / FOLDER / "locks")
        except OutputError as error:
            log.warning("%s: no journal is kept there, and two runs may collide", error)

    def claim(self, job: Job) -> Held | None:
        """Claim a result; None if another run has it. What a killed one left of it is removed.

        Raises:
            OutputError: nothing can be locked.
        """
        if self._claims is None:
            return Held(None)
        claimed = self._claims.claim(job.name)
        if claimed is None:
            return None
        lock, before = claimed
        if before:
            remove_leftovers(job.target)
        return Held(lock)

    def release(self, held: Held) -> None:
        """Give a claim back."""
        if self._claims is not None and held.lock is not None:
            self._claims.release(held.lock)

    def record(self, entry: Entry) -> None:
        """Write that a result was made.

        Raises:
            OutputError: the journal cannot be written.
        """
        if self._claims is None:
            return
        try:
            with self._claims.alone():
                self.journal.append(entry)
        except OSError as error:
            raise OutputError(f"the journal in {self.root} cannot be written: {error}") from error

    def close(self) -> None:
        """Give all claims back, and leave no clutter."""
        if self._claims is not None:
            self._claims.close(self.journal.compact)
            self._claims = None

    def source_of(self, job: Job) -> str:
        """A job's input as the journal names it."""
        path = os.path.realpath(job.source)
        with contextlib.suppress(ValueError):  # another drive of Windows
            path = os.path.relpath(path, os.path.realpath(self.root))
        return path.replace(os.sep, "/")

"""Claims on results, so that several processes on one folder never do a picture twice.

Each claim is a lock on a file, which the system gives back when its holder dies. Files of locks are
removed only by a process that is alone in the folder: removed earlier, one of two waiting processes
could hold the lock of a file that is gone. That is what the lock of each run says.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from resharp.errors import OutputError
from resharp.optional import require

GATE, RUN = "gate.lock", "run-"
PATIENCE = 60.0
"""Seconds to wait for the gate, which is never held for more than a moment."""


class Claims:
    """The locks of one folder, as seen by one run.

    Args:
        folder: of the locks; made if need be.

    Raises:
        OutputError: it cannot be made, or nothing can be locked there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mutex = threading.Lock()
        self._held: set[Any] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._gate = self._lock(GATE)
            self._run = self._lock(f"{RUN}{os.getpid()}-{secrets.token_hex(4)}.lock")
            with self.alone():
                self._run.acquire(timeout=0)
        except OSError as error:
            raise OutputError(f"nothing can be locked in {folder}: {error}") from error

    def _lock(self, name: str) -> Any:
        filelock = require("filelock", feature="Restoring folders", extra="")
        # Claimed by one thread and given back by another, so not of a thread.
        return filelock.FileLock(self._folder / name, thread_local=False)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only one, of all processes, who writes to the journal or removes locks.

        Raises:
            OSError: no lock can be had.
        """
        with self._mutex:
            self._folder.mkdir(parents=True, exist_ok=True)  # somebody may have tidied up
            with self._gate.acquire(timeout=PATIENCE, poll_interval=0.005):
                yield

    def claim(self, name: str) -> tuple[Any, bool] | None:
        """Claim a result; None if another run has it.

        Returns:
            The lock, and whether somebody had it before, who may have died.

        Raises:
            OutputError: nothing can be locked there.
        """
        filelock = require("filelock", feature="Restoring folders", extra="")
        lock = self._lock(f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:40]}.lock")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            before = os.path.exists(lock.lock_file)
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return None
        except OSError as error:
            raise OutputError(f"nothing can be locked in {self._folder}: {error}") from error
        with self._mutex:
            self._held.add(lock)
        return lock, before

    def release(self, claim: Any) -> None:
        """Give a claim back."""
        with self._mutex:
            self._held.discard(claim)
        claim.release()

    def close(self, alone: Callable[[], object]) -> None:
        """Give all back; whoever is the last one in the folder calls ``alone`` and tidies up."""
        for claim in tuple(self._held):
            self.release(claim)
        try:
            with self.alone():
                self._run.release()
                if not self._others():
                    alone()
                    self._sweep()
        except OSError:
            self._run.release()  # the folder is gone or read-only: nothing to tidy up

    def _others(self) -> bool:
        """Whether another run is alive in the folder; what the dead left is removed."""
        filelock = require("filelock", feature="Restoring folders", extra="")
        alive = False
        for path in self._folder.glob(f"{RUN}*.lock"):
            try:
                with self._lock(path.name).acquire(timeout=0):
                    pass
                path.unlink(missing_ok=True)
            except filelock.Timeout:
                alive = True
        return alive

    def _sweep(self) -> None:
        for path in self._folder.glob("*.lock"):
            if path.name != GATE:
                path.unlink(missing_ok=True)

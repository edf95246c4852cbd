"""Decides which images to restore, claims them, and collects the results."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resharp.errors import OptionError
from resharp.folders.discovery import Job
from resharp.folders.output_state import FileStat, JournalEntry, OutputState
from resharp.folders.report import Result
from resharp.folders.task import ClaimedImage, FailedImage
from resharp.fsutil import sha256_of
from resharp.images.formats import choose

OnResult = Callable[[Result], object]
"""Called with each result immediately, from any thread but one at a time."""


@dataclass(frozen=True)
class Decision:
    """Whether to restore an image."""

    restore: bool
    redone: bool = False
    """Whether it replaces a result made from a different input, model or options."""
    note: str = ""
    """Why it is not restored, if the user should know."""


DO, SKIP = Decision(True), Decision(False)
CHANGED = Decision(False, note="changed since it was written, so it is kept; `overwrite` redoes it")


class SkipPolicy:
    """Decides whether to restore an image, from the existing files and the journal.

    Args:
        config_key: returns the key of the config; called only when it is needed.
        quality: quality of the encoder; None is the format's default.
        overwrite: restore finished images again.
    """

    def __init__(self, config_key: Callable[[], str], quality: int | None, overwrite: bool) -> None:
        self._config_key, self._quality, self._overwrite = config_key, quality, overwrite
        self._key: str | None = None
        self._hashes: dict[tuple[Path, FileStat], str] = {}

    def decide(self, job: Job, state: OutputState | None) -> Decision:
        """Decide about one image, from the files and the journal as of now.

        Raises:
            ResharpError: the model cannot be found.
        """
        if not os.path.exists(job.target):
            return DO
        if state is None:
            return DO if self._overwrite else SKIP
        if self._overwrite:  # except what a concurrent run has restored since this one started
            entry = state.journal.get(job.name, since=state.snapshot)
            return SKIP if entry is not None and self._judge(job, state, entry) == SKIP else DO
        entry = state.journal.get(job.name)
        return SKIP if entry is None else self._judge(job, state, entry)

    def _judge(self, job: Job, state: OutputState, entry: JournalEntry) -> Decision:
        written = FileStat(entry.output_size, entry.output_mtime_ns)
        read = FileStat(entry.input_size, entry.input_mtime_ns)
        try:
            same_size = FileStat.of(job.target).size == written.size
            own = entry.output_sha256  # compared by hash, so that a copy of the result counts too
            if not same_size or self._sha256(job.target, written, own) != own:
                return CHANGED
            key = self.key(job, self._sha256(job.source, read, entry.input_sha256))
        except OSError:  # a file is missing or unreadable, so nothing can be compared
            return SKIP
        if key == entry.key:
            return SKIP
        if state.source_of(job) != entry.source:
            text = f"already the result of {entry.source}: choose another `dst`, or use `overwrite`"
            return Decision(False, note=text)
        return Decision(True, redone=True)

    def key(self, job: Job, input_sha256: str) -> str:
        """Hash everything that a result depends on: config, format, and the input's bytes."""
        if self._key is None:
            self._key = self._config_key()
        form = choose(job.target.suffix)
        quality = None if form.quality is None else self._quality or form.quality
        options = hashlib.sha256(f"{self._key} {form.name} {quality}".encode()).hexdigest()
        return hashlib.sha256(f"{options} {input_sha256}".encode()).hexdigest()

    def _sha256(self, path: Path, known: FileStat, sha256: str) -> str:
        """Hash a file; if its size and time are the known ones, return the known hash instead."""
        found = FileStat.of(path)
        if found == known:
            return sha256
        if (path, found) not in self._hashes:
            self._hashes[path, found] = sha256_of(path)
        return self._hashes[path, found]


class Scheduler:
    """Decides which images to restore, claims them, and collects the results.

    Safe to use from several threads.

    Args:
        policy: decides whether to restore an image.
        on_result: called with each result.
    """

    def __init__(self, policy: SkipPolicy, on_result: OnResult | None) -> None:
        self._policy, self._on_result = policy, on_result
        self._states: dict[Path, OutputState] = {}
        self._results: dict[int, Result] = {}
        self._in_flight: dict[int, tuple[str, float]] = {}  # name and fraction done
        self._lock = threading.RLock()  # on_result may read the results
        self._seen = self._expected = self._ended = 0

    @property
    def results(self) -> tuple[Result, ...]:
        """Results so far, in the order of the jobs."""
        with self._lock:
            return tuple(self._results[number] for number in sorted(self._results))

    @property
    def progress(self) -> tuple[float, int]:
        """Images done, counting fractions of those in flight, and images in all."""
        with self._lock:
            return self._ended + sum(part for _, part in self._in_flight.values()), self._expected

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the images in flight."""
        with self._lock:
            return tuple(name for name, _ in self._in_flight.values())

    def plan(self, found: Iterable[Job], *, beside: bool) -> Iterator[Job]:
        """Yield the jobs that need work, before anything is opened or claimed.

        Args:
            found: all jobs.
            beside: results are written next to the inputs, so an input may be a result.
        """
        for one in found:
            state = self._state(one)
            if beside and state is not None and not one.explicit:
                name = one.source.relative_to(state.root).as_posix()
                if state.journal.get(name) is not None:  # it is a result itself
                    continue
            job = self.add(one)
            if self._refused(job):
                continue
            decision = self._policy.decide(job, state)
            if decision.restore:
                yield job
            else:
                self._skip(job, decision)

    def add(self, job: Job) -> Job:
        """Count a job and return it with its number."""
        with self._lock:
            self._seen += 1
            self._expected += 1
            return replace(job, number=self._seen)

    def claim(self, job: Job, *, watching: bool) -> ClaimedImage | Job | None:
        """Claim an image and decide again, since another run may have restored it.

        Args:
            job: a job from :meth:`plan` or :meth:`add`.
            watching: the job comes from a watcher; otherwise, an image that is finished by now was
                restored by another run.

        Returns:
            The claimed image; the job itself if another run has claimed it, to try again later;
            None if it needs no work.

        Raises:
            ResharpError: the model cannot be found, or the folder cannot be locked.
        """
        state, lease = self._state(job), None
        if self._refused(job):
            return None
        if state is not None:
            state.open()
            lease = state.claim(job)
            if lease is None:
                return job
            state.journal.refresh()
        decision = self._policy.decide(job, state)
        task = ClaimedImage(job=job, lease=lease, redone=decision.redone)
        if decision.restore:
            return task
        self._release(task)
        self._skip(job, decision, elsewhere=not watching and not decision.note)
        return None

    def advance(self, task: ClaimedImage, share: float) -> None:
        """Record the fraction of an image that is done, from 0 to 1."""
        with self._lock:
            self._in_flight[task.job.number] = task.job.source.name, share

    def finish(self, task: ClaimedImage, failed: FailedImage | None, **values: Any) -> None:
        """Record the result of an image and release its claim."""
        result = Result(
            input=str(task.job.source),
            output=str(task.job.target),
            status="failed" if failed else "restored",
            seconds=round(time.monotonic() - task.began, 3),
            error=failed.error if failed else "",
            code=failed.code if failed else "",
            redone=task.redone and not failed,
            **values,
        )
        self._add(task.job.number, result)
        self.drop(task)

    def drop(self, task: ClaimedImage) -> None:
        """Release the claim of an image without a result."""
        self._release(task)
        with self._lock:
            self._in_flight.pop(task.job.number, None)
            self._ended += 1

    def _release(self, task: ClaimedImage) -> None:
        """Release the claim of an image."""
        if task.lease is not None:
            task.lease.state.release(task.lease)

    def close(self) -> None:
        """Release all claims."""
        for state in self._states.values():
            state.close()

    def _state(self, job: Job) -> OutputState | None:
        """Return the state of the job's folder of results, if it has one."""
        if job.root is None:
            return None
        if job.root not in self._states:
            self._states[job.root] = OutputState(job.root)
        return self._states[job.root]

    def _refused(self, job: Job) -> bool:
        if job.error:
            self._forgo(job, "failed", error=job.error, code=OptionError.code)
        return bool(job.error)

    def _skip(self, job: Job, decision: Decision, elsewhere: bool = False) -> None:
        notes = (decision.note,) if decision.note else ()
        self._forgo(job, "skipped", notes=notes, elsewhere=elsewhere)

    def _forgo(self, job: Job, status: str, **values: Any) -> None:
        """Record the result of a job that is not claimed."""
        result = Result(input=str(job.source), output=str(job.target), status=status, **values)
        with self._lock:
            self._expected -= 1
            self._add(job.number, result)

    def _add(self, number: int, result: Result) -> None:
        with self._lock:
            self._results[number] = result
            if self._on_result is not None:
                self._on_result(result)

"""Decides which images to restore, claims them, and collects the results."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resharp.errors import OptionError, OutputError
from resharp.folders.discovery import Job
from resharp.folders.output_state import OutputState
from resharp.folders.report import Result
from resharp.folders.task import ClaimedImage, FailedImage
from resharp.fsutil import sha256_of
from resharp.images.formats import choose
from resharp.outputs import FileStat, JournalEntry, JournalOption, JournalPlace, refusal

OnResult = Callable[[Result], object]
"""Called with each result immediately, from any thread but one at a time."""


@dataclass(frozen=True)
class Decision:
    """Whether to restore an image."""

    restore: bool
    redone: bool = False
    """Whether it replaces a result made from a different input, model or options."""
    replaces: bool = False
    """Whether a file exists that it may replace."""
    note: str = ""
    """Why it is not restored, if the user should know."""
    error: str = ""
    """Why it cannot be restored."""


DO, SKIP = Decision(True), Decision(False)
REPLACE = Decision(True, replaces=True)
CHANGED = "changed since it was written, so it is kept"


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

    def decide(self, job: Job, state: OutputState) -> Decision:
        """Decide about one image, from the files and the journal as of now.

        Raises:
            ResharpError: the model cannot be found.
        """
        if not os.path.lexists(job.target):
            return DO
        entries = state.records.all(job.name)
        entry = self._written(job, entries)
        if error := self._refusal(job, entries, entry):
            changed = entries and not self._overwrite and os.path.isfile(job.target)
            return self._changed(job) if changed else Decision(False, error=error)
        if entry is None:
            return REPLACE
        if not self._overwrite:
            return self._judge(job, state, entry)
        # Except what a concurrent run has restored since this one started.
        entry = state.records.journal.get(job.name, since=state.snapshot)
        return SKIP if entry is not None and self._judge(job, state, entry) == SKIP else REPLACE

    def _written(self, job: Job, entries: Sequence[JournalEntry]) -> JournalEntry | None:
        """Return the entry of what is at the target now; None if it is none of them."""
        return next((one for one in entries if one.wrote(job.target, self._hashed)), None)

    def refusal(self, job: Job, state: OutputState) -> str:
        """Return why the result must not be written now; empty if nothing would be lost."""
        entries = state.records.all(job.name)
        return self._refusal(job, entries, self._written(job, entries))

    def _refusal(
        self, job: Job, entries: Sequence[JournalEntry], entry: JournalEntry | None
    ) -> str:
        return refusal(
            job.target,
            ours=entry is not None,
            typed=job.typed,
            overwrite=self._overwrite,
            recorded=bool(entries),
        )

    def _changed(self, job: Job) -> Decision:
        """Keep a file that is no longer what was written: it may be somebody's work."""
        way = "use `overwrite`" if job.typed else "remove it"
        return Decision(False, note=f"{CHANGED}; {way} to restore it again")

    def _judge(self, job: Job, state: OutputState, entry: JournalEntry) -> Decision:
        """Decide about a result that is as it was written."""
        read = FileStat(entry.input_size, entry.input_mtime_ns)
        try:
            key = self.key(job, self._sha256(job.source, read, entry.input_sha256))
        except OSError:
            return REPLACE  # reading the input raises the proper error, and replaces nothing
        if key == entry.key:
            return SKIP
        if state.records.source_of(job.source) != entry.source:
            text = f"already the result of {entry.source}: choose another `dst`, or use `overwrite`"
            return Decision(False, error=f"{job.target} is {text}")
        return Decision(True, redone=True, replaces=True)

    def run_key(self) -> str:
        """Hash the options that all results of a run share."""
        return hashlib.sha256(f"{self._config()} {self._quality}".encode()).hexdigest()

    def _config(self) -> str:
        if self._key is None:
            self._key = self._config_key()
        return self._key

    def key(self, job: Job, input_sha256: str) -> str:
        """Hash everything that a result depends on: config, format, and the input's bytes."""
        form = choose(job.target.suffix)
        quality = None if form.quality is None else self._quality or form.quality
        options = hashlib.sha256(f"{self._config()} {form.name} {quality}".encode()).hexdigest()
        return hashlib.sha256(f"{options} {input_sha256}".encode()).hexdigest()

    def _sha256(self, path: Path, known: FileStat, sha256: str) -> str:
        """Hash a file; if its size and time are the known ones, return the known hash instead."""
        return sha256 if FileStat.of(path) == known else self._hashed(path)

    def _hashed(self, path: Path) -> str:
        """Hash a file once for each size and time of it."""
        found = FileStat.of(path)
        if (path, found) not in self._hashes:
            self._hashes[path, found] = sha256_of(path)
        return self._hashes[path, found]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run found, and what it is going to do."""

    todo: list[Job]
    """Images to restore."""
    redone: int
    """How many of them have a result made from a different input, model or options."""
    finished: int
    """Number of images that need no work, or cannot be restored."""


class Scheduler:
    """Decides which images to restore, claims them, and collects the results.

    Safe to use from several threads.

    Args:
        policy: decides whether to restore an image.
        on_result: called with each result.
        journal: where the journal is kept.
    """

    def __init__(
        self, policy: SkipPolicy, on_result: OnResult | None, journal: JournalOption = "auto"
    ) -> None:
        self._policy, self._on_result, self._journal = policy, on_result, journal
        self._states: dict[tuple[Path, JournalPlace], OutputState] = {}
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

    def is_result(self, job: Job) -> bool:
        """Return whether the input of a job is a result of an earlier run, by the journal."""
        return self._state(job).records.made(job.source)

    def refresh(self) -> None:
        """Read what any run has recorded meanwhile."""
        for state in self._states.values():
            state.records.journal.refresh()

    def plan(self, found: Iterable[Job]) -> Plan:
        """Decide about all jobs, before anything is opened or claimed."""
        todo, redone = [], 0
        for one in found:
            job = self.add(one)
            if self._refused(job):
                continue
            decision = self._policy.decide(job, self._state(job))
            if decision.restore:
                todo.append(job)
                redone += decision.redone
            else:
                self._skip(job, decision)
        return Plan(todo=todo, redone=redone, finished=self._seen - len(todo))

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
        if self._refused(job):
            return None
        state = self._state(job)
        state.open(self._policy.run_key())
        lease = state.claim(job)
        if lease is None:
            return job
        state.records.journal.refresh()
        decision = self._policy.decide(job, state)
        task = ClaimedImage(
            job=job, lease=lease, redone=decision.redone, replaces=decision.replaces
        )
        if decision.restore:
            return task
        self._release(task)
        elsewhere = not watching and not decision.note
        self._skip(job, decision, elsewhere=elsewhere)
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
        task.lease.state.release(task.lease)

    def close(self) -> None:
        """Release all claims."""
        for state in self._states.values():
            state.close()

    def tidy(self) -> None:
        """Remove what killed runs left in the folders of results, where nothing is to be done."""
        for state in self._states.values():
            if state.has_locks:
                with suppress(OutputError):  # another run is alive, and will do it
                    state.open(self._policy.run_key())
                state.close()

    def _state(self, job: Job) -> OutputState:
        """Return the state of the job's folder of results."""
        place: JournalPlace = "cache" if job.lone else "output"
        if self._journal != "auto":
            place = self._journal
        if (job.root, place) not in self._states:
            self._states[job.root, place] = OutputState(job.root, place)
        state = self._states[job.root, place]
        state.alone |= not job.explicit
        return state

    def _refused(self, job: Job) -> bool:
        if job.error:
            self._forgo(job, "failed", error=job.error, code=OptionError.code)
        return bool(job.error)

    def _skip(self, job: Job, decision: Decision, elsewhere: bool = False) -> None:
        if decision.error:
            self._forgo(job, "failed", error=decision.error, code=OutputError.code)
        else:
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

"""What is to be done, by which run, and what became of it."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resharp.folders.discovery import Job
from resharp.folders.output_state import FileStat, JournalEntry, OutputState
from resharp.folders.report import Result
from resharp.folders.task import ClaimedImage
from resharp.fsutil import sha256_of
from resharp.images.formats import choose

OnResult = Callable[[Result], object]
"""Called with each result at once, from any thread but never from two together."""


@dataclass(frozen=True)
class Decision:
    """What is to be done about a picture."""

    restore: bool
    redone: bool = False
    """It was done before, of other contents, with another model or other options."""
    note: str = ""
    """Why not, where that is no matter of course."""


DO, SKIP = Decision(True), Decision(False)
CHANGED = Decision(False, note="changed since it was written: left as it is; --overwrite redoes it")


class SkipPolicy:
    """Decides about pictures, by the names that are there and by the journal.

    Args:
        config_key: gives the key of what makes the results; called only where it matters.
        quality: of the encoder, as it was given.
        overwrite: redo what is done.
    """

    def __init__(self, config_key: Callable[[], str], quality: int | None, overwrite: bool) -> None:
        self._config_key, self._quality, self._overwrite = config_key, quality, overwrite
        self._key: str | None = None
        self._hashes: dict[tuple[Path, FileStat], str] = {}

    def decide(self, job: Job, state: OutputState | None) -> Decision:
        """What is to be done about a picture, as things are.

        Raises:
            ResharpError: the model cannot be found.
        """
        if not os.path.exists(job.target):
            return DO
        if state is None:
            return DO if self._overwrite else SKIP
        if self._overwrite:  # unless a run beside this one has just done it
            entry = state.journal.get(job.name, since=state.snapshot)
            return SKIP if entry is not None and self._judge(job, state, entry) == SKIP else DO
        entry = state.journal.get(job.name)
        return SKIP if entry is None else self._judge(job, state, entry)

    def _judge(self, job: Job, state: OutputState, entry: JournalEntry) -> Decision:
        written = FileStat(entry.output_size, entry.output_mtime_ns)
        read = FileStat(entry.input_size, entry.input_mtime_ns)
        try:
            same_size = FileStat.of(job.target).size == written.size
            own = entry.output_sha256  # also if it was copied since
            if not same_size or self._sha256(job.target, written, own) != own:
                return CHANGED
            key = self.key(job, self._sha256(job.source, read, entry.input_sha256))
        except OSError:  # gone, or not to be read: who restores it says so
            return SKIP
        if key == entry.key:
            return SKIP
        if state.source_of(job) != entry.source:
            text = f"it is the result of {entry.source}: choose another -o, or --overwrite"
            return Decision(False, note=text)
        return Decision(True, redone=True)

    def key(self, job: Job, input_sha256: str) -> str:
        """Hash of all that a result depends on: config, format, and the input's bytes."""
        if self._key is None:
            self._key = self._config_key()
        form = choose(job.target.suffix)
        quality = None if form.quality is None else self._quality or form.quality
        options = hashlib.sha256(f"{self._key} {form.name} {quality}".encode()).hexdigest()
        return hashlib.sha256(f"{options} {input_sha256}".encode()).hexdigest()

    def _sha256(self, path: Path, known: FileStat, sha256: str) -> str:
        """Of a file, which is not read if it is as it was with the hash that is known."""
        found = FileStat.of(path)
        if found == known:
            return sha256
        if (path, found) not in self._hashes:
            self._hashes[path, found] = sha256_of(path)
        return self._hashes[path, found]


class Scheduler:
    """Decides what is to be done, claims it, and collects results.

    Safe to use from several threads.

    Args:
        policy: decides.
        on_result: called with each result.
    """

    def __init__(self, policy: SkipPolicy, on_result: OnResult | None) -> None:
        self._policy, self._on_result = policy, on_result
        self._states: dict[Path, OutputState] = {}
        self._results: dict[int, Result] = {}
        self._in_flight: dict[int, tuple[str, float]] = {}  # name, and the fraction that is done
        self._lock = threading.RLock()  # who is told may ask for the results
        self._seen = self._expected = self._ended = 0

    @property
    def results(self) -> tuple[Result, ...]:
        """So far, in the order of the jobs."""
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
        """What is to be done, before anything is opened or claimed.

        Args:
            found: all jobs.
            beside: results lie beside their inputs, so that inputs may be results.
        """
        for one in found:
            state = self._state(one)
            if beside and state is not None and not one.explicit:
                name = one.source.relative_to(state.root).as_posix()
                if state.journal.get(name) is not None:  # a result itself
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
        """A job that is to be done, with its number."""
        with self._lock:
            self._seen += 1
            self._expected += 1
            return replace(job, number=self._seen)

    def claim(self, job: Job, *, watching: bool) -> ClaimedImage | Job | None:
        """Claim a picture and look again, for another run may have done it.

        Args:
            job: one that was planned, or added.
            watching: it may have been done before; else, if it is done by now, that was another
                run.

        Returns:
            The claimed picture; the job itself if another run is at it, so that it has to be
            claimed again; None if it is not to be done.
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
        """A picture is done so far, from 0 to 1."""
        with self._lock:
            self._in_flight[task.job.number] = task.job.source.name, share

    def finish(self, task: ClaimedImage, error: str = "", **values: Any) -> None:
        """Take in what became of a picture, and give back its claim."""
        result = Result(
            input=str(task.job.source),
            output=str(task.job.target),
            status="failed" if error else "restored",
            seconds=round(time.monotonic() - task.began, 3),
            error=error,
            redone=task.redone and not error,
            **values,
        )
        self._add(task.job.number, result)
        self.drop(task)

    def drop(self, task: ClaimedImage) -> None:
        """Give back the claim of a picture, of which nothing became."""
        self._release(task)
        with self._lock:
            self._in_flight.pop(task.job.number, None)
            self._ended += 1

    def _release(self, task: ClaimedImage) -> None:
        """Give back the claim of a picture."""
        if task.lease is not None:
            task.lease.state.release(task.lease)

    def close(self) -> None:
        """Give back all claims."""
        for state in self._states.values():
            state.close()

    def _state(self, job: Job) -> OutputState | None:
        """Of the folder whose journal a job is in, if any."""
        if job.root is None:
            return None
        if job.root not in self._states:
            self._states[job.root] = OutputState(job.root)
        return self._states[job.root]

    def _refused(self, job: Job) -> bool:
        if job.error:
            self._forgo(job, "failed", error=job.error)
        return bool(job.error)

    def _skip(self, job: Job, decision: Decision, elsewhere: bool = False) -> None:
        notes = (decision.note,) if decision.note else ()
        self._forgo(job, "skipped", notes=notes, elsewhere=elsewhere)

    def _forgo(self, job: Job, status: str, **values: Any) -> None:
        """Take in that a job is not done."""
        result = Result(input=str(job.source), output=str(job.target), status=status, **values)
        with self._lock:
            self._expected -= 1
            self._add(job.number, result)

    def _add(self, number: int, result: Result) -> None:
        with self._lock:
            self._results[number] = result
            if self._on_result is not None:
                self._on_result(result)

"""Where pictures are given out: what is to be done, what is claimed, and what became of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from resharp.runtime.folders.jobs import Job
from resharp.runtime.folders.ledger import Ledger
from resharp.runtime.folders.report import Result
from resharp.runtime.folders.rules import Rules, Verdict
from resharp.runtime.folders.work import Work

Item = tuple[int, Job]
"""A job and its place in the order of results."""


class Desk:
    """Gives out pictures and takes in results. Safe to use from several threads.

    Args:
        rules: decide what is to be done.
        on_result: told of each result.
    """

    def __init__(self, rules: Rules, on_result: Callable[[Result], object] | None) -> None:
        self._rules, self._on_result = rules, on_result
        self._ledgers: dict[Path, Ledger] = {}
        self._results: dict[int, Result] = {}
        self._lock = threading.Lock()
        self._seen = 0

    @property
    def results(self) -> tuple[Result, ...]:
        """So far, in the order of :meth:`number`."""
        with self._lock:
            return tuple(self._results[number] for number in sorted(self._results))

    def number(self, job: Job) -> Item:
        """A job with the next place in the order of results."""
        self._seen += 1
        return self._seen, job

    def first_look(self, found: Iterable[Job], *, beside: bool) -> Iterator[Item]:
        """What is to be done, before anything is opened or claimed.

        Args:
            found: all jobs.
            beside: results lie beside their inputs, so that inputs may be results.
        """
        for job in found:
            ledger = self.ledger(job)
            if beside and ledger is not None and not job.typed and _is_result(job, ledger):
                continue
            item = self.number(job)
            if self._refused(item):
                continue
            verdict = self._rules.decide(job, ledger)
            if verdict.do:
                yield item
            else:
                self._skip(item, verdict, elsewhere=False)

    def offer(self, item: Item, *, elsewhere: bool) -> tuple[Work | None, bool]:
        """Claim a picture and look again, for another run may have done it.

        Args:
            item: the picture.
            elsewhere: if it is done by now, that was another run.

        Returns:
            The work if it is to be done; and whether another run is at it, so that it has to be
            offered again.
        """
        number, job = item
        ledger = self.ledger(job)
        if self._refused(item):
            return None, False
        if ledger is None:
            verdict = self._rules.decide(job, None)
            return self._given(item, verdict, elsewhere, Work(job, number)), False
        ledger.open()
        held = ledger.claim(job)
        if held is None:
            return None, True
        ledger.journal.refresh()
        verdict = self._rules.decide(job, ledger)
        work = Work(job, number, ledger, held, verdict.redone)
        if not verdict.do:
            ledger.release(held)
        return self._given(item, verdict, elsewhere, work), False

    def finish(self, work: Work, **values: Any) -> None:
        """Take in what became of a picture, and give back its claim."""
        self._add(work.number, work.result(**values))
        self.drop(work)

    def drop(self, work: Work) -> None:
        """Give back the claim of a picture."""
        if work.ledger is not None and work.held is not None:
            work.ledger.release(work.held)

    def ledger(self, job: Job) -> Ledger | None:
        """The book that a job is in, if any."""
        if job.root is None:
            return None
        if job.root not in self._ledgers:
            self._ledgers[job.root] = Ledger(job.root)
        return self._ledgers[job.root]

    def close(self) -> None:
        """Give back all claims."""
        for ledger in self._ledgers.values():
            ledger.close()

    def _refused(self, item: Item) -> bool:
        number, job = item
        if job.problem:
            self._add(number, Work(job, number, error=job.problem).result())
        return bool(job.problem)

    def _given(self, item: Item, verdict: Verdict, elsewhere: bool, work: Work) -> Work | None:
        if verdict.do:
            return work
        self._skip(item, verdict, elsewhere and not verdict.note)
        return None

    def _skip(self, item: Item, verdict: Verdict, elsewhere: bool) -> None:
        number, job = item
        result = Work(job, number).result()
        notes = (verdict.note,) if verdict.note else ()
        self._add(
            number, replace(result, status="skipped", seconds=0.0, notes=notes, elsewhere=elsewhere)
        )

    def _add(self, number: int, result: Result) -> None:
        with self._lock:
            self._results[number] = result
            if self._on_result is not None:
                self._on_result(result)


def _is_result(job: Job, ledger: Ledger) -> bool:
    """Whether an input is a result itself, whatever has become of its own input."""
    return ledger.journal.get(job.source.relative_to(ledger.root).as_posix()) is not None

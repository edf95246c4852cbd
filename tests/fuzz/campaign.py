"""Run cases, a few at a time, and collect their results."""

from __future__ import annotations

import functools
import json
import os
import pickle
import shlex
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.child import MEMORY, TIME, Child, Outcome
from tests.fuzz.kinds import KINDS
from tests.fuzz.trials import CaseId, Kind, Material, Trial
from tests.fuzz.verdict import faults, judge, snapshot


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """The result of a case."""

    case: CaseId
    code: int
    seconds: float
    memory: int
    """Largest resident size, in bytes."""
    faults: Sequence[str]
    """The guarantees that the case breaks; empty if it passes."""
    printed: str
    """Standard error, for the report of a fault."""


@dataclass
class Totals:
    """The row of a kind."""

    cases: int = 0
    refused: int = 0
    accepted: int = 0
    faults: int = 0
    slowest: float = 0.0
    memory: int = 0
    spent: float = field(default=0.0, repr=False)

    def add(self, one: CaseResult) -> None:
        """Count a case."""
        self.cases += 1
        self.accepted += one.code == 0
        self.refused += one.code == 1
        self.faults += bool(one.faults)
        self.slowest = max(self.slowest, one.seconds)
        self.memory = max(self.memory, one.memory)
        self.spent += one.seconds


def kinds_named(names: Iterable[str]) -> list[Kind]:
    """Return kinds by name.

    Raises:
        ValueError: there is no such kind.
    """
    known = {kind.name: kind for kind in KINDS}
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"no kind {unknown[0]!r}; known are {', '.join(known)}")
    return [known[name] for name in names]


class Campaign:
    """Cases of some kinds.

    Args:
        kinds: their kinds.
        scratch: an empty folder.
        keep: folder for the inputs of cases with faults.
        jobs: cases at once.
        seconds: bound of a case.
        memory: bound of a case, in bytes.
    """

    def __init__(
        self,
        kinds: Sequence[Kind],
        scratch: Path,
        keep: Path,
        *,
        jobs: int = 2,
        seconds: float = TIME,
        memory: int = MEMORY,
    ) -> None:
        self.kinds = {kind.name: kind for kind in kinds}
        self.totals = {kind.name: Totals() for kind in kinds}
        self._scratch, self._keep, self._jobs = scratch, keep, jobs
        self._seconds, self._memory = seconds, memory
        self._material: dict[str, Material] = {}
        self._count = 0

    def material(self, kind: Kind) -> Material:
        """Return the files of a kind, made in a child, since encoders start threads.

        Raises:
            RuntimeError: they cannot be made here.
        """
        if kind.name not in self._material:
            folder = self._folder()
            target = folder / "material"

            def make() -> int:
                target.write_bytes(pickle.dumps(dict(kind.material())))
                return 0

            outcome = Child(make, folder, folder).wait()
            if outcome.code or outcome.ended:
                raise RuntimeError(f"the material of {kind.name}: {outcome.ended}{outcome.stderr}")
            self._material[kind.name] = pickle.loads(target.read_bytes())
            shutil.rmtree(folder)
        return self._material[kind.name]

    def trial(self, case: CaseId) -> Trial:
        """Return what a case runs."""
        kind = self.kinds[case.kind]
        return kind.trial(case.random(), self.material(kind))

    def run(self, cases: Iterable[CaseId]) -> Iterator[CaseResult]:
        """Run cases and yield what became of each, in the order of their ends."""
        running: list[_Running] = []
        pending = iter(cases)
        done = False
        try:
            while running or not done:
                while not done and len(running) < self._jobs:
                    case = next(pending, None)
                    if case is None:
                        done = True
                    else:
                        running.append(_Running(case, self.trial(case), self._folder()))
                ended = [(one, one.child.poll(self._seconds, self._memory)) for one in running]
                for one, outcome in ended:
                    if outcome is not None:
                        running.remove(one)
                        yield self._judged(one, outcome)
                if not any(outcome for _, outcome in ended):
                    time.sleep(0.003)
        finally:
            for one in running:
                one.child.ended = "the campaign ended"
                one.child.kill()
                os.waitpid(one.child.pid, 0)

    def _judged(self, one: _Running, outcome: Outcome) -> CaseResult:
        found = faults(one.trial, outcome, one.before, one.work)
        if outcome.code == 0 and one.trial.made and not found:
            found += self._results(one)
        result = CaseResult(
            case=one.case,
            code=outcome.code,
            seconds=outcome.seconds,
            memory=outcome.memory,
            faults=found,
            printed=outcome.stderr,
        )
        if found:
            self._save(one, result)
        self.totals[one.case.kind].add(result)
        shutil.rmtree(one.folder, ignore_errors=True)
        return result

    def _results(self, one: _Running) -> list[str]:
        """Decode the results in another child; what they are is as foreign as the input."""
        target = one.folder / "judged"

        def work() -> int:
            target.write_text(json.dumps(judge(one.trial, one.work)))
            return 0

        outcome = Child(work, one.work, one.folder).wait(self._seconds, self._memory)
        if outcome.code or outcome.ended:
            ended = outcome.ended or f"code {outcome.code}, {outcome.stderr[-200:]}"
            return [f"reading the results again ends with {ended}"]
        found: list[str] = json.loads(target.read_text())
        return found

    def _save(self, one: _Running, result: CaseResult) -> None:
        place = self._keep / str(one.case).replace(":", "-")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for name, data in one.trial.files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)
        words = ["resharp", *map(shlex.quote, one.trial.command)]
        text = "\n".join([" ".join(words), *result.faults, "", result.printed[-4000:]])
        (place / "FAULT.txt").write_bytes(text.encode("utf-8", "surrogateescape"))

    def _folder(self) -> Path:
        self._count += 1
        folder = self._scratch / str(self._count)
        folder.mkdir(parents=True)
        return folder


class _Running:
    """A case at work."""

    def __init__(self, case: CaseId, trial: Trial, folder: Path) -> None:
        self.case, self.trial, self.folder = case, trial, folder
        self.work = folder / "work"
        self.work.mkdir()
        for name, data in trial.files.items():
            (self.work / name).parent.mkdir(parents=True, exist_ok=True)
            (self.work / name).write_bytes(data)
        self.before = snapshot(self.work)
        work = trial.call or functools.partial(command_line, trial.command)
        self.child = Child(work, self.work, folder, {"RESHARP_HOME": str(folder / "home")})


def command_line(arguments: Sequence[str]) -> int:
    """Run ``resharp`` in this process; ends with SystemExit as the real one does."""
    from resharp.cli import main

    main(list(arguments), prog_name="resharp")
    return 0


def numbered(
    kinds: Sequence[Kind],
    seed: int,
    count: int | None,
    until: float | None,
    spent: Callable[[str], float],
) -> Iterator[CaseId]:
    """Yield cases, of the kind that has had least of its share of the time.

    Args:
        kinds: to choose from.
        seed: of all cases.
        count: cases of each kind; None is no limit.
        until: end, on the monotonic clock; None is no limit.
        spent: seconds that cases of a kind have taken so far.
    """
    given = {kind.name: 0 for kind in kinds}
    while until is None or time.monotonic() < until:
        left = [kind for kind in kinds if count is None or given[kind.name] < count]
        if not left:
            return
        # A case that is not yet counted as spent counts as 0.1 seconds, or one kind came at once.
        kind = min(left, key=lambda one: (spent(one.name) + 0.1 * given[one.name]) / one.share)
        yield CaseId(kind.name, seed, given[kind.name])
        given[kind.name] += 1

"""Runs stages one after another within a time limit and keeps all their output.

Each stage is a process in its own process group with its own timeout. If it fails, hangs or
crashes, the next one runs anyway. Results are saved immediately: a line in ``stages.jsonl`` when a
stage starts and when it ends, all output in ``log.txt``, and everything in one archive, which is
rewritten after every stage.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

STAGES, LOG, ARCHIVE = "stages.jsonl", "log.txt", "gpu-check.tar.gz"
OK, FAILED, TIMED_OUT, SKIPPED, ABSENT = "ok", "failed", "timed out", "skipped", "absent"
RESERVE = 4.0
"""Seconds reserved at the end of the run for writing the last archive."""
GRACE = 3.0
"""Seconds between interrupting a process and killing it, so that it can save its records."""
MOST_OUTPUT = 16 << 20
"""Maximum output of a stage, in bytes."""
TAIL = 1500
"""Characters of a stage's output kept in its record."""
POLL = 0.05
LEASH = Path(__file__).with_name("leash.py")
PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
Clock = Callable[[], float]


class StoppedError(Exception):
    """Raised when a signal requests the end of the run."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One process of the check."""

    name: str
    command: Sequence[str]
    estimate: float
    """Expected duration on the machine that the check is designed for, in seconds."""
    bound: float
    """Timeout in seconds."""
    least: float = 1.0
    """Minimum remaining time to start the stage, in seconds."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables in addition to those of the run."""
    background: bool = False
    """Whether the next stage starts while this one runs."""
    after: Sequence[str] = ()
    """Background stages that must have ended before this one starts, successfully or not."""
    absent: str = ""
    """Reason why the stage cannot run on this machine; the run can still succeed without it."""
    judge: Callable[[], str] | None = None
    """Called after exit code 0; returns what is wrong with the results, or an empty string."""


class _Running:
    """A started stage and its process."""

    def __init__(self, stage: Stage, process: subprocess.Popen[bytes], log: Path) -> None:
        self.stage, self.process, self.log = stage, process, log
        self.start = self.end = 0.0
        self.offset = 0


class Runner:
    """Runner for the stages of a check.

    Args:
        out: folder for the records; created if necessary.
        minutes: time limit of the whole run.
        scratch: working folder; its subfolder ``keep`` goes into the archive.
        environment: environment variables for all stages, in addition to this process's.
        folder: working directory of the stages.
        report: called with progress lines; None: print them.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        out: Path,
        minutes: float,
        scratch: Path,
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        report: Callable[[str], object] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.out, self.keep = out, scratch / "keep"
        self.records: list[dict[str, Any]] = []
        """Records of the stages that have ended or were skipped."""
        self._scratch, self._folder, self._report, self._clock = (
            scratch,
            folder,
            report or _say,
            clock,
        )
        self._environment = {**os.environ, **(environment or {})}
        self._background: dict[str, _Running] = {}
        self._leash: subprocess.Popen[bytes] | None = None
        self._began = clock()
        self._deadline = self._began + 60 * minutes - RESERVE
        for made in (out, self.keep):
            made.mkdir(parents=True, exist_ok=True)
        for name in (STAGES, LOG, ARCHIVE):
            (out / name).unlink(missing_ok=True)

    def run(self, stages: Sequence[Stage]) -> bool:
        """Run the stages; return whether all that can run here did, and none failed."""
        stopped = ""
        with self._held(), _signals():
            for stage in stages:
                try:
                    if stopped:
                        self._leave_out(stage, stopped)
                    else:
                        self._stage(stage)
                except StoppedError as error:
                    stopped = f"the run was stopped: {error}"
                    self._leave_out(stage, stopped)
            try:
                self._finish_all(stopped)
            except StoppedError as error:  # raised at most once
                stopped = f"the run was stopped: {error}"
                self._finish_all(stopped)
        self._archive()
        self._report(summary(self.records, self._clock() - self._began))
        return not stopped and all(one["status"] in (OK, ABSENT) for one in self.records)

    def _stage(self, stage: Stage) -> None:
        for name in stage.after:
            if name in self._background:
                self._finish(self._background.pop(name))
        left = self._deadline - self._clock()
        if stage.absent:
            self._end(stage, ABSENT, reason=stage.absent)
        elif left < stage.least:
            reason = f"needs at least {stage.least:.0f} s, but only {max(left, 0):.0f} s are left"
            self._end(stage, SKIPPED, reason=reason)
        else:
            running = self._start(stage)
            if running is None:
                return
            if stage.background:
                self._background[stage.name] = running
            else:
                self._finish(running)

    def _start(self, stage: Stage) -> _Running | None:
        log = self.out / LOG
        if stage.background:
            log = self._scratch / f"{stage.name}.txt"
        self._line(stage, event="start", bound=stage.bound)
        self._write_log(f"\n== {stage.name}\n")
        began = self._clock()  # before starting the process, which may be faster than this one
        with log.open("ab") as file:
            offset = file.tell()
            try:
                process = subprocess.Popen(
                    list(stage.command),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env={**self._environment, **stage.environment},
                    cwd=self._folder,
                    start_new_session=True,
                    preexec_fn=_tied if sys.platform == "linux" else None,
                )
            except OSError as error:
                self._end(stage, FAILED, reason=str(error))
                return None
        self._hold(f"+{process.pid}")
        running = _Running(stage, process, log)
        running.offset, running.start = offset, began
        running.end = min(running.start + stage.bound, self._deadline)
        return running

    def _finish(self, running: _Running) -> None:
        """Wait for a process to end, stop it if its time is up, and record the result."""
        stage, process = running.stage, running.process
        try:
            status, reason = self._wait(running)
        except StoppedError as error:
            self._conclude(running, FAILED, f"the run was stopped: {error}")
            raise
        code = process.returncode
        if reason:
            self._conclude(running, status, reason)
        elif code < 0:
            self._conclude(running, FAILED, f"killed by {_signal_name(-code)}")
        elif code:
            self._conclude(running, FAILED, f"exit code {code}")
        else:
            wrong = _judged(stage)
            self._conclude(running, FAILED if wrong else OK, wrong)

    def _wait(self, running: _Running) -> tuple[str, str]:
        """Wait until the process ends; return the status and the reason if it had to be stopped."""
        process = running.process
        while process.poll() is None:
            now = self._clock()
            if now >= running.end:
                _interrupt(process)
                short = running.end >= self._deadline
                took = f"stopped after {now - running.start:.0f} s"
                return TIMED_OUT, f"{took}: {'end of the run' if short else 'stage timeout'}"
            if _size(running.log) - running.offset > MOST_OUTPUT:
                _interrupt(process)
                return FAILED, f"printed more than {MOST_OUTPUT >> 20} MiB"
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL)
        return OK, ""

    def _conclude(self, running: _Running, status: str, reason: str) -> None:
        stage, process = running.stage, running.process
        _kill_group(process.pid)  # including children that the process left behind
        with contextlib.suppress(subprocess.TimeoutExpired):  # e.g. it hangs in a driver
            process.wait(GRACE)
        self._hold(f"-{process.pid}")
        said = _read(running.log, running.offset)
        if stage.background:
            self._write_log(f"\n== {stage.name} (ran in the background)\n{said}")
        seconds = self._clock() - running.start
        self._end(stage, status, reason, seconds=seconds, code=process.returncode, said=said)

    def _leave_out(self, stage: Stage, reason: str) -> None:
        if not any(one["stage"] == stage.name for one in self.records):
            self._end(stage, SKIPPED, reason=reason)

    def _finish_all(self, stopped: str) -> None:
        while self._background:
            _, running = self._background.popitem()
            if stopped:
                self._conclude(running, FAILED, stopped)
            else:
                self._finish(running)

    def _end(
        self,
        stage: Stage,
        status: str,
        reason: str = "",
        *,
        seconds: float = 0.0,
        code: int | None = None,
        said: str = "",
    ) -> None:
        facts = {"status": status, "seconds": round(seconds, 2), "bound": stage.bound}
        facts |= {"code": code, "reason": reason, "tail": said[-TAIL:]}
        self.records.append(self._line(stage, event="end", **facts))
        self._report(f"{stage.name}: {status}, {seconds:.1f} s{reason and f': {reason}'}")
        self._archive()

    def _line(self, stage: Stage, **facts: Any) -> dict[str, Any]:
        at = round(self._clock() - self._began, 2)
        line = {"stage": stage.name, "at": at, "estimate": stage.estimate, **facts}
        with self._disk(), (self.out / STAGES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return line

    def _write_log(self, text: str) -> None:
        with self._disk(), (self.out / LOG).open("a", encoding="utf-8") as file:
            file.write(text)

    def _archive(self) -> None:
        """Archive all results so far, replacing the archive atomically."""
        part = self.out / f".{ARCHIVE}.part"
        with self._disk():
            with tarfile.open(part, "w:gz", compresslevel=6) as archive:
                for folder in (self.out, self.keep):
                    for path in sorted(folder.iterdir()):
                        if path not in (part, self.out / ARCHIVE):
                            archive.add(path, path.name)
            os.replace(part, self.out / ARCHIVE)

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """Report write errors, such as a full disk, without ending the run."""
        try:
            yield
        except OSError as error:
            self._report(f"cannot write results: {error}")

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Within this context, the process groups of the stages are killed if this process dies."""
        command = [sys.executable, "-I", "-S", str(LEASH)]
        with contextlib.suppress(OSError):
            self._leash = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
            )
        try:
            yield
        finally:
            if self._leash is not None and self._leash.stdin is not None:
                with contextlib.suppress(OSError):
                    self._leash.stdin.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._leash.wait(GRACE)

    def _hold(self, order: str) -> None:
        if self._leash is not None and self._leash.stdin is not None:
            with contextlib.suppress(OSError):
                self._leash.stdin.write(order.encode() + b"\n")
                self._leash.stdin.flush()


def summary(records: Sequence[Mapping[str, Any]], seconds: float) -> str:
    """Format the results of a run as a table."""
    rows = [("stage", "status", "seconds", "estimate", "")]
    for one in records:
        took = f"{one['seconds']:.1f}"
        rows.append((one["stage"], one["status"], took, f"{one['estimate']:.0f}", one["reason"]))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]))
        for row in rows
    ]
    return "\n".join([*(line.rstrip() for line in lines), f"{seconds:.1f} s in all"])


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _judged(stage: Stage) -> str:
    if stage.judge is None:
        return ""
    try:
        return stage.judge()
    except Exception as error:  # unreadable results count as a failure
        return f"cannot read its results: {type(error).__name__}: {error}"


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a process so that it can save its records; its group is killed afterwards."""
    with contextlib.suppress(OSError):
        process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)


def _kill_group(group: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(group, signal.SIGKILL)


def _tied() -> None:
    """In the new process: die with the runner, and restore the default action of SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    assert _LIBC is not None
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read(path: Path, offset: int) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(offset, size - MOST_OUTPUT))
            return file.read().decode("utf-8", "replace")
    except OSError as error:
        return str(error)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Raise :class:`StoppedError` on the first signal that requests the end of the run."""
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(number: int, frame: FrameType | None) -> None:
        for kind in kinds:
            signal.signal(kind, signal.SIG_IGN)
        raise StoppedError(_signal_name(number))

    before = {kind: signal.signal(kind, stop) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def command(module: str, *arguments: str | Path) -> list[str]:
    """Return the command line that runs a Python module with this interpreter."""
    return [sys.executable, "-m", module, *map(str, arguments)]

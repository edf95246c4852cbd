"""Runs a function in a forked child with bounds on its time and memory.

The parent has imported everything and has no threads, so a child costs milliseconds instead of the
seconds that a new interpreter takes. RLIMIT_AS would count address space that libraries reserve and
never touch, so the parent reads the resident size of its children while they run, and kills them.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

TIME = 60.0
"""Seconds that a case may take."""
MEMORY = 2 << 30
"""Bytes of resident memory that a case may take; inputs are smaller than 1 MB."""
FILES = 1 << 30
"""Bytes that a file may grow to before the system stops the child."""
PAGE = resource.getpagesize()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a child ended."""

    code: int
    """Exit code; negative is a signal."""
    seconds: float
    memory: int
    """Largest resident size, in bytes."""
    ended: str = ""
    """Why the parent killed it; empty if it did not."""
    stdout: str
    stderr: str


class Child:
    """A forked child at work.

    Args:
        work: called in the child; returns its exit code.
        folder: its current folder.
        logs: folder for what it prints.
        environment: changes of its environment.
    """

    def __init__(
        self,
        work: Callable[[], int],
        folder: Path,
        logs: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.out, self.err = logs / "stdout", logs / "stderr"
        sys.stdout.flush()
        sys.stderr.flush()
        self.started, self.memory, self.ended = time.monotonic(), 0, ""
        self.pid = os.fork()
        if not self.pid:
            try:
                self._begin(folder, environment or {})
                _end(_code_of(work))
            finally:
                os._exit(99)  # never back into the parent's code

    def _begin(self, folder: Path, environment: Mapping[str, str]) -> None:
        os.setsid()
        atexit._clear()  # or exit functions of the parent would remove its folders
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILES, FILES))
        os.environ.update(environment)
        os.chdir(folder)
        for target, path in ((0, Path(os.devnull)), (1, self.out), (2, self.err)):
            flags = os.O_RDONLY if target == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            handle = os.open(path, flags, 0o666)
            os.dup2(handle, target)
            os.close(handle)
        # Not those of the parent, which pytest may have replaced.
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115

    def poll(self, seconds: float = TIME, memory: int = MEMORY) -> Outcome | None:
        """Return the outcome if it has ended; kill it if it is beyond a bound."""
        has_ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        took = time.monotonic() - self.started
        if has_ended:
            self.kill()  # what it has started and left; its number is its own until it is reaped
            _, status, usage = os.wait4(self.pid, 0)
            peak = max(self.memory, usage.ru_maxrss * 1024)
            text = [_text(path) for path in (self.out, self.err)]
            code = os.waitstatus_to_exitcode(status)
            ended = self.ended or (f"{peak >> 20} MiB of memory" if peak > memory else "")
            return Outcome(
                code=code, seconds=took, memory=peak, ended=ended, stdout=text[0], stderr=text[1]
            )
        if not self.ended:
            self.memory = max(self.memory, _resident(self.pid))
            if took > seconds:
                self.ended = f"over {seconds:g} seconds"
            elif self.memory > memory:
                self.ended = f"over {memory >> 20} MiB of memory"
            if self.ended:
                self.kill()
        return None

    def wait(self, seconds: float = TIME, memory: int = MEMORY) -> Outcome:
        """Wait for its end."""
        while (outcome := self.poll(seconds, memory)) is None:
            time.sleep(0.003)
        return outcome

    def kill(self) -> None:
        """Kill its process group; it must not have been reaped."""
        for kill in (os.killpg, os.kill):  # it may not have a group yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(self.pid, signal.SIGKILL)


def _code_of(work: Callable[[], int]) -> int:
    """Call what an interpreter would run, and return what it would exit with."""
    try:
        return work()
    except SystemExit as error:
        if isinstance(error.code, int | None):
            return error.code or 0
        print(error.code, file=sys.stderr)  # noqa: T201
        return 1
    except BaseException:
        traceback.print_exc()
        return 1


def _end(code: int) -> None:
    """Do what an interpreter does at its end: wait for threads, then call exit functions."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):  # it has ended, or this is no Linux
        return 0


def _text(path: Path) -> str:
    try:
        return path.read_bytes()[: 1 << 20].decode("utf-8", "replace")
    except FileNotFoundError:
        return ""

"""A benchmark worker process, controlled by one request at a time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from resharp.bench.cases import Case
from resharp.checks import shown
from resharp.engines import Bundle
from resharp.errors import BackendError, MissingExtraError, OptionError

TIMEOUT_VARIABLE = "RESHARP_BENCH_PATIENCE"
REQUEST_TIMEOUT = 600.0
"""Default timeout of a request in seconds; :data:`TIMEOUT_VARIABLE` overrides it."""
_TAIL = 400
"""Characters of the process's output that are added to an error message."""
_STEADY = {
    "OMP_PROC_BIND": "true",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
}
"""Environment that makes processes behave alike; the user's own variables take precedence. By
default Linux sometimes runs two OpenMP threads on one CPU for a whole run, and glibc returns large
blocks to the system and then faults them in again page by page, which made PyTorch 1.1 to 2.3 times
slower in our measurements."""
_CAN_STOP = hasattr(signal, "SIGSTOP")


def request_timeout() -> float:
    """Return the timeout of a request: ``RESHARP_BENCH_PATIENCE``, or :data:`REQUEST_TIMEOUT`.

    Raises:
        OptionError: the variable is not a positive number of seconds.
    """
    text = os.environ.get(TIMEOUT_VARIABLE)
    if not text:
        return REQUEST_TIMEOUT
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise OptionError(
            f"{TIMEOUT_VARIABLE} must be a number of seconds above 0, got {shown(text)}"
        )
    return seconds


class WorkerProcess(AbstractContextManager["WorkerProcess"]):
    """A worker process. A context manager that ends the process on exit.

    Raises:
        OptionError: ``RESHARP_BENCH_PATIENCE`` is invalid.
    """

    def __init__(self) -> None:
        self._timeout = request_timeout()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        self._suspended = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "resharp.bench.case_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env=_STEADY | os.environ,
        )

    @property
    def pid(self) -> int:
        """Process ID."""
        return self._process.pid

    def suspend(self) -> None:
        """Stop the process until its next request, where the system supports it.

        Thread pools keep spinning for a while after their work and would otherwise use the CPU
        during another case's turn.
        """
        if _CAN_STOP and self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)
            self._suspended = True

    def _resume(self) -> None:
        if self._suspended:
            self._process.send_signal(signal.SIGCONT)
            self._suspended = False

    def open(self, case: Case, bundle: Bundle, picture: Path) -> dict[str, Any]:
        """Open a case in the process and return how it runs; raises the errors of a request."""
        return self.request(
            "open",
            case=asdict(case),
            folder=str(bundle.folder),
            engines=None if bundle.engine_store_folder is None else str(bundle.engine_store_folder),
            picture=str(picture),
        )

    def request(self, do: str, **options: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises:
            MissingExtraError: a library is not installed.
            BackendError: the request failed, the process died or the timeout expired; the message
                includes the error or the end of the process's output.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        limit = threading.Timer(self._timeout, self._process.kill)
        limit.start()
        try:
            self._resume()
            self._process.stdin.write(json.dumps({"do": do, **options}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        finally:
            limit.cancel()
        if not line:
            code = self._process.wait()
            raise BackendError(
                f"the worker process ended (exit code {code}) during {do!r}{self._said()}"
            )
        found = json.loads(line)
        if "error" in found:
            raise (MissingExtraError if found["absent"] else BackendError)(found["error"])
        answer: dict[str, Any] = found["answer"]
        return answer

    def seconds(self, calls: int = 1) -> tuple[float, float | None]:
        """Return the mean seconds per image over a number of calls, and the joules if known."""
        found = self.request("time", calls=calls)
        return float(found["seconds"]), found["joules"]

    def close(self) -> None:
        """End the process."""
        self._resume()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):  # the process died with unread input
                self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:  # e.g. an interrupt: do not wait for the current request
            self._process.kill()
        self.close()

    def _said(self) -> str:
        """Return the end of the process's output, to append to an error message."""
        self._log.seek(0)
        text = self._log.read().decode("utf-8", "replace").strip()
        return f": ...{text[-_TAIL:]}" if text else ""

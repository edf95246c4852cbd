"""The command line, held in the middle of its work: ``python -m tests.held COUNT ARGUMENTS``.

After COUNT images each call of a restorer waits until a byte comes on standard input or the run is
stopped. So a signal, a kill or a second process meets a run at work, on a machine of any speed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.waiting import LIMIT

ROOT = Path(__file__).parents[1]


def released() -> threading.Event:
    """An event that is set by a byte on standard input. This process ends with its parent."""
    event, parent = threading.Event(), os.getppid()

    def listen() -> None:
        if os.read(0, 1):
            event.set()
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    return event


class Child(subprocess.Popen[str]):
    """Is killed when its test fails, and after :data:`LIMIT` seconds: no reader waits for ever."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._limit = threading.Timer(LIMIT, self.kill)
        self._limit.daemon = True
        self._limit.start()

    def wait(self, timeout: float | None = None) -> int:
        """See :meth:`subprocess.Popen.wait`."""
        code = super().wait(timeout)
        self._limit.cancel()
        if self._limit is not threading.current_thread():
            self._limit.join()
        return code

    def __exit__(self, kind: Any, *error: Any) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, *error)


def start(*arguments: str, **options: Any) -> Child:
    """Start Python, able to import the tests from anywhere, with pipes for its three streams."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    pipe = subprocess.PIPE
    streams = {"stdin": pipe, "stdout": pipe, "stderr": pipe}
    command = [sys.executable, *arguments]
    environment = {**os.environ, "PYTHONPATH": path}
    return Child(command, text=True, env=environment, **{**streams, **options})


def main(count: int, arguments: Sequence[str]) -> None:
    """Run the command."""
    from resharp.cli import main as command
    from resharp.pipeline.restorer import Restorer

    own, lock, calls, release = Restorer.with_count, threading.Lock(), 0, released()

    def call(self: Restorer, image: Any, *, progress: Any = None) -> Any:
        nonlocal calls
        with lock:
            calls += 1
            held = calls > count
        while held and not release.wait(0.001):
            progress(0, 1)  # raises when the run is stopped
        return own(self, image, progress=progress)

    Restorer.with_count = call  # type: ignore[method-assign]
    command(list(arguments))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])

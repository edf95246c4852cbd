"""Small independent checks, each recorded as a JSON line as soon as its result is known."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEXT, FRAMES = 1500, 900
"""Maximum characters recorded of an error message and of its traceback."""


class Skip(Exception):  # noqa: N818 (not an error)
    """Raised by a check that cannot run on this machine, with the reason."""


class Checks:
    """Runner for checks that records the result of each.

    Args:
        path: file of records, to which others may write as well; None: standard output only.
        stage: name of the stage in the records.
    """

    def __init__(self, path: Path | None, stage: str) -> None:
        self._path, self._stage = path, stage
        self._began = time.monotonic()
        self.failed: list[str] = []
        """Names of the checks that failed."""

    def __call__(self, name: str, check: Callable[[], Any]) -> Any:
        """Run a check, record any outcome and return its result, or None if it failed."""
        began, found = time.monotonic(), None
        facts: dict[str, Any] = {}
        try:
            found = facts["answer"] = check()
        except Skip as reason:
            facts["skipped"] = str(reason)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # libraries may raise more than Exception
            self.failed.append(name)
            facts["error"] = f"{type(error).__name__}: {error}"[:TEXT]
            facts["where"] = traceback.format_exc()[-FRAMES:]
        self.note(
            check=name,
            seconds=round(time.monotonic() - began, 2),
            at=round(began - self._began, 1),
            **facts,
        )
        return found

    def note(self, **facts: Any) -> None:
        """Write a record."""
        write_line(self._path, {"stage": self._stage, **facts})

    def end(self) -> None:
        """Exit the process with code 1 if a check failed."""
        if self.failed:
            sys.exit(f"failed: {', '.join(self.failed)}")


def write_line(path: Path | None, facts: dict[str, Any]) -> None:
    """Append a JSON line to a file in a single write, and print it."""
    line = json.dumps(facts, default=str)
    if path is not None:
        with path.open("ab", buffering=0) as file:
            file.write(line.encode() + b"\n")
            os.fsync(file.fileno())
    sys.stdout.write(line + "\n")
    sys.stdout.flush()

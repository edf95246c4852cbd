"""Small checks, each by itself, and a JSON line for each the moment it is known."""

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
"""Characters kept of an error and of where it was raised."""


class Skip(Exception):  # noqa: N818 (no error)
    """A check that cannot be made here, and why."""


class Checks:
    """Runs checks, and notes what each one finds.

    Args:
        path: file of records, which others may write to as well; None: standard output alone.
        stage: whose they are.
    """

    def __init__(self, path: Path | None, stage: str) -> None:
        self._path, self._stage = path, stage
        self._began = time.monotonic()
        self.failed: list[str] = []
        """Checks that raised something."""

    def __call__(self, name: str, check: Callable[[], Any]) -> Any:
        """Run one, whatever it does; what it returned, or None."""
        began, found = time.monotonic(), None
        facts: dict[str, Any] = {}
        try:
            found = facts["answer"] = check()
        except Skip as reason:
            facts["skipped"] = str(reason)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # what a library dies of may be no Exception
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
        """Write a line."""
        write_line(self._path, {"stage": self._stage, **facts})

    def end(self) -> None:
        """Leave the process, with 1 where a check failed."""
        if self.failed:
            sys.exit(f"failed: {', '.join(self.failed)}")


def write_line(path: Path | None, facts: dict[str, Any]) -> None:
    """Append a JSON line to a file, whole or not at all, and print it."""
    line = json.dumps(facts, default=str)
    if path is not None:
        with path.open("ab", buffering=0) as file:
            file.write(line.encode() + b"\n")
            os.fsync(file.fileno())
    sys.stdout.write(line + "\n")
    sys.stdout.flush()

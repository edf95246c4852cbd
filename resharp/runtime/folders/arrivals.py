"""Where pictures come from: a list, or folders that are watched."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from resharp.errors import OptionError
from resharp.runtime.folders.jobs import Job, Target, is_collection, jobs
from resharp.runtime.folders.rules import Stamp

Look = tuple[Stamp, str]
"""What is compared between two polls: the file's size and time, and what is wrong with the job."""


class Watch:
    """Pictures that appear or change in folders.

    Folders are asked again and again, which works on every disk and network mount.

    Args:
        inputs: folders and globs.
        target: where results go.

    Raises:
        OptionError: an input is neither a folder nor a glob, or the output is one file.
    """

    def __init__(self, inputs: Sequence[str], target: Target) -> None:
        for text in inputs:
            if not is_collection(text):
                raise OptionError(f"only folders and globs can be watched, and {text} is neither")
        if target.is_file:
            raise OptionError(f"a watched folder needs a folder of results, not {target.output}")
        self._find: Callable[[], list[Job]] = lambda: jobs(inputs, target, watching=True)
        self._last: dict[Path, Look] = {}
        self._taken: dict[Path, Look] = {}

    def poll(self) -> Iterator[Job]:
        """Pictures whose size and time are those of the last poll, and not those of their last.

        An empty file is one whose bytes are still to come.
        """
        now = {job: look for job in self._find() if (look := _look(job)) is not None}
        sources = {job.source for job in now}
        self._taken = {path: look for path, look in self._taken.items() if path in sources}
        last, self._last = self._last, {job.source: look for job, look in now.items()}
        for job, look in now.items():
            if last.get(job.source) == look and self._taken.get(job.source) != look:
                self._taken[job.source] = look
                yield job


def _look(job: Job) -> Look | None:
    """None if it has vanished, or has no bytes yet."""
    if not os.path.exists(job.source):
        return None
    try:
        stamp = Stamp.of(job.source)
    except OSError:
        return None
    return (stamp, job.problem) if stamp.size else None

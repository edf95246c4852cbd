"""Pictures that come into folders, or change there, while a run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from resharp.errors import OptionError
from resharp.folders.discovery import Job, Output, discover, is_collection
from resharp.folders.output_state import FileStat

Look = tuple[FileStat, str]
"""What is compared between two polls: the file's size and time, and what is wrong with the job."""


class FolderWatcher:
    """Pictures that appear or change in folders.

    Folders are asked again and again, which works on every disk and network mount.

    Args:
        inputs: folders and globs.
        output: where results go.

    Raises:
        OptionError: an input is neither a folder nor a glob, or the output is one file.
    """

    def __init__(self, inputs: Sequence[str], output: Output) -> None:
        for text in inputs:
            if not is_collection(text):
                raise OptionError(f"only folders and globs can be watched, and {text} is neither")
        if output.is_file:
            raise OptionError(f"a watched folder needs a folder of results, not {output.path}")
        self._inputs, self._output = inputs, output
        self._last: dict[Path, Look] = {}
        self._taken: dict[Path, Look] = {}

    def poll(self) -> Iterator[Job]:
        """Pictures whose size and time are those of the last poll, and not those of their last.

        An empty file is one whose bytes are still to come.
        """
        now: dict[Job, Look] = {}
        for job in discover(self._inputs, self._output, watching=True):
            with suppress(OSError):  # it has vanished
                stat = FileStat.of(job.source)
                if stat.size:
                    now[job] = (stat, job.error)
        sources = {job.source for job in now}
        self._taken = {path: look for path, look in self._taken.items() if path in sources}
        last, self._last = self._last, {job.source: look for job, look in now.items()}
        for job, look in now.items():
            if last.get(job.source) == look and self._taken.get(job.source) != look:
                self._taken[job.source] = look
                yield job

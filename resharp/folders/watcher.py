"""Detection of images that arrive or change in folders during a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from resharp.errors import OptionError
from resharp.folders.discovery import IsResult, Job, Output, discover, is_collection
from resharp.outputs import FileStat

Look = tuple[FileStat, str]
"""What two polls compare: the file's size and time, and the error of the job."""


class FolderWatcher:
    """Finds images that arrive or change in folders.

    It polls the folders, which works on every disk and network mount.

    Args:
        inputs: folders and globs.
        output: where results are written.
        is_result: same as in :func:`discover`.

    Raises:
        OptionError: an input is neither a folder nor a glob, or the output is a file.
    """

    def __init__(self, inputs: Sequence[str], output: Output, is_result: IsResult) -> None:
        for text in inputs:
            if not is_collection(text):
                raise OptionError(f"`watch` requires existing folders or globs, got {text}")
        if output.is_file:
            raise OptionError(f"`watch` requires a folder as `dst`, got the file {output.path}")
        self._inputs, self._output, self._is_result = inputs, output, is_result
        self._last: dict[Path, Look] = {}
        self._taken: dict[Path, Look] = {}

    def _look(self) -> list[Job]:
        return discover(self._inputs, self._output, watching=True, is_result=self._is_result)

    def poll(self) -> Iterator[Job]:
        """Yield images that are unchanged since the last poll and were not yielded in this state.

        An empty file is ignored, since its contents have not been written yet.
        """
        now: dict[Job, Look] = {}
        for job in self._look():
            with suppress(OSError):  # it has been removed
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

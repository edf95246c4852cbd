"""A run over files, folders and globs, once or for ever."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from resharp.runtime.crew import Crew
from resharp.runtime.folders.arrivals import Watch
from resharp.runtime.folders.desk import Desk, Item
from resharp.runtime.folders.jobs import Target, jobs
from resharp.runtime.folders.line import Line
from resharp.runtime.folders.options import FolderOptions, Hooks
from resharp.runtime.folders.progress import OnProgress, Progress
from resharp.runtime.folders.report import Report, Result, used_by
from resharp.runtime.folders.rules import Rules
from resharp.runtime.folders.work import Work
from resharp.runtime.recipe import Recipe

RECHECK = 0.1
"""Seconds between two looks at what another run has claimed."""


class FolderRun:
    """One run over pictures, on this machine.

    Args:
        inputs: files, folders and globs.
        target: where results go.
        recipe: what is to become of them.
        options: how.
        hooks: who is told.

    Raises:
        OptionError: a request that makes no sense.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        target: Target,
        recipe: Recipe,
        options: FolderOptions | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        self._inputs, self._target, self._recipe = inputs, target, recipe
        self._options, self._hooks = options or FolderOptions(), hooks or Hooks()
        self._rules = Rules(recipe.key, self._options.quality, self._options.overwrite)
        self._desk = Desk(self._rules, self._hooks.on_result)
        self._watch = None if self._options.watch is None else Watch(inputs, target)
        self._progress = Progress(self._hooks.progress)
        self._line: Line | None = None
        self._used = used_by(None)
        self._seconds = 0.0

    @property
    def begun(self) -> bool:
        """Whether the model was opened and pictures were taken into work."""
        return self._line is not None

    def run(self) -> Report:
        """Do it all, once. A picture that cannot be restored is a failed result.

        Raises:
            ResharpError: a request that makes no sense, a model that cannot be opened, or a disk
                that is full.
            BaseException: KeyboardInterrupt, say, or a bug of ours. No thread, claim or half
                file is left, and :meth:`report` tells what was done.
        """
        todo: list[Item] = []
        if self._watch is None:
            found = jobs(self._inputs, self._target)
            todo += self._desk.first_look(found, beside=self._target.output is None)
        if todo or self._watch is not None:
            self._open(todo)
        return self.report()

    def _open(self, todo: list[Item]) -> None:
        gpus, workers = self._options.gpus, self._options.workers
        with Crew(self._recipe, gpus=gpus, workers=workers, on_cpu=1) as crew:
            self._used = used_by(crew)
            quality, watching = self._options.quality, self._watch is not None
            line = Line(crew, self._desk, self._rules, self._progress, quality, watching)
            self._work(todo, line)

    def report(self) -> Report:
        """What was done so far."""
        upscaler, face = self._used
        return Report(
            results=self._desk.results,
            upscaler=upscaler,
            face=face,
            seconds=self._seconds,
            stages=() if self._line is None else self._line.pipeline.report(),
        )

    def _work(self, todo: list[Item], line: Line) -> None:
        self._line = line
        self._progress.expect(len(todo))
        if self._hooks.on_ready is not None:
            self._hooks.on_ready()
        began = time.monotonic()
        try:
            line.run(self._source(todo, line.pipeline.pause))
        finally:
            self._seconds = time.monotonic() - began
            self._desk.close()

    def _source(self, waiting: list[Item], pause: Callable[[float], None]) -> Iterator[Work]:
        """Pictures that are claimed and to be done; those that others have claimed come last."""
        polled, interval = 0.0, self._options.watch or RECHECK
        while True:
            if self._watch is not None and time.monotonic() - polled >= interval:
                polled = time.monotonic()
                waiting += self._arrived(self._watch)
            busy = []
            for item in waiting:
                if self._hooks.stopping:
                    return
                work, again = self._desk.offer(item, elsewhere=self._watch is None)
                if work is not None:
                    yield work
                elif again:
                    busy.append(item)
                else:
                    self._progress.expect(-1)
            waiting = busy
            if self._hooks.stopping or (self._watch is None and not waiting):
                return
            pause(min(interval, RECHECK))

    def _arrived(self, watch: Watch) -> list[Item]:
        items = [self._desk.number(job) for job in watch.poll()]
        self._progress.expect(len(items))
        return items


def restore_folder(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    recipe: Recipe | None = None,
    suffix: str | None = None,
    format: str | None = None,  # noqa: A002  # the word that every user looks for
    quality: int | None = None,
    overwrite: bool = False,
    gpus: Sequence[int] = (),
    workers: int | None = None,
    watch: float | None = None,
    progress: OnProgress | None = None,
    on_result: Callable[[Result], object] | None = None,
    stop: threading.Event | None = None,
) -> Report:
    """Restore the pictures of folders with all below them, of globs, and single ones.

    What is done is skipped, and two runs on one folder share the work; docs/folders.md has the
    rules. A picture that cannot be restored is a failed result and does not stop the others.

    Args:
        inputs: a folder, a file or a glob, or several.
        output: folder of results, which keeps the tree, or one file; None: beside the inputs.
        recipe: what is to become of the pictures; None: the built-in model.
        suffix: added to names; None: nothing, or ``_restored`` or ``_x2`` beside the inputs.
        format: ``png``, ``jpg``, ...; None: the input's, where it can be written.
        quality: see :class:`FolderOptions`; so too the next four.
        progress: see :class:`Hooks`; so too the next two.

    Returns:
        A result for each picture, and how fast it went.

    Raises:
        OptionError: a request that makes no sense.
        ResharpError: the model cannot be opened, or the disk is full.
    """
    recipe = recipe or Recipe()
    several = [inputs] if isinstance(inputs, str | os.PathLike) else inputs
    folder = None if output is None else Path(output)
    options = FolderOptions(
        quality=quality, overwrite=overwrite, gpus=tuple(gpus), workers=workers, watch=watch
    )
    hooks = Hooks(progress=progress, on_result=on_result, stop=stop)
    target = Target.asked(folder, suffix, format, recipe.settings.scale)
    return FolderRun([os.fspath(one) for one in several], target, recipe, options, hooks).run()

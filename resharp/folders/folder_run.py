"""A run over files, folders and globs, once or until it is stopped."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from resharp.errors import OptionError, ResharpError
from resharp.folders.discovery import Job, Output, discover
from resharp.folders.report import FolderReport, Used
from resharp.folders.scheduler import OnResult, Plan, Scheduler, SkipPolicy
from resharp.folders.stages import (
    WRITERS,
    FolderOptions,
    OpenStages,
    Restored,
    encode_image,
    header_of,
    is_full,
    local_stages,
    write,
)
from resharp.folders.task import ClaimedImage, FailedImage
from resharp.folders.watcher import FolderWatcher
from resharp.outputs import JournalOption
from resharp.paths import path_text
from resharp.pipeline.restorer import RestoreConfig, RestoreOptions, config_from
from resharp.pipeline.staged_pipeline import Pipeline, Stage
from resharp.types import Progress

if TYPE_CHECKING:
    from typing_extensions import Unpack

RECHECK = 0.1
"""Seconds between two attempts to claim images that another run has claimed."""
TICK = 0.1
"""Seconds between two progress reports."""


class FolderRun:
    """One run over the images of files, folders and globs.

    Args:
        inputs: files, folders and globs.
        output: where results are written.
        config: how to restore each image.
        options: options of the run.
        open_stages: opens the stages that restore: :func:`local_stages`, or those of
            :func:`resharp.cluster.cluster_stages`.
        progress: called with (images done, images in all), where fractions of an image count, from
            the thread that calls :meth:`run`; raising cancels.
        on_result: called with each :class:`Result`, from any thread but one at a time; raising ends
            the run.
        on_plan: called once with what was found and what is to be done, unless watching.
        on_ready: called once, when the models are open.
        stop: when it is set, no image is begun, those in flight are finished, and the run ends.

    Raises:
        OptionError: an input cannot be watched, or ``output`` is not a folder while watching.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        output: Output,
        config: RestoreConfig,
        options: FolderOptions | None = None,
        *,
        open_stages: OpenStages = local_stages,
        progress: Progress | None = None,
        on_result: OnResult | None = None,
        on_plan: Callable[[Plan], object] | None = None,
        on_ready: Callable[[], object] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._inputs, self._output, self._config = inputs, output, config
        self._options, self._open_stages = options or FolderOptions(), open_stages
        self._progress, self._on_plan, self._on_ready = progress, on_plan, on_ready
        self._stop = stop or threading.Event()
        self._policy = SkipPolicy(config.key, self._options.quality, self._options.overwrite)
        self._scheduler = Scheduler(self._policy, on_result, self._options.journal)
        self._watcher: FolderWatcher | None = None
        if self._options.watch is not None:
            self._watcher = FolderWatcher(inputs, output, self._scheduler.is_result)
        self._pipeline: Pipeline | None = None
        self._used: Used = (None, None)
        self._seconds = 0.0

    @property
    def begun(self) -> bool:
        """Whether the models were opened and processing has started."""
        return self._pipeline is not None

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the images in flight."""
        return self._scheduler.active

    def run(self) -> FolderReport:
        """Run to the end; call it once. An image that cannot be restored is a failed result.

        Raises:
            ResharpError: an input is invalid, a model cannot be opened, or the disk is full.
            BaseException: any other error, e.g. KeyboardInterrupt. No thread, claim or partial
                file is left behind, and :meth:`report` returns what was done.
        """
        todo: list[Job] = []
        if self._watcher is None:
            found = discover(self._inputs, self._output, is_result=self._scheduler.is_result)
            plan = self._scheduler.plan(found)
            todo = plan.todo
            if self._on_plan is not None:
                self._on_plan(plan)
        if todo or self._watcher is not None:
            self._restore(todo)
        else:
            self._scheduler.tidy()
        return self.report()

    def report(self) -> FolderReport:
        """Return a report on the run so far."""
        return FolderReport(
            results=self._scheduler.results,
            upscaler=self._used[0],
            face=self._used[1],
            seconds=self._seconds,
            stages=() if self._pipeline is None else self._pipeline.report(),
        )

    def _restore(self, todo: list[Job]) -> None:
        opened = self._open_stages(self._config, self._options, self._advance)
        with opened as (stages, self._used):
            writes = Stage(name="write", calls=[self._write] * WRITERS)
            pipeline = self._pipeline = Pipeline([*stages, writes], source="claim")
            if self._on_ready is not None:
                self._on_ready()
            began = time.monotonic()
            try:
                pipeline.run(self._claimed(todo, pipeline), lambda _: self._report_progress(), TICK)
                self._report_progress()
            finally:
                self._seconds = time.monotonic() - began
                self._scheduler.close()

    def _report_progress(self) -> None:
        if self._progress is not None:
            self._progress(*self._scheduler.progress)

    def _claimed(self, waiting: list[Job], pipeline: Pipeline) -> Iterator[ClaimedImage]:
        """Claim and yield the images to restore, those that another run has claimed last."""
        scheduler, watcher = self._scheduler, self._watcher
        polled, interval = 0.0, self._options.watch or RECHECK
        while True:
            if watcher is not None and time.monotonic() - polled >= interval:
                polled = time.monotonic()
                scheduler.refresh()
                waiting += map(scheduler.add, watcher.poll())
            busy = []
            for job in waiting:
                if self._stop.is_set():
                    return
                claimed = scheduler.claim(job, watching=watcher is not None)
                if isinstance(claimed, ClaimedImage):
                    yield replace(claimed, header=header_of(claimed))
                elif claimed is not None:
                    busy.append(claimed)
            waiting = busy
            if self._stop.is_set() or (watcher is None and not waiting):
                return
            pipeline.pause(min(interval, RECHECK))

    def _advance(self, task: ClaimedImage, share: float) -> None:
        if self._pipeline is not None:
            self._pipeline.check()
        self._scheduler.advance(task, share)

    def _write(self, item: Restored) -> None:
        """Write a result, or record a failed one if that fails; a full disk ends the run."""
        task, values, full = item.task, dict[str, Any](), None
        failed: FailedImage | None = None
        if isinstance(item, FailedImage):
            failed = item
        else:
            try:
                made = encode_image(item, self._options.quality)
                notes, file = write(made, self._policy), made.file
                values |= {"notes": file.notes + notes, "faces": file.faces}
                values |= {"width": file.width, "height": file.height}
            except (ResharpError, MemoryError) as error:
                full = error if is_full(error) else None
                failed = FailedImage.of(task, error)
        gone = self._watcher is not None and not os.path.lexists(task.job.source)
        if failed is not None and gone:
            self._scheduler.drop(task)
        else:
            self._scheduler.finish(task, failed, **values)
        if full is not None:
            raise full


def restore_folder(
    src: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    dst: str | os.PathLike[str] | None = None,
    *,
    config: RestoreConfig | None = None,
    suffix: str | None = None,
    format: str | None = None,
    quality: int | None = None,
    overwrite: bool = False,
    allow_truncated: bool = False,
    workers: int | None = None,
    watch: float | None = None,
    journal: JournalOption = "auto",
    max_pixels: int | None = None,
    progress: Progress | None = None,
    on_result: OnResult | None = None,
    stop: threading.Event | None = None,
    **options: Unpack[RestoreOptions],
) -> FolderReport:
    """Restore the images of folders and their subfolders, of globs, and single files.

    Finished images are skipped; an image is restored again if it, the model or an option has
    changed. Several runs on one folder share the work. An image that cannot be restored is a failed
    result and does not stop the others.

    Args:
        src: a folder, a file or a glob, or several.
        dst: folder of results, which keeps the folder structure, or one file; None writes next to
            the inputs. A name with an extension that cannot be written is refused; for a folder of
            such a name, end it with a slash.
        config: how to restore; None takes ``options``, or the built-in model.
        suffix: added to file names; None: nothing with ``dst``, else ``_restored`` or ``_x2``.
        format: ``png``, ``jpg``, ...; None keeps the input's format if it can be written.
        quality: JPEG, WebP and AVIF quality, 1 to 100; None is the format's default.
        overwrite: restore finished images again, and replace ``dst`` if it is a file.
        allow_truncated: restore the readable part of truncated files; a note of the result says
            what is missing.
        workers: images in flight at once on each device; None: one on the CPU, which uses all
            cores, and on a GPU as many as keep it busy.
        watch: seconds between two checks for new files, until ``stop`` is set; None: check once.
        journal: where the journal of finished images is kept: ``output`` (beside the results),
            ``cache`` (in the cache folder), or ``auto``: the former for folders, the latter for
            single files.
        max_pixels: most pixels that an image may have; None is ``RESHARP_MAX_PIXELS``, or else a
            number that depends on the memory, and refuses suspiciously small files of large images.
        progress: called with (images done, images in all), where fractions of an image count, from
            this thread; raising cancels.
        on_result: called with each :class:`Result`, from any thread but one at a time.
        stop: when it is set, no image is begun, those in flight are finished, and the run ends.
        options: fields of :class:`~resharp.RestoreConfig`: ``model``, ``scale``, ``denoise``,
            ``face``, ``tta``, ``tile``, ``backend``, ``device`` (also ``cuda:0,1``), ...

    Returns:
        A result per image, and the speed.

    Raises:
        OptionError: an option is invalid.
        ResharpError: the model cannot be opened, or the disk is full.
    """
    config = config_from(config, options)
    given: Any = src
    one = isinstance(given, str | bytes | os.PathLike) or not isinstance(given, Iterable)
    several = [path_text(path, "an input") for path in ([given] if one else given)]
    if not several:
        raise OptionError("`src` is empty: name a file, a folder or a glob")
    run = FolderRun(
        several,
        Output.from_args(dst, suffix, format, config.scale),
        config,
        FolderOptions(
            quality=quality,
            overwrite=overwrite,
            allow_truncated=allow_truncated,
            workers=workers,
            watch=watch,
            journal=journal,
            max_pixels=max_pixels,
        ),
        progress=progress,
        on_result=on_result,
        stop=stop,
    )
    return run.run()

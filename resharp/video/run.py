"""A video from end to end: planned, restored segment by segment, delivered."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

from resharp.errors import OptionError, VideoError
from resharp.gpu.devices import usable_threads
from resharp.pipeline.restorer import RestoreConfig, Restorer, RestorerInfo, RestorerPool
from resharp.pipeline.staged_pipeline import StageReport
from resharp.types import Image, Log
from resharp.video.clip import Clip
from resharp.video.encoding import choose_encoder
from resharp.video.muxing import mux
from resharp.video.options import VideoOptions
from resharp.video.preparation import VideoTask, header, plan
from resharp.video.pyav import pyav
from resharp.video.render import Renderer, Rendering
from resharp.video.report import VideoProgress, VideoReport
from resharp.video.resume import JOURNAL, Workspace, folder_of, make_folder, workspace
from resharp.video.timeline import last_tick, timing

MOST_ENCODER_THREADS = 16
"""Where no number is given. Half as many again as there are cores keep them busy; 2 on two were 7 %
slower."""
OnProgress = Callable[[VideoProgress], object]


def restore_video(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    config: RestoreConfig | None = None,
    *,
    options: VideoOptions | None = None,
    gpus: Sequence[int] = (),
    workers: int | None = None,
    overwrite: bool = False,
    progress: OnProgress | None = None,
    log: Log | None = None,
) -> VideoReport:
    """Restore a video.

    Timestamps, sound, subtitles, chapters, metadata, rotation and color are kept (docs/video.md).
    An interrupted run leaves ``<target>.resharp`` beside the result, and the same call goes on in
    it. Frames are the same then, bit for bit.

    Args:
        source: a video file, a folder of pictures, or a pattern of them (``%06d.png``).
        target: a video file, a folder, or a pattern of pictures (``out/%06d.png``).
        config: what is to become of each frame; None: the built-in model.
        options: what is asked of the video.
        gpus: numbers of GPUs to spread the frames over.
        workers: frames in work at once on each device; None leaves it to the device.
        overwrite: make a result anew that is there already.
        progress: called now and then, from this thread; raising in it stops cleanly.
        log: called with what the user should know, as soon as it is known.

    Raises:
        VideoError: the input is no video, or not to its end; what is finished is kept.
        OutputError: the result cannot be written; what is finished is kept.
        OptionError: an option makes no sense.
        MissingExtraError: PyAV is not installed.
        ResharpError: see :class:`~resharp.Upscaler`.
    """
    config, task = task_of(source, target, config, options, log)
    if is_done(task) and not overwrite:
        return task.there()
    with workspace(task.target) as work:
        job = VideoJob(task, work)
        with RestorerPool(job.pinned(config), gpus=gpus, workers=workers) as pool:
            tile = pool.first.info.tile
            for one in pool.workers:  # all frames in tiles of one size
                one.pin_tile(tile)
            return job.run(pool, progress)


def task_of(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    config: RestoreConfig | None,
    options: VideoOptions | None,
    log: Log | None,
) -> tuple[RestoreConfig, VideoTask]:
    """What is to be done, and whether it can be; see :func:`restore_video`."""
    pyav()
    config = config or RestoreConfig()
    if config.aligned:
        raise OptionError("aligned faces are pictures and no video: leave --aligned out")
    return config, plan(source, target, options or VideoOptions(), log)


def is_done(task: VideoTask) -> bool:
    """Whether a result is there, and no interrupted run that is to go on.

    A sequence grows in its place. A file appears whole: segments that are older than it are what a
    run left that was ended in its last moment, and they go.
    """
    folder = folder_of(task.target)
    if task.files is not None:
        return os.path.exists(task.files.path(0)) and not os.path.isdir(folder)
    if not os.path.exists(task.target):
        return False
    journal = folder / JOURNAL
    if os.path.exists(journal) and journal.stat().st_mtime_ns <= task.target.stat().st_mtime_ns:
        with workspace(task.target) as work:
            work.remove()
    return True


class VideoJob:
    """A task in its workspace."""

    def __init__(self, task: VideoTask, work: Workspace) -> None:
        self.task, self.work = task, work
        work.files = task.files
        stored = work.header or {}
        self._stored: dict[str, Any] = stored.get("machine", {})

    def pinned(self, config: RestoreConfig) -> RestoreConfig:
        """The config with the tile of the run before: another could change pixels by a level."""
        tile = self._stored.get("tile")
        if isinstance(tile, int) and config.tile == "auto":
            return config.on(tile=tile)
        return config

    def run(self, pool: RestorerPool, progress: OnProgress | None) -> VideoReport:
        """Restore what is not restored yet, and write the result."""
        began, info = time.monotonic(), pool.first.info
        rendering = self.prepare(info)
        clip, start, total = self.task.clip, self.work.place, expected(self.task)
        batch = min(one.batch(clip.height, clip.width) for one in pool.workers)
        calls = [partial(restored, one) for one in pool.slots]
        renderer = Renderer(rendering, calls, batch, self.work.add, self.task.notes.add)

        def report(stages: tuple[StageReport, ...]) -> None:
            if progress is not None:
                progress(
                    VideoProgress(
                        done=start.number + renderer.written,
                        total=total,
                        began_at=start.number,
                        seconds=time.monotonic() - began,
                        stages=stages,
                    )
                )

        stages = renderer.run(start, None, report)
        return self.conclude(rendering, info, renderer.restored, start.number, began, stages)

    def prepare(self, restorer: RestorerInfo, *, gaps: bool = False) -> Rendering:
        """Choose how frames are encoded, and go on where an earlier run stopped, or start over.

        Args:
            restorer: what restores.
            gaps: keep finished segments also where one before them is missing.
        """
        task, encoder, end = self.task, None, self.task.options.end
        if task.files is not None:
            make_folder(task.files.folder)
        else:
            asked = task.options.encoder_threads
            stored = self._stored.get("encoder_threads")
            threads = asked or stored or min(usable_threads() * 3 // 2, MOST_ENCODER_THREADS)
            size = output_size(task.clip, restorer)
            encoder = choose_encoder(task.clip, task.options, *size, threads)
            task.notes.add(*encoder.notes)
        until = last_tick(task.clip, task.options)
        key = header(task, restorer, encoder)
        task.notes.add(self.work.begin(key, None if end is None else str(end), until, gaps=gaps))
        return Rendering(
            clip=task.clip,
            options=task.options,
            encoder=encoder,
            files=task.files,
            folder=self.work.folder,
        )

    def conclude(
        self,
        rendering: Rendering,
        restorer: RestorerInfo,
        restored: int,
        resumed_at: int,
        began: float,
        stages: tuple[StageReport, ...] = (),
    ) -> VideoReport:
        """Write the result from the finished segments, and leave nothing else.

        Raises:
            VideoError: there is not a single frame.
            OutputError: the result cannot be written; the segments are kept.
        """
        task, segments, encoder = self.task, self.work.segments, rendering.encoder
        if not segments:
            self.work.remove()
            raise VideoError(f"{task.clip.path} shows nothing between --start and --end")
        width, height = output_size(task.clip, restorer)
        if task.files is not None:
            times = [pts for segment in segments for pts in segment.times]
            task.files.finish(times, timing(task.clip, task.options)[0])
        elif task.mux_plan is not None and encoder is not None:
            folder = self.work.folder
            task.notes.add(mux(task.mux_plan, task.clip, task.options, encoder, segments, folder))
            width, height = encoder.width, encoder.height  # which may have been made even
        count = sum(len(one.times) for one in segments)
        report = VideoReport(
            target=task.target,
            frames=count,
            restored=restored,
            repeated=count - sum(one.restored for one in segments),
            resumed_at=resumed_at,
            width=width,
            height=height,
            seconds=time.monotonic() - began,
            description=restorer.description,
            stages=stages,
            notes=task.notes.all,
        )
        self.work.remove()
        return report


def restored(restorer: Restorer, images: Sequence[Image], check: Callable[[], None]) -> list[Image]:
    """What a restorer makes of pictures of one size; ``check`` may raise between tiles."""
    if len(images) > 1:
        return restorer.many(images)
    return [restorer(image, lambda done, total: check())[0] for image in images]


def output_size(clip: Clip, restorer: RestorerInfo) -> tuple[int, int]:
    """Width and height of the result."""
    return max(round(clip.width * restorer.scale), 1), max(round(clip.height * restorer.scale), 1)


def expected(task: VideoTask) -> int:
    """Frames of the result; an estimate, 0 where nothing tells."""
    clip, options = task.clip, task.options
    seconds = Fraction(clip.frames) / clip.rate
    end = seconds if options.end is None else min(seconds, options.end)
    span = max(end - (options.start or 0), Fraction(0))
    return round(span * (options.fps or clip.rate))

"""Video restoration from start to finish: plan, restore segment by segment, write the result."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resharp.checks import check_number
from resharp.errors import OptionError, VideoError
from resharp.gpu.devices import usable_threads
from resharp.images import check_result
from resharp.outputs import JournalOption
from resharp.pipeline.restorer import (
    RestoreConfig,
    RestoreOptions,
    Restorer,
    RestorerInfo,
    RestorerPool,
    config_from,
)
from resharp.pipeline.staged_pipeline import StageReport
from resharp.types import Image, Log, Progress
from resharp.video.animation_output import (
    ANIMATED,
    animation_encoder,
    check_side,
    write_animation,
)
from resharp.video.animation_writers import upright_size
from resharp.video.clip import Clip
from resharp.video.encoding import choose_encoder
from resharp.video.muxing import mux
from resharp.video.options import SEGMENT, CodecName, VideoOptions
from resharp.video.preparation import VideoTask, header, plan
from resharp.video.pyav import pyav
from resharp.video.render import Renderer, Rendering
from resharp.video.report import VideoReport
from resharp.video.resume import (
    JOURNAL,
    Workspace,
    folder_of,
    is_unfinished,
    make_folder,
    workspace,
)
from resharp.video.timeline import last_tick, timing

if TYPE_CHECKING:
    from typing_extensions import Unpack

MOST_ENCODER_THREADS = 16
"""Most encoder threads by default. 1.5 per core keep the cores busy; 2 on two cores were 7 %
slower."""
OnStages = Callable[[tuple[StageReport, ...]], object]
"""Called with what each stage has done so far, the source first."""


def restore_video(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    config: RestoreConfig | None = None,
    codec: CodecName = "auto",
    crf: float | None = None,
    preset: str | None = None,
    encoder: str | None = None,
    pixel_format: str | None = None,
    stream: int | None = None,
    fps: Fraction | float | None = None,
    start: Fraction | float | None = None,
    end: Fraction | float | None = None,
    segment: int = SEGMENT,
    skip_duplicates: float | None = None,
    encoder_threads: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    journal: JournalOption = "auto",
    max_pixels: int | None = None,
    progress: Progress | None = None,
    on_stages: OnStages | None = None,
    log: Log | None = None,
    **options: Unpack[RestoreOptions],
) -> VideoReport:
    """Restore a video.

    Timestamps, audio, subtitles, chapters, metadata, rotation and color are kept. An interrupted
    run leaves ``<dst>.resharp`` next to the result, and the same call resumes it; its frames are
    the same, bit for bit.

    Args:
        src: a video file, an animated image, a folder of images, or a pattern of them
            (``frames/%06d.png``).
        dst: a video file, an animated image (``.gif``, ``.webp``, ``.apng``), a folder, or a
            pattern of images (``out/%06d.png``).
        config: how to restore each frame; None takes ``options``, or the built-in model.
        codec: ``auto`` (h264, hevc for more than 8 bits, av1 in WebM), ``h264``, ``hevc``, ``av1``,
            ``ffv1``.
        crf: quality of the codec, lower is better; None is the codec's default.
        preset: preset of the encoder; None is a fast one.
        encoder: FFmpeg encoder to use instead of the codec's default, e.g. ``h264_nvenc``.
        pixel_format: FFmpeg's pixel format of the result, e.g. ``yuv444p``; None is the one closest
            to the input that players support.
        stream: index of the video stream to restore, counted over all streams; None is the one
            that players play.
        fps: constant frame rate of the result; None keeps every timestamp.
        start: seconds at the beginning to leave out.
        end: seconds from the first frame at which to stop.
        segment: frames that are finished together, which is what an interruption costs at most.
        skip_duplicates: mean difference of a 16x16 block, in levels of 255, up to which a frame
            repeats the last restored one; None restores every frame.
        encoder_threads: threads of the encoder; None: 1.5 per core.
        workers: frames in flight at once on each device; None leaves it to the device.
        overwrite: replace an existing result.
        journal: where it is recorded that the result is finished: ``output`` (in ``.resharp``
            beside it) or ``cache`` (the cache folder, also the meaning of ``auto``).
        max_pixels: most pixels that a frame may have; None is ``RESHARP_MAX_PIXELS``, or else a
            number that depends on the memory.
        progress: called with (frames done, frames in all) from this thread; the total is an
            estimate, or 0 if it is unknown; raising cancels.
        on_stages: called before ``progress`` with what each stage has done so far.
        log: called with each note for the user, as soon as it is known.
        options: fields of :class:`~resharp.RestoreConfig`: ``model``, ``scale``, ``denoise``,
            ``face``, ``tta``, ``tile``, ``backend``, ``device`` (also ``cuda:0,1``), ...

    Raises:
        VideoError: the input is not a video, or damaged; finished frames are kept.
        OutputError: the result cannot be written; finished frames are kept. Or ``dst`` exists and
            was not made by resharp.
        OptionError: an option is invalid, or the result would overwrite the input.
        MissingExtraError: PyAV is not installed.
        ResharpError: as for :class:`~resharp.Upscaler`.
    """
    video = VideoOptions(
        codec=codec,
        crf=crf,
        preset=preset,
        encoder=encoder,
        pixel_format=pixel_format,
        stream=stream,
        fps=_fraction("fps", fps, 100_000),
        start=_fraction("start", start, 1_000_000),
        end=_fraction("end", end, 1_000_000),
        segment=segment,
        skip_duplicates=skip_duplicates,
        encoder_threads=encoder_threads,
        journal=journal,
        max_pixels=max_pixels,
    )
    return render_video(
        src,
        dst,
        config_from(config, options),
        options=video,
        workers=workers,
        overwrite=overwrite,
        progress=progress,
        on_stages=on_stages,
        log=log,
    )


def _fraction(name: str, value: Fraction | float | None, limit: int) -> Fraction | None:
    """Convert a number to the nearest fraction that containers can hold."""
    if value is None:
        return None
    exact = value if isinstance(value, Fraction) else check_number(name, value, -math.inf)
    return Fraction(exact).limit_denominator(limit)


def render_video(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    config: RestoreConfig | None = None,
    *,
    options: VideoOptions | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    on_stages: OnStages | None = None,
    log: Log | None = None,
) -> VideoReport:
    """Do the work of :func:`restore_video`, with its options as objects."""
    config, task = task_of(src, dst, config, options, overwrite, log)
    if (done := finished(task)) is not None:
        return done
    with workspace(task.target) as work:
        job = VideoJob(task, work)
        with RestorerPool(job.pinned(config), workers=workers) as pool:
            tile = pool.first.info.tile
            for one in pool.workers:  # one tile size for all frames
                one.pin_tile(tile)
            return job.run(pool, progress, on_stages)


def task_of(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    config: RestoreConfig | None,
    options: VideoOptions | None,
    overwrite: bool,
    log: Log | None,
) -> tuple[RestoreConfig, VideoTask]:
    """Return the config and task of :func:`restore_video`, after checking that it is possible."""
    pyav()
    config = config or RestoreConfig()
    if config.aligned:
        raise OptionError("`aligned` faces are images, not a video: leave out `aligned`")
    chosen = options or VideoOptions()
    return config, plan(source, target, chosen, config.key(), overwrite=overwrite, log=log)


def finished(task: VideoTask) -> VideoReport | None:
    """Return the report of a result that needs no work; None if it is to be made.

    An image sequence is incomplete while its workspace exists. A video file appears only when it is
    complete; a workspace beside it was left by a run that was killed in its last moment, and is
    deleted.

    Raises:
        OutputError: what exists was not made by this program, and must not be replaced.
    """
    resumes = is_unfinished(task.target, task.files)
    entry = task.outputs.standing(resumes=resumes)
    if entry is None or task.outputs.overwrite:
        return None
    journal = folder_of(task.target) / JOURNAL
    if resumes and journal.stat().st_mtime_ns <= task.target.stat().st_mtime_ns:
        with workspace(task.target) as work:
            work.remove()
    return task.there(same=task.outputs.matches(entry))


class VideoJob:
    """A task with its workspace."""

    def __init__(self, task: VideoTask, work: Workspace) -> None:
        self.task, self.work = task, work
        work.files = task.files
        stored = work.header or {}
        self._stored: dict[str, Any] = stored.get("machine", {})

    def pinned(self, config: RestoreConfig) -> RestoreConfig:
        """Return the config with the earlier run's tile: another could change pixels by a level."""
        tile = self._stored.get("tile")
        if isinstance(tile, int) and config.tile == "auto":
            return config.on(tile=tile)
        return config

    def run(
        self, pool: RestorerPool, progress: Progress | None, on_stages: OnStages | None
    ) -> VideoReport:
        """Restore the frames that are not finished yet, and write the result."""
        began, info = time.monotonic(), pool.first.info
        rendering = self.prepare(info)
        clip, start, total = self.task.clip, self.work.place, expected(self.task)
        batch = min(one.batch_for(clip.height, clip.width) for one in pool.workers)
        calls = [partial(restored, one) for one in pool.slots]
        renderer = Renderer(rendering, calls, batch, self.work.add, self.task.notes.add)

        def report(stages: tuple[StageReport, ...]) -> None:
            if on_stages is not None:
                on_stages(stages)
            if progress is not None:
                progress(start.number + renderer.written, total)

        if progress is not None:
            progress(start.number, total)
        stages = renderer.run(start, None, report)
        if progress is not None:  # the total was an estimate
            progress(start.number + renderer.written, start.number + renderer.written)
        return self.conclude(rendering, info, renderer.restored, start.number, began, stages)

    def prepare(self, restorer: RestorerInfo, *, gaps: bool = False) -> Rendering:
        """Choose the encoder, and resume an earlier run or start over.

        Args:
            restorer: properties of the restorer.
            gaps: keep finished segments even if an earlier one is missing.
        """
        task, encoder, end = self.task, None, self.task.options.end
        if task.files is not None:
            suffix = Path(task.files.pattern).suffix
            check_result(suffix, task.clip.height, task.clip.width, restorer.scale)
            self.work.created += make_folder(task.files.folder)
        else:
            asked = task.options.encoder_threads
            stored = self._stored.get("encoder_threads")
            threads = asked or stored or min(usable_threads() * 3 // 2, MOST_ENCODER_THREADS)
            size = output_size(task.clip, restorer)
            if task.mux_plan is not None and task.mux_plan.format in ANIMATED:
                check_side(task.mux_plan, task.clip, *size)
                encoder = animation_encoder(task.clip, task.options, *size, threads)
            else:
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
            scale=restorer.scale,
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
        """Write the result from the finished segments, and delete the workspace.

        Raises:
            VideoError: there are no frames.
            OutputError: the result cannot be written; the segments are kept.
        """
        task, segments, encoder = self.task, self.work.segments, rendering.encoder
        if not segments:
            self.work.remove()
            raise VideoError(f"{task.clip.path} has no frames between `start` and `end`")
        width, height = output_size(task.clip, restorer)
        source = (self.work.header or {}).get("input", "")
        if task.files is not None:
            times = [pts for segment in segments for pts in segment.times]
            time_base = timing(task.clip, task.options)[0]
            text = task.files.timecodes(times, time_base, segments[-1].duration)
            earlier = task.outputs.earlier()
            task.outputs.record_sequence(len(times), text, source)
            if left := task.files.finish(len(times), text, earlier):
                what = "1 image" if left == 1 else f"{left} images"
                task.notes.add(f"{what} after the last frame kept: not made from this video")
        elif task.mux_plan is not None and encoder is not None:
            folder, width, height = self.work.folder, encoder.width, encoder.height  # or padded
            task.outputs.standing(resumes=True)  # a file of others may have appeared meanwhile
            record = partial(task.outputs.record_file, input_sha256=source)  # checks it once more
            if task.mux_plan.format in ANIMATED:
                width, height = upright_size(task.clip, width, height)
                notes = write_animation(task.mux_plan, task.clip, encoder, segments, folder, record)
            else:
                notes = mux(
                    task.mux_plan, task.clip, task.options, encoder, segments, folder, record
                )
            task.notes.add(*notes)
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
    """Restore images of one size; ``check`` is called between tiles and may raise."""
    if len(images) > 1:
        return restorer.batch(images)
    return [restorer(image, progress=lambda done, total: check()) for image in images]


def output_size(clip: Clip, restorer: RestorerInfo) -> tuple[int, int]:
    """Return the width and height of the result."""
    return max(round(clip.width * restorer.scale), 1), max(round(clip.height * restorer.scale), 1)


def expected(task: VideoTask) -> int:
    """Return the estimated number of frames in the result; 0 if unknown."""
    clip, options = task.clip, task.options
    seconds = Fraction(clip.frames) / clip.rate
    end = seconds if options.end is None else min(seconds, options.end)
    span = max(end - (options.start or 0), Fraction(0))
    return round(span * (options.fps or clip.rate))

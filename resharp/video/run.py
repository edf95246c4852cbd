"""A video from end to end: planned, restored segment by segment, delivered."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, Protocol

from resharp.errors import OptionError, VideoError
from resharp.fsutil import sha256_of
from resharp.gpu.devices import usable_threads
from resharp.runtime.crew import Crew
from resharp.runtime.recipe import Recipe, Restorer
from resharp.runtime.stages import StageReport
from resharp.types import Image
from resharp.video.clip import Clip
from resharp.video.encoding import choose_encoder
from resharp.video.muxing import deliver
from resharp.video.options import VideoOptions
from resharp.video.preparation import VideoTask, plan
from resharp.video.pyav import pyav
from resharp.video.render import Renderer, Rendering
from resharp.video.report import VideoProgress, VideoReport
from resharp.video.resume import JOURNAL, Workspace, folder_of, make_folder, workspace
from resharp.video.timeline import Position, last_tick, timing

MOST_ENCODER_THREADS = 16
"""Unless told. Half as many again as there are cores keep them busy; 2 on two were 7 % slower."""
Tick = Callable[[VideoProgress], object]


def restore_video(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    recipe: Recipe | None = None,
    *,
    options: VideoOptions | None = None,
    gpus: Sequence[int] = (),
    workers: int | None = None,
    overwrite: bool = False,
    tick: Tick | None = None,
    say: Callable[[str], object] | None = None,
) -> VideoReport:
    """Restore a video.

    Timestamps, sound, subtitles, chapters, metadata, rotation and colour are kept (docs/video.md).
    An interrupted run leaves ``<target>.resharp`` beside the result, and the same call goes on in
    it. Frames are the same then, bit for bit.

    Args:
        source: a video file, a folder of pictures, or a pattern of them (``%06d.png``).
        target: a video file, a folder, or a pattern of pictures (``out/%06d.png``).
        recipe: what is to become of each frame; None: the built-in model.
        options: what is asked of the video.
        gpus: numbers of GPUs to spread the frames over.
        workers: frames in work at once on each device; None leaves it to the device.
        overwrite: make a result anew that is there already.
        tick: told now and then how far it is, from this thread; raising in it stops cleanly.
        say: told what the user should know, as soon as it is known.

    Raises:
        VideoError: the input is no video, or not to its end; what is finished is kept.
        OutputError: the result cannot be written; what is finished is kept.
        OptionError: an option makes no sense.
        MissingExtraError: PyAV is not installed.
        ResharpError: see :class:`~resharp.Upscaler`.
    """
    recipe, task = task_of(source, target, recipe, options, say)
    if is_done(task) and not overwrite:
        return task.there()
    with workspace(task.target) as work:
        job = VideoJob(task, work)
        with Crew(job.pinned(recipe), gpus=gpus, workers=workers) as crew:
            for member in crew.members:  # all frames in tiles of one size
                member.keep_tile(crew.first.tile)
            return job.run(crew, tick)


def task_of(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    recipe: Recipe | None,
    options: VideoOptions | None,
    say: Callable[[str], object] | None,
) -> tuple[Recipe, VideoTask]:
    """What is to be done, and whether it can be; see :func:`restore_video`."""
    pyav()
    recipe = recipe or Recipe()
    if recipe.aligned:
        raise OptionError("aligned faces are pictures and no video: leave --aligned out")
    return recipe, plan(source, target, options or VideoOptions(), say)


def is_done(task: VideoTask) -> bool:
    """Whether a result is there, and no interrupted run that is to go on."""
    return task.done and not _unfinished(task)


def _unfinished(task: VideoTask) -> bool:
    """Whether an interrupted run is to go on, though there is a result.

    A sequence grows in its place. A file appears whole: segments that are older than it are what a
    run left that was ended in its last moment, and they go.
    """
    folder = folder_of(task.target)
    if not os.path.isdir(folder):
        return False
    journal = folder / JOURNAL
    if task.files is not None or not os.path.exists(journal):
        return task.files is not None
    if journal.stat().st_mtime_ns <= task.target.stat().st_mtime_ns:
        with workspace(task.target) as work:
            work.remove()
    return False


class RestorerInfo(Protocol):
    """What must be known of what restores: a :class:`Restorer` knows it."""

    @property
    def scale(self) -> float:
        """Output size over input size."""

    @property
    def key(self) -> str:
        """Hash of all that decides the pixels, but for the next two."""

    @property
    def place(self) -> str:
        """Backend and kind of device."""

    @property
    def tile(self) -> int | None:
        """Largest side of a tile."""

    @property
    def description(self) -> str:
        """For people."""


class VideoJob:
    """A task in its workspace."""

    def __init__(self, task: VideoTask, work: Workspace) -> None:
        self.task, self.work = task, work
        work.files = task.files
        stored = work.header or {}
        self._stored: dict[str, Any] = stored.get("machine", {})

    def pinned(self, recipe: Recipe) -> Recipe:
        """The recipe with the tile of the run before: another could change pixels by a level."""
        tile = self._stored.get("tile")
        if isinstance(tile, int) and recipe.settings.tile == "auto":
            return recipe.on(tile=tile)
        return recipe

    def run(self, crew: Crew, tick: Tick | None) -> VideoReport:
        """Restore what is not restored yet, and write the result."""
        began, what = time.monotonic(), self.prepare(crew.first)
        start = self.work.place
        renderer = self._renderer(what, crew)
        stages = renderer.run(start, None, self._ticker(tick, renderer, start, began))
        return self.conclude(what, crew.first, renderer.restored, start.number, began, stages)

    def prepare(self, about: RestorerInfo, *, gaps: bool = False) -> Rendering:
        """Choose how frames are encoded, and go on where an earlier run stopped, or start over.

        Args:
            about: what restores.
            gaps: keep finished segments also where one before them is missing.
        """
        task, end = self.task, self.task.options.end
        what = self._rendering(about)
        until = last_tick(task.clip, task.options)
        told = header(task, about, what)
        task.notes.add(self.work.begin(told, None if end is None else str(end), until, gaps=gaps))
        return what

    def conclude(
        self,
        what: Rendering,
        about: RestorerInfo,
        restored: int,
        resumed_at: int,
        began: float,
        stages: tuple[StageReport, ...] = (),
    ) -> VideoReport:
        """Write the result from the finished segments, and leave nothing else."""
        self._finish(what)
        task, segments = self.task, self.work.segments
        count = sum(len(one.times) for one in segments)
        width, height = enlarged(task.clip, about)
        if what.encoder is not None:  # which may have made them even
            width, height = what.encoder.width, what.encoder.height
        report = VideoReport(
            target=task.target,
            frames=count,
            restored=restored,
            repeated=count - sum(one.restored for one in segments),
            resumed_at=resumed_at,
            width=width,
            height=height,
            seconds=time.monotonic() - began,
            description=about.description,
            stages=stages,
            notes=task.notes.all,
        )
        self.work.remove()
        return report

    def _rendering(self, about: RestorerInfo) -> Rendering:
        """What is made, with the encoder for pictures of the restorer's size."""
        task, encoder = self.task, None
        if task.delivery is not None:
            asked = task.options.encoder_threads
            stored = self._stored.get("encoder_threads")
            threads = asked or stored or min(usable_threads() * 3 // 2, MOST_ENCODER_THREADS)
            width, height = enlarged(task.clip, about)
            encoder = choose_encoder(task.clip, task.options, width, height, threads)
            task.notes.add(*encoder.notes)
        elif task.files is not None:
            make_folder(task.files.folder)
        return Rendering(
            clip=task.clip,
            options=task.options,
            encoder=encoder,
            files=task.files,
            folder=self.work.folder,
        )

    def _renderer(self, what: Rendering, crew: Crew) -> Renderer:
        clip = self.task.clip
        batch = min(one.batch(clip.height, clip.width) for one in crew.members)
        calls = [partial(restored, one) for one in crew.calls]
        return Renderer(what, calls, batch, self.work.add, self.task.notes.add)

    def _ticker(
        self, tick: Tick | None, renderer: Renderer, start: Position, began: float
    ) -> Callable[[tuple[StageReport, ...]], object] | None:
        if tick is None:
            return None
        total = expected(self.task)

        def told(stages: tuple[StageReport, ...]) -> None:
            tick(
                VideoProgress(
                    done=start.number + renderer.written,
                    total=total,
                    began_at=start.number,
                    seconds=time.monotonic() - began,
                    stages=stages,
                )
            )

        return told

    def _finish(self, what: Rendering) -> None:
        """Write the result from the finished segments.

        Raises:
            VideoError: there is not a single frame.
            OutputError: it cannot be written; the segments are kept.
        """
        task, segments = self.task, self.work.segments
        if not segments:
            self.work.remove()
            raise VideoError(f"{task.clip.path} shows nothing between --start and --end")
        if task.files is not None:
            times = [pts for segment in segments for pts in segment.times]
            task.files.finish(times, timing(task.clip, task.options).time_base)
        elif task.delivery is not None and what.encoder is not None:
            begin, end = task.options.start or Fraction(0), task.options.end
            cut = (begin, end) if begin or end is not None else None
            note = deliver(task.delivery, task.clip, what.encoder, segments, self.work.folder, cut)
            task.notes.add(note)


def restored(restorer: Restorer, images: Sequence[Image], check: Callable[[], None]) -> list[Image]:
    """What a restorer makes of pictures of one size; ``check`` may raise between tiles."""
    if len(images) > 1:
        return restorer.many(images)
    return [restorer(image, lambda done, total: check())[0] for image in images]


def enlarged(clip: Clip, about: RestorerInfo) -> tuple[int, int]:
    """Width and height of the result."""
    width, height = (max(round(side * about.scale), 1) for side in (clip.width, clip.height))
    return width, height


def expected(task: VideoTask) -> int:
    """Frames of the result; an estimate, 0 where nothing tells."""
    clip, options = task.clip, task.options
    seconds = Fraction(clip.frames) / clip.rate
    end = seconds if options.end is None else min(seconds, options.end)
    span = max(end - (options.start or 0), Fraction(0))
    return round(span * (options.fps or clip.rate))


def header(task: VideoTask, about: RestorerInfo, what: Rendering) -> dict[str, Any]:
    """All that decides the frames of a result, as JSON; what differs makes a run start over."""
    av = pyav()
    encoder: dict[str, Any] | None = None
    if what.encoder is not None:
        one = what.encoder
        encoder = {
            "name": one.name,
            "options": dict(one.options),
            "size": f"{one.width}x{one.height}",
            "format": one.form.name,
            "rate": str(one.rate),
        }
    libraries = ".".join(map(str, av.library_versions["libavcodec"]))
    return {
        "input": hash_of(task.clip),
        "model": about.key,
        "options": task.options.deciding(),
        "encoder": encoder,
        "files": None if task.files is None else [str(task.files.folder), task.files.pattern],
        "machine": {
            "backend": about.place,
            "tile": about.tile,
            "encoder_threads": None if what.encoder is None else what.encoder.threads,
            "libavcodec": libraries,
        },
    }


def hash_of(clip: Clip) -> str:
    """SHA-256 of the input.

    Raises:
        VideoError: it cannot be read.
    """
    try:
        if not clip.files:
            return sha256_of(clip.path)
        return sha256_of(b"".join(bytes.fromhex(sha256_of(path)) for path in clip.files))
    except OSError as error:
        raise VideoError(f"{clip.path} cannot be read: {error.strerror}") from error

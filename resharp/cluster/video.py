"""Video on a cluster: workers restore the segments, and this machine joins them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from resharp.cluster.session import ClusterOptions, ClusterSession, session
from resharp.errors import VideoError
from resharp.fsutil import write_whole
from resharp.paths import expanded, path_text
from resharp.pipeline.restorer import RestoreConfig
from resharp.types import Log, Progress
from resharp.video.encoding import AlphaWatch
from resharp.video.options import VideoOptions
from resharp.video.render import Rendering
from resharp.video.report import VideoReport
from resharp.video.resume import workspace
from resharp.video.run import VideoJob, expected, finished, task_of
from resharp.video.timeline import Position, frames


def restore_video(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    config: RestoreConfig | None = None,
    *,
    options: VideoOptions | None = None,
    cluster: ClusterOptions | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    log: Log | None = None,
) -> VideoReport:
    """Restore a video on a Ray cluster; the result is the one of a single machine.

    Every machine reads the input under the same path; segments come back as bytes, and only this
    machine writes. An interrupted run resumes, here or with :func:`resharp.restore_video`.

    Args:
        src: a video file, a folder of images or a pattern of them.
        dst: same as in :func:`resharp.restore_video`.
        config: how to restore each frame; None is the built-in model.
        options: options of the video.
        cluster: which cluster, and how much of it to use.
        overwrite: replace an existing result.
        progress: called with (frames done, frames in all) from this thread; raising cancels.
        log: called with each note for the user.

    Raises:
        MissingExtraError: Ray or PyAV is not installed.
        BackendError: the cluster cannot be reached, or its workers die.
        ResharpError: as for :func:`resharp.restore_video`.
    """
    source = os.path.realpath(expanded(path_text(src, "the input")))
    config, task = task_of(source, dst, config, options, overwrite, log)
    if (done := finished(task)) is not None:
        return done
    with workspace(task.target) as work:
        job = VideoJob(task, work)
        with session(job.pinned(config), cluster or ClusterOptions()) as workers:
            return _Run(job, workers, progress).run()


class _Run:
    def __init__(self, job: VideoJob, workers: ClusterSession, progress: Progress | None) -> None:
        self._job, self._workers, self._progress = job, workers, progress
        self._began = time.monotonic()
        self._trouble: VideoError | None = None
        self._restored = 0

    def run(self) -> VideoReport:
        job, work = self._job, self._job.work
        what = job.prepare(self._workers.info, gaps=True)
        before = sum(len(one.times) for one in work.segments)
        for (_, place, _), (segments, contents) in self._workers.map(self._units(what), "segment"):
            for segment, data in zip(segments, contents, strict=True):
                if segment.first != place.number:
                    raise VideoError(
                        f"a worker read other frames from {job.task.clip.path} than this machine: "
                        "make sure that all machines have the same file and packages"
                    )
                if segment.file is not None:
                    write_whole(work.folder / segment.file, data)
                work.add(segment)
                self._restored += segment.restored
            self._report_progress()
        if self._trouble is not None:
            raise self._trouble
        return job.conclude(what, self._workers.info, self._restored, before, self._began)

    def _units(self, what: Rendering) -> Iterator[tuple[Rendering, Position, int]]:
        """Yield the unfinished segments, which are found by reading the input once."""
        work, length = self._job.work, what.options.segment
        done = {segment.index for segment in work.segments}
        place = work.place
        last, notes, alpha = place, self._job.task.notes, AlphaWatch(what.encoder)
        try:
            for frame in frames(what.clip, what.options, place, notes.add):
                notes.add(alpha.note(frame.source.image))
                if frame.number % length == length - 1:
                    if frame.number // length not in done:
                        yield what, place, frame.number + 1
                    place = Position(frame.number + 1, frame.source.mark())
                last = Position(frame.number + 1)
        except VideoError as error:
            self._trouble = error
        if last.number > place.number and place.number // length not in done:
            yield what, place, last.number

    def _report_progress(self) -> None:
        if self._progress is not None:
            done = sum(len(one.times) for one in self._job.work.segments)
            self._progress(done, expected(self._job.task))

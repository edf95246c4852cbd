"""The stages that frames pass through: read, restore, convert, write and finish, by segment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from resharp.errors import VideoError
from resharp.fsutil import sha256_of
from resharp.images import write
from resharp.memory import available_memory
from resharp.opencv import cv2
from resharp.pipeline.staged_pipeline import Pipeline, Stage, StageReport
from resharp.types import Image, Log
from resharp.video.clip import Clip
from resharp.video.color import Converter
from resharp.video.encoding import AlphaWatch, Encoding, VideoEncoder
from resharp.video.options import VideoOptions
from resharp.video.resume import Segment
from resharp.video.sequence import FrameFiles
from resharp.video.source import logger
from resharp.video.timeline import Frame, Position, frames

Check = Callable[[], None]
Restore = Callable[[Sequence[Image], Check], list[Image]]
"""Restores images of one size; the check that it calls between tiles may raise."""
MEMORY_SHARE, SMALL_BUDGET, BUDGET_RATIO = 4, 1 << 30, 2048
"""Frames in flight may use the free memory divided by the first number, but those of a file whose
frames may be a decompression bomb only 1 GiB, or 2048 bytes per byte of it if that is more."""
CONVERTERS = 2
"""Threads that convert results to frames of the encoder, or write them as image files."""


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """Input, options and output of a run."""

    clip: Clip
    options: VideoOptions
    encoder: VideoEncoder | None
    """Encoder settings; None if frames are written as image files."""
    files: FrameFiles | None
    folder: Path
    """Folder of the segments."""
    scale: float = 1.0
    """Output size over input size."""

    def file(self, index: int) -> Path:
        """Return the path of a segment."""
        return self.folder / f"{index:06d}.mp4"


def budget(clip: Clip) -> int:
    """Return how many bytes the frames in flight may use."""
    most = available_memory() // MEMORY_SHARE
    if clip.files:
        return most
    return min(most, max(SMALL_BUDGET, BUDGET_RATIO * clip.path.stat().st_size))


@dataclass(frozen=True, eq=False)
class _Item:
    """A frame on its way through the stages."""

    frame: Frame
    result: Any = None
    """None if the last result is repeated; else an array, later an FFmpeg frame."""


@dataclass(frozen=True, eq=False)
class _Group:
    """Frames of one segment that are restored together."""

    items: list[_Item]
    is_last: bool = False
    """Whether it is the last group of the run, which may be empty."""
    error: VideoError | None = None
    """Error to raise when everything before it is written."""


class Renderer:
    """Restores the frames of a clip from a position on, and writes them as segments.

    Args:
        rendering: input, options and output.
        calls: functions that restore, one per call in flight.
        batch: images per call.
        keep: called with each finished segment, in order.
        warn: called with each warning about damaged input.
    """

    def __init__(
        self,
        rendering: Rendering,
        calls: Sequence[Restore],
        batch: int,
        keep: Callable[[Segment], object],
        warn: Log = logger.warning,
    ) -> None:
        self._rendering, self._batch, self._keep, self._warn = rendering, batch, keep, warn
        self._segment: _SegmentWriter | None = None
        """The segment that is being written."""
        self._open: list[_SegmentWriter] = []
        """The segment that is being written, and those that wait to be finished."""
        self._shown: Any = None
        """The last result, for frames that repeat it."""
        self.written = 0
        """Frames written in this run."""
        self.restored = 0
        """Frames that went through the model in this run."""
        encoder = rendering.encoder
        converters = [None if encoder is None else Converter() for _ in range(CONVERTERS)]
        stages = [
            Stage(
                name="restore",
                calls=[partial(self._restore, call) for call in calls],
                cost=self._cost,
                budget=budget(rendering.clip),
            ),
            Stage(name="convert", calls=[partial(self._convert, one) for one in converters]),
            Stage(name="write", calls=[self._write]),
            Stage(name="finish", calls=[self._finish]),
        ]
        self.pipeline = Pipeline(stages, depth=max(2, len(calls)))

    def run(
        self,
        place: Position,
        stop: int | None = None,
        progress: Callable[[tuple[StageReport, ...]], object] | None = None,
    ) -> tuple[StageReport, ...]:
        """Write the segments from a position on.

        Args:
            place: start of a segment.
            stop: number of the frame to stop before, also the start of a segment; None: the end.
            progress: called regularly with what each stage has done so far.

        Raises:
            VideoError: the input ends early or changes its size; finished segments are kept.
            OutputError: a segment cannot be written.
        """
        try:
            return self.pipeline.run(self._read(place, stop), progress)
        finally:
            for segment in self._open:
                segment.abandon()

    def _read(self, place: Position, stop: int | None) -> Iterator[_Group]:
        clip, options = self._rendering.clip, self._rendering.options
        items: list[_Item] = []
        problem, alpha = None, AlphaWatch(self._rendering.encoder)
        try:
            for frame in frames(clip, options, place, self._warn):
                if note := alpha.note(frame.source.image):
                    self._warn(note)
                items.append(_Item(frame))
                if (frame.number + 1) % options.segment == 0 or len(items) == self._batch:
                    yield _Group(items)
                    items = []
                if frame.number + 1 == stop:  # errors after it do not matter
                    break
        except VideoError as error:
            problem = error
        yield _Group(items, is_last=True, error=problem)

    def _cost(self, group: _Group) -> int:
        """Return the memory of frames and their results in bytes."""
        size = sum(item.frame.source.image.nbytes for item in group.items)
        return int(size * (1 + self._rendering.scale**2))

    def _restore(self, call: Restore, group: _Group) -> _Group:
        fresh = [item.frame.source.image for item in group.items if item.frame.fresh]
        if not fresh:
            return group
        results = iter(call(fresh, self.pipeline.check))
        items = [replace(i, result=next(results)) if i.frame.fresh else i for i in group.items]
        return replace(group, items=items)

    def _convert(self, converter: Converter | None, group: _Group) -> _Group:
        """Convert results to frames of the encoder, or write them as image files."""
        encoder, files = self._rendering.encoder, self._rendering.files

        def converted(item: _Item) -> _Item:
            if item.result is None:
                return item
            if files is not None:
                stated = self._rendering.clip.colors
                for note in write(files.path(item.frame.number), item.result, stated):
                    self._warn(note)
                return replace(item, result=True)
            assert encoder is not None
            assert converter is not None
            image = item.result
            # The pixel format may require an even size: repeat the last row and column.
            below, right = encoder.height - image.shape[0], encoder.width - image.shape[1]
            if below or right:
                image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)
            return replace(item, result=converter.to_frame(image, encoder.form, encoder.color))

        return replace(group, items=[converted(item) for item in group.items])

    def _write(self, group: _Group) -> tuple[_SegmentWriter | None, VideoError | None]:
        """Encode frames; return the segment to finish and the error to raise after it, if any."""
        length = self._rendering.options.segment
        for item in group.items:
            if self._segment is None:
                self._segment = _SegmentWriter(self._rendering, item.frame.number)
                self._open.append(self._segment)
            if item.result is not None:
                self._shown = item.result
            self._segment.add(item, self._shown)
            self.written += 1
            self.restored += item.frame.fresh
        complete = None
        if group.is_last or (group.items[-1].frame.number + 1) % length == 0:
            complete, self._segment = self._segment, None
        return complete, group.error

    def _finish(self, written: tuple[_SegmentWriter | None, VideoError | None]) -> None:
        segment, error = written
        if segment is not None:
            self._keep(segment.finish())
            self._open.remove(segment)
        if error is not None:
            raise error


class _SegmentWriter:
    """A segment that is being written."""

    def __init__(self, rendering: Rendering, first: int) -> None:
        self._rendering, self._first = rendering, first
        self._index = first // rendering.options.segment
        path, encoder = rendering.file(self._index), rendering.encoder
        self._encoding = None if encoder is None else Encoding(path, encoder)
        self._last: Frame | None = None
        self._times: list[int] = []
        self._restored = 0

    def add(self, item: _Item, result: Any) -> None:
        frame = item.frame
        if self._encoding is not None:
            self._encoding.add(result, frame.pts)
        elif item.result is None:
            assert self._rendering.files is not None
            self._rendering.files.repeat(frame.number)
        self._last = frame
        self._times.append(frame.pts)
        self._restored += frame.fresh

    def finish(self) -> Segment:
        assert self._last is not None
        ends = self._rendering.options.end
        file = sha256 = None
        if self._encoding is not None:
            self._encoding.finish()
            path = self._rendering.file(self._index)
            file, sha256 = path.name, sha256_of(path)
        elif self._rendering.files is not None:
            sha256 = self._rendering.files.digest(self._first, len(self._times))
        return Segment(
            index=self._index,
            first=self._first,
            times=tuple(self._times),
            duration=self._last.duration,
            delay=0 if self._encoding is None else self._encoding.delay,
            mark=self._last.source.mark(),
            restored=self._restored,
            file=file,
            sha256=sha256,
            end=None if ends is None else str(ends),
        )

    def abandon(self) -> None:
        if self._encoding is not None:
            self._encoding.abandon()

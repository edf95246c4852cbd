"""Frames through the stages: read, restore, convert, write, finish. Segment by segment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np

from resharp.errors import VideoError
from resharp.fsutil import sha256_of
from resharp.runtime.stages import Pipeline, Stage, StageReport
from resharp.types import Image
from resharp.video.clip import Clip
from resharp.video.color import Converter
from resharp.video.encoding import Encoding, VideoEncoder
from resharp.video.options import VideoOptions
from resharp.video.resume import Segment
from resharp.video.sequence import FrameFiles
from resharp.video.source import Warn, log
from resharp.video.timeline import Frame, Position, frames

Check = Callable[[], None]
Restore = Callable[[Sequence[Image], Check], list[Image]]
"""Restores pictures of one size; what it calls between tiles may raise."""
CONVERTERS = 2
"""Threads that turn results into what is written."""


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """What is made of a clip."""

    clip: Clip
    options: VideoOptions
    encoder: VideoEncoder | None
    """None where frames are files."""
    files: FrameFiles | None
    folder: Path
    """Of segments."""

    def file(self, index: int) -> Path:
        """Of a segment."""
        return self.folder / f"{index:06d}.mp4"


@dataclass(frozen=True, eq=False)
class _Made:
    """A frame on its way through the stages."""

    frame: Frame
    last: bool = False
    """Whether it ends a segment."""
    result: Any = None
    """None where the result before is shown again; else an array, later a frame of libav."""


@dataclass(frozen=True, eq=False)
class _Trouble:
    """The end of the input, and what is wrong with it."""

    error: VideoError | None


class Renderer:
    """Restores the frames of a clip from a place on, and writes segments of them.

    Args:
        what: to make.
        calls: what restores, one for each picture in work at once.
        batch: pictures for each call.
        keep: told each finished segment, in order.
        warn: told what is damaged.
    """

    def __init__(
        self,
        what: Rendering,
        calls: Sequence[Restore],
        batch: int,
        keep: Callable[[Segment], object],
        warn: Warn = log.warning,
    ) -> None:
        self._warn = warn
        self._what, self._batch, self._keep = what, batch, keep
        self._open: list[_Part] = []
        self._last: Any = None
        self.written = 0
        """Frames that have been written in this run."""
        self.restored = 0
        """Frames that went through the network in this run."""
        self._lock = threading.Lock()
        stages = [
            Stage(name="restore", calls=[partial(self._restore, call) for call in calls]),
            Stage(name="convert", calls=[_Convert(what) for _ in range(CONVERTERS)]),
            Stage(name="write", calls=[self._write]),
            Stage(name="finish", calls=[self._finish]),
        ]
        self.pipeline = Pipeline(stages, depth=max(2, len(calls)))

    def run(
        self,
        place: Position,
        stop: int | None = None,
        tick: Callable[[tuple[StageReport, ...]], object] | None = None,
    ) -> tuple[StageReport, ...]:
        """Make segments from a place on.

        Args:
            place: a segment's beginning.
            stop: number of the frame to stop before, a segment's beginning too; None: the end.
            tick: told now and then what the stages do.

        Raises:
            VideoError: the input ends early, or its size changes; the segments before are kept.
            OutputError: nothing more can be written.
        """
        try:
            return self.pipeline.run(self._read(place, stop), tick)
        finally:
            for part in self._open:
                part.abandon()

    def _read(self, place: Position, stop: int | None) -> Iterator[list[_Made] | _Trouble]:
        """Groups of frames of one segment, and then the end."""
        length = self._what.options.segment
        group: list[_Made] = []
        try:
            for frame in frames(self._what.clip, self._what.options, place, self._warn):
                last = frame.number % length == length - 1
                group.append(_Made(frame, last))
                if last or len(group) == self._batch:
                    yield group
                    group = []
                if frame.number + 1 == stop:  # what is wrong after that is not ours to find
                    break
        except VideoError as error:
            if group:
                yield group
            yield _Trouble(error)
            return
        if group:
            yield group
        yield _Trouble(None)

    def _restore(self, call: Restore, item: list[_Made] | _Trouble) -> list[_Made] | _Trouble:
        if isinstance(item, _Trouble):
            return item
        fresh = [made.frame.source.image for made in item if made.frame.fresh]
        results = iter(call(fresh, self.pipeline.check) if fresh else [])
        return [replace(made, result=next(results)) if made.frame.fresh else made for made in item]

    def _write(self, item: list[_Made] | _Trouble) -> _Part | _Trouble | None:
        """Encode frames; what is returned is a segment that is complete but for its end."""
        if isinstance(item, _Trouble):
            return item
        for made in item:
            part = self._part(made.frame)
            if made.result is not None:
                self._last = made.result
            part.add(made, self._last)
            self.written += 1
            self.restored += made.frame.fresh
        return part if item[-1].last else None

    def _part(self, frame: Frame) -> _Part:
        index = frame.number // self._what.options.segment
        with self._lock:
            if not self._open or self._open[-1].index != index:
                self._open.append(_Part(self._what, index))
            return self._open[-1]

    def _finish(self, item: _Part | _Trouble | None) -> None:
        if isinstance(item, _Part):
            self._done(item)
        elif isinstance(item, _Trouble):
            with self._lock:
                rest = list(self._open)
            for part in rest:
                self._done(part)
            if item.error is not None:
                raise item.error

    def _done(self, part: _Part) -> None:
        self._keep(part.finish())
        with self._lock:
            self._open.remove(part)


class _Convert:
    """Results as what is written: frames of libav, or files. One for each thread."""

    def __init__(self, what: Rendering) -> None:
        self._what = what
        self._converter = None if what.encoder is None else Converter()

    def __call__(self, item: list[_Made] | _Trouble) -> list[_Made] | _Trouble:
        if isinstance(item, _Trouble):
            return item
        return [made if made.result is None else self._one(made) for made in item]

    def _one(self, made: _Made) -> _Made:
        encoder, files = self._what.encoder, self._what.files
        if files is not None:
            files.write(made.frame.number, made.result)
            return replace(made, result=True)
        assert encoder is not None
        assert self._converter is not None
        image = fitted(made.result, encoder.width, encoder.height)
        return replace(made, result=self._converter.to_frame(image, encoder.form, encoder.color))


def fitted(image: Image, width: int, height: int) -> Image:
    """A picture whose last row and column are doubled where an even size is asked for."""
    below, right = height - image.shape[0], width - image.shape[1]
    if not below and not right:
        return image
    return np.asarray(cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE))


class _Part:
    """A segment that is being written."""

    def __init__(self, what: Rendering, index: int) -> None:
        self.index, self._what = index, what
        self._encoding = None if what.encoder is None else Encoding(what.file(index), what.encoder)
        self._first, self._last = -1, cast(Frame | None, None)
        self._times: list[int] = []
        self._restored = 0

    def add(self, made: _Made, result: Any) -> None:
        frame = made.frame
        if self._encoding is not None:
            self._encoding.add(result, frame.pts)
        elif made.result is None:
            assert self._what.files is not None
            self._what.files.repeat(frame.number)
        if self._last is None:
            self._first = frame.number
        self._last = frame
        self._times.append(frame.pts)
        self._restored += frame.fresh

    def finish(self) -> Segment:
        assert self._last is not None
        ends = self._what.options.end
        file = sha256 = None
        if self._encoding is not None:
            self._encoding.finish()
            path = self._what.file(self.index)
            file, sha256 = path.name, sha256_of(path)
        elif self._what.files is not None:
            sha256 = self._what.files.digest(self._first, len(self._times))
        return Segment(
            index=self.index,
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

"""Input frames in order, from the start or from a resume point, of a video or image sequence."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import takewhile
from math import floor
from typing import TYPE_CHECKING, Any

import numpy as np

from resharp.errors import VideoError
from resharp.images import pixel_limit
from resharp.types import Log
from resharp.video.animation import animated
from resharp.video.clip import Clip, ResumePoint, SourceFrame
from resharp.video.color import Converter, color_of, pixel_format
from resharp.video.pyav import open_video, pyav, reason
from resharp.video.sequence import sequence
from resharp.video.side_data import LossWatch
from resharp.video.streams import codec_name, is_cover, open_decoder, seconds

if TYPE_CHECKING:
    from av.container.input import InputContainer
    from av.video.frame import VideoFrame

logger = logging.getLogger(__name__)

DECODER_THREADS = 2
"""Threads of the decoder. Decoding is cheap; more threads would take cores from the model."""
_LACKING = (errno.ENOMEM, errno.EAGAIN)
"""Errors of a decoder that has no memory or no threads, and not of a packet that is damaged."""
SHARING = ("matroska,webm", "flv", "nut")
"""FFmpeg's names of the formats whose streams have no duration of their own."""
MARGIN = Fraction(2)
"""Seconds before a resume point at which decoding starts, so that its references are decoded."""


class LostError(Exception):
    """A resume point was not found after seeking: decode from the start instead."""


def pictures(
    clip: Clip,
    after: ResumePoint | None = None,
    begin: int | None = None,
    until: int | None = None,
    *,
    seek: bool = True,
    warn: Log = logger.warning,
) -> Iterator[SourceFrame]:
    """Yield the frames of a clip.

    Args:
        clip: the video.
        after: resume point of the frame to begin with.
        begin: timestamp to begin at instead; the first frame is at or after it.
        until: timestamp to stop before.
        seek: whether to seek, instead of decoding everything from the start.
        warn: called with each warning about damaged input.

    Raises:
        VideoError: the video ends early, or its size or pixel format changes; raised after the
            frames before that.
        LostError: the resume point is not where it should be; raised before any frame.
    """
    if clip.files:
        shown = sequence(clip, after.pts if after else begin or 0, warn)
        shown = _from_mark(shown, after) if after else shown
        yield from (one for one in shown if until is None or one.pts < until)
        return
    if clip.animation is not None and clip.animation.decoder is not None:
        goal = begin if after is None else after.pts
        shown = (one for one in animated(clip) if goal is None or one.pts >= goal)
        shown = shown if after is None else _from_mark(shown, after)
        yield from takewhile(lambda one: until is None or one.pts < until, shown)
        return
    limit = pixel_limit(clip.max_pixels).pixels
    with open_video(clip.path, limit) as container:
        stream: Any = container.streams[clip.stream]
        goal = begin if after is None else after.pts
        if seek and goal is not None:
            _seek(container, stream, clip, goal)
        decoder = open_decoder(stream, clip.path, clip.decoder, DECODER_THREADS, limit)
        decoded = _decoded(container, decoder, clip, until, warn)
        losses = LossWatch(clip.side_data, codec_name(stream))
        shown = _converted(decoded, clip, goal, until, losses, warn, counts=not seek)
        yield from shown if after is None else _from_mark(shown, after)


def _seek(container: InputContainer, stream: Any, clip: Clip, goal: int) -> None:
    early = goal - round(MARGIN / clip.time_base)
    if early > clip.first:
        with suppress(pyav().error.FFmpegError):  # cannot seek: decode from the start
            container.seek(round(early * clip.time_base / stream.time_base), stream=stream)


def _from_mark(shown: Iterator[SourceFrame], mark: ResumePoint) -> Iterator[SourceFrame]:
    first = next(shown, None)
    if first is None or first.pts != mark.pts or first.mark() != mark:
        raise LostError
    yield first
    yield from shown


def _decoded(
    container: InputContainer, decoder: Any, clip: Clip, until: int | None, warn: Log
) -> Iterator[VideoFrame]:
    """Yield all frames; damaged packets are skipped with a warning, an early end is an error."""
    av = pyav()
    ends, damaged, why = _Ends(container, clip, until), 0, ""
    for packet in _whole(ends.packets(), clip, warn):
        try:
            frames = decoder.decode(packet)
        except av.error.FFmpegError as error:
            if error.errno in _LACKING:
                raise VideoError(
                    f"{clip.path} cannot be decoded here: {reason(error)}. Free some memory, or "
                    "raise the limits on memory and threads of this process"
                ) from error
            frames, damaged, why = [], damaged + 1, reason(error)
        yield from frames
    if ends.broken:  # without the packet that ends a file, the decoder still holds frames
        with suppress(av.error.FFmpegError):
            yield from decoder.decode(None)
    if damaged:
        warn(f"{clip.path}: {damaged} damaged packets could not be decoded ({why})")
    if ends.problem:
        raise VideoError(ends.problem)


def _whole(packets: Iterator[Any], clip: Clip, warn: Log) -> Iterator[Any]:
    """Yield the packets of the video, except a truncated last one, which decodes to garbage."""
    cut = None
    for packet in packets:
        if packet.stream.index != clip.stream:
            continue
        if cut is not None and packet.size:
            yield cut
            cut = None
        if packet.size and packet.is_corrupt:
            cut = packet
        else:
            yield packet
    if cut is not None:
        warn(f"{clip.path}: the last frame is truncated and left out")


class _Ends:
    """Comparison of where a file ends with the duration that it states."""

    def __init__(self, container: InputContainer, clip: Clip, until: int | None) -> None:
        self._container, self._clip, self._until = container, clip, until
        self._seen: dict[int, Fraction] = {}
        """End of the packets of each stream, in seconds."""
        self._stream = container.streams[clip.stream]
        self._start = Fraction(container.start_time or 0, 1_000_000)
        self._shared = container.format.name in SHARING and "DURATION" not in self._stream.metadata
        self._duration = Fraction(container.duration or 0, 1_000_000)
        self.broken = ""
        """Why reading stopped before the end; empty if it did not."""

    def packets(self) -> Iterator[Any]:
        """Yield the packets of all streams, up to the end or to where the file is damaged."""
        try:
            for packet in self._container.demux():
                time = packet.pts if packet.pts is not None else packet.dts
                if time is not None and packet.time_base:
                    end = (time + (packet.duration or 0)) * packet.time_base
                    index = packet.stream.index
                    self._seen[index] = max(self._seen.get(index, end), end)
                yield packet
        except pyav().error.FFmpegError as error:
            self.broken = reason(error)

    @property
    def problem(self) -> str:
        """Error message about an early end; empty if there is none."""
        clip = self._clip
        end = self._seen.get(clip.stream, clip.start) - clip.start
        promised = self._promised()
        near = clip.start + end + 1 / clip.rate
        if self._until is not None and near >= self._until * clip.time_base:
            return ""  # everything requested was read
        if not self.broken and promised is None:
            return ""
        whole = "" if promised is None else f" of {milliseconds(promised)}"
        why = self.broken or "the file is truncated"
        at = milliseconds(end)
        return (
            f"{clip.path} ends early, after {at}{whole} seconds of video ({why}). Everything "
            f"before that is restored and kept: run it again with `end`={at} for that part, or "
            "with the complete file."
        )

    def _promised(self) -> Fraction | None:
        """Return the stated duration in seconds, if the video is clearly shorter; else None."""
        clip = self._clip
        slack = 2 / clip.rate + Fraction(1, 4)
        end = self._seen.get(clip.stream, clip.start)
        # In some formats, FFmpeg reports the duration of the file for each stream.
        shared = self._shared or is_cover(self._stream)
        own = None if shared else seconds(self._stream) or None
        if own is not None:  # some state a length, others the time of the end
            return own if end < own - slack and end - clip.start < own - slack else None
        last = max(self._seen.values(), default=self._start)
        whole = self._duration - slack - 1
        return self._duration if last < whole and last - self._start < whole else None


def milliseconds(seconds: Fraction) -> str:
    """Format seconds for ``end``, rounded down so that a frame at that time is left out."""
    return f"{floor(seconds * 1000) / 1000:.3f}"


def _converted(
    frames: Iterator[VideoFrame],
    clip: Clip,
    goal: int | None,
    until: int | None,
    losses: LossWatch,
    warn: Log,
    *,
    counts: bool,
) -> Iterator[SourceFrame]:
    """Yield frames as arrays, from the first at or after ``goal`` on and before ``until``.

    Missing timestamps are extrapolated from the frame before, which works only from the start.
    """
    converter, last = Converter(), None
    usual = max(round(1 / (clip.rate * clip.time_base)), 1)
    for frame in frames:
        pts = _ticks(frame, clip)
        if pts is None or (last is not None and pts <= last):  # missing or not increasing
            if last is None and goal is not None and not counts:
                raise LostError
            pts = clip.first if last is None else last + usual
        last = pts
        if until is not None and pts >= until:
            return
        if goal is not None and pts < goal:
            continue
        if (frame.width, frame.height) != (clip.width, clip.height):
            before, now = f"{clip.width}x{clip.height}", f"{frame.width}x{frame.height}"
            raise VideoError(_changed(clip, pts, before, now, "size"))
        for note in losses.notes(frame):
            warn(note)
        form = clip.form if frame.format.name == clip.form.name else pixel_format(frame.format.name)
        image = converter.to_array(frame, form, color_of(frame, form))
        if clip.form.alpha and not form.alpha:  # some codecs leave it out where all is opaque
            white = np.iinfo(image.dtype).max
            image = np.dstack([image, np.full(image.shape[:2], white, image.dtype)])
        elif form.array != clip.form.array:
            raise VideoError(_changed(clip, pts, clip.form.name, form.name, "pixel format"))
        yield SourceFrame(pts, _rescaled(frame.duration, frame, clip), image)


def _ticks(frame: VideoFrame, clip: Clip) -> int | None:
    if clip.late is not None:
        return None if frame.dts is None else _rescaled(frame.dts, frame, clip) - clip.late
    pts = frame.pts if frame.pts is not None else frame.dts
    return None if pts is None else _rescaled(pts, frame, clip)


def _rescaled(ticks: int, frame: VideoFrame, clip: Clip) -> int:
    base = frame.time_base
    if not ticks or base is None or base == clip.time_base:
        return ticks
    return round(ticks * base / clip.time_base)


def _changed(clip: Clip, pts: int, before: str, now: str, name: str) -> str:
    at = milliseconds((pts - clip.first) * clip.time_base)
    return (
        f"{clip.path}: the {name} of the frames changes from {before} to {now} after {at} seconds. "
        f"Everything before that is restored and kept: run it again with `end`={at} for that part, "
        f"and with `start`={at} for the rest."
    )

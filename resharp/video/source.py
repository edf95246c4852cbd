"""Pictures of a video in order, from its start or from a mark; and of a folder of pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING, Any

from resharp.errors import VideoError
from resharp.types import Log
from resharp.video.clip import Clip, ResumePoint, SourceFrame
from resharp.video.color import Converter, color_of, pixel_format
from resharp.video.pyav import open_video, pyav, reason
from resharp.video.sequence import sequence

if TYPE_CHECKING:
    from av.container.input import InputContainer
    from av.video.frame import VideoFrame

logger = logging.getLogger(__name__)

DECODER_THREADS = 2
"""Decoding is cheap beside the network; more threads would take cores from it."""
SHARING = ("matroska,webm", "flv", "nut")
"""Formats whose streams have no duration of their own, as libav calls them."""
MARGIN = Fraction(2)
"""Seconds before a mark at which decoding starts, so that all it refers to has been decoded."""


class LostError(Exception):
    """A mark was not found where seeking led; decode from the start."""


def pictures(
    clip: Clip,
    after: ResumePoint | None = None,
    begin: int | None = None,
    until: int | None = None,
    *,
    seek: bool = True,
    warn: Log = logger.warning,
) -> Iterator[SourceFrame]:
    """The pictures of a clip.

    Args:
        clip: the video.
        after: begin with the picture of this mark.
        begin: or with the first one of this timestamp or later.
        until: stop before the first one of this timestamp or later.
        seek: whether not to decode all that is before.
        warn: told what is damaged.

    Raises:
        VideoError: when all pictures before the trouble have come out: it ends early, or its size
            changes.
        LostError: there is no such mark where there should be; nothing has come out.
    """
    if clip.files:
        shown = _from_mark(sequence(clip, after.pts), after) if after else sequence(clip)
        yield from (one for one in shown if until is None or one.pts < until)
        return
    with open_video(clip.path) as container:
        stream: Any = container.streams[clip.stream]
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = DECODER_THREADS
        goal = begin if after is None else after.pts
        if seek and goal is not None:
            _seek(container, stream, clip, goal)
        decoded = _decoded(container, stream, clip, until, warn)
        shown = _converted(decoded, clip, goal, until, counts=not seek)
        yield from shown if after is None else _from_mark(shown, after)


def _seek(container: InputContainer, stream: Any, clip: Clip, goal: int) -> None:
    early = goal - round(MARGIN / clip.time_base)
    if early > clip.first:
        with suppress(pyav().error.FFmpegError):  # it cannot be sought in: from the start, then
            container.seek(round(early * clip.time_base / stream.time_base), stream=stream)


def _from_mark(shown: Iterator[SourceFrame], mark: ResumePoint) -> Iterator[SourceFrame]:
    first = next(shown, None)
    if first is None or first.pts != mark.pts or first.mark() != mark:
        raise LostError
    yield first
    yield from shown


def _decoded(
    container: InputContainer, stream: Any, clip: Clip, until: int | None, warn: Log
) -> Iterator[VideoFrame]:
    """All frames; damaged packets are passed over with a warning, an early end is an error."""
    av = pyav()
    ends, damaged, why = _Ends(container, clip, until), 0, ""
    for packet in _whole(ends.packets(), clip, warn):
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            frames, damaged, why = [], damaged + 1, reason(error)
        yield from frames
    if damaged:
        warn(f"{clip.path}: {damaged} damaged packets could not be decoded ({why})")
    if ends.problem:
        raise VideoError(ends.problem)


def _whole(packets: Iterator[Any], clip: Clip, warn: Log) -> Iterator[Any]:
    """The picture's packets, but for a last one that was cut off: half of it would be garbage."""
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
        warn(f"{clip.path}: the last picture is cut off and left out")


class _Ends:
    """How far a file goes, and how far it says that it goes."""

    def __init__(self, container: InputContainer, clip: Clip, until: int | None) -> None:
        self._container, self._clip, self._until = container, clip, until
        self._seen: dict[int, Fraction] = {}
        """Where the packets of each stream end, in seconds."""
        self._stream = container.streams[clip.stream]
        self._start = Fraction(container.start_time or 0, 1_000_000)
        self._shared = container.format.name in SHARING and "DURATION" not in self._stream.metadata
        self._duration = Fraction(container.duration or 0, 1_000_000)
        self._broken = ""
        """Why reading stopped, if it was not at the end."""

    def packets(self) -> Iterator[Any]:
        """The packets of all streams, to the end or where the file is broken."""
        try:
            for packet in self._container.demux():
                time = packet.pts if packet.pts is not None else packet.dts
                if time is not None and packet.time_base:
                    end = (time + (packet.duration or 0)) * packet.time_base
                    index = packet.stream.index
                    self._seen[index] = max(self._seen.get(index, end), end)
                yield packet
        except pyav().error.FFmpegError as error:
            self._broken = reason(error)

    @property
    def problem(self) -> str:
        """What is wrong with the end, for the user; empty if nothing is."""
        clip = self._clip
        end = self._seen.get(clip.stream, clip.start) - clip.start
        promised = self._promised()
        near = clip.start + end + 1 / clip.rate
        if self._until is not None and near >= self._until * clip.time_base:
            return ""  # what is wanted is there
        if not self._broken and promised is None:
            return ""
        whole = "" if promised is None else f" of {milliseconds(promised)}"
        why = self._broken or "the file was cut off"
        at = milliseconds(end)
        return (
            f"{clip.path} ends early, after {at}{whole} seconds of pictures ({why}). What is "
            f"before that is restored and kept: run it again with --end {at} for a video of that "
            "part, or with the whole file"
        )

    def _promised(self) -> Fraction | None:
        """Seconds that the pictures should last, if they last less by any count."""
        clip = self._clip
        slack = 2 / clip.rate + Fraction(1, 4)
        end = self._seen.get(clip.stream, clip.start)
        # In some formats libav says of a stream what it knows of the file.
        own = None if self._shared else _own_duration(self._stream)
        if own is not None:  # some say how long, others when it ends
            return own if end < own - slack and end - clip.start < own - slack else None
        last = max(self._seen.values(), default=self._start)
        whole = self._duration - slack - 1
        return self._duration if last < whole and last - self._start < whole else None


def milliseconds(seconds: Fraction) -> str:
    """As ``--end`` takes it; never later, so that a frame of that time is left out."""
    return f"{floor(seconds * 1000) / 1000:.3f}"


def _own_duration(stream: Any) -> Fraction | None:
    """How long a stream says that it is, in seconds."""
    tag = stream.metadata.get("DURATION", "").split(":")  # Matroska's, 00:01:02.000000000
    try:
        hours, minutes, seconds = (Fraction(part.strip()) for part in tag)
    except ValueError:
        if stream.duration is None or stream.time_base is None:
            return None
        return Fraction(stream.duration * stream.time_base)
    return hours * 3600 + minutes * 60 + seconds


def _converted(
    frames: Iterator[VideoFrame], clip: Clip, goal: int | None, until: int | None, *, counts: bool
) -> Iterator[SourceFrame]:
    """Frames as arrays, from the first of timestamp ``goal`` on and before ``until``.

    Where timestamps are missing, they are counted; that holds only from the start.
    """
    converter, last = Converter(), None
    usual = max(round(1 / (clip.rate * clip.time_base)), 1)
    for frame in frames:
        pts = _ticks(frame, clip)
        if pts is None or (last is not None and pts <= last):  # none, or one that runs backwards
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
        form = clip.form if frame.format.name == clip.form.name else pixel_format(frame.format.name)
        image = converter.to_array(frame, form, color_of(frame, form))
        if form.array != clip.form.array:
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
        f"{clip.path}: the {name} of the pictures changes from {before} to {now} after {at} "
        f"seconds, and a video has one. What is before that is restored and kept: run it again "
        f"with --end {at} for that part, and with --start {at} for the rest"
    )

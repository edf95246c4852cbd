"""Packet times of the result: copied packets are shifted to the cut, those of video recomputed."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from resharp.video.clip import Clip
from resharp.video.encoding import VideoEncoder
from resharp.video.resume import Segment

TIME_CODE = re.compile(r"(?P<h>\d+):(?P<m>\d\d):(?P<s>\d\d)(?P<mark>[:;.])(?P<f>\d+)")
"""A time code as FFmpeg writes it."""


class CutShift:
    """Shift of copied packets to the start of the result, which drops those outside of it.

    Args:
        clip: the input.
        start: seconds from its first frame to the start of the result; None: from the beginning.
        end: seconds from its first frame to the end of the result; None: to the end.
    """

    def __init__(self, clip: Clip, start: Fraction | None, end: Fraction | None) -> None:
        self._cut = start or Fraction(0)
        self._begin = clip.start + start if start else None
        self._end = None if end is None else clip.start + end

    def packet(self, packet: Any) -> Any:
        """Shift a packet in place and return it; None if it is outside."""
        time, base = packet.pts if packet.pts is not None else packet.dts, packet.time_base
        if time is None or base is None:
            return packet if self._begin is None and self._end is None else None
        if self._end is not None and time * base >= self._end:
            return None
        if self._begin is None:
            return packet
        ticks = round(self._begin / base)
        late = ticks - time
        if late > 0:
            if packet.stream.type != "subtitle" or (packet.duration or 0) <= late:
                return None
            packet.duration -= late  # keep a subtitle that is shown at the cut
            packet.pts = packet.dts = ticks
        packet.pts = None if packet.pts is None else packet.pts - ticks
        packet.dts = None if packet.dts is None else packet.dts - ticks
        return packet

    def time_code(self, text: str, before: Fraction, after: Fraction) -> str:
        """Return the time code of the result's first frame.

        Args:
            text: that of the input's first frame: ``hours:minutes:seconds:frames``, with a
                semicolon before the frames if it drops numbers (SMPTE ST 12-1).
            before: frames per second of the input.
            after: frames per second of the result.
        """
        match = TIME_CODE.fullmatch(text.strip())
        if match is None or (self._cut == 0 and before == after):
            return text
        usual = round(after)
        hours, minutes, seconds, frames = (int(match[name]) for name in "hmsf")
        frames = frames * usual // round(before)
        mark = match["mark"] if usual % 30 == 0 else ":"
        dropped = 0 if mark == ":" else usual // 15
        total = ((hours * 60 + minutes) * 60 + seconds) * usual + frames
        total -= dropped * (hours * 54 + minutes - minutes // 10)  # 54 minutes of 60 drop some
        return _time_code(total + round(self._cut * after), usual, dropped, mark)

    def chapters(self, chapters: Sequence[Any]) -> Iterator[Any]:
        """Yield the chapters that are inside, with shifted times."""
        for chapter in chapters:
            base, end = chapter["time_base"], chapter["end"]
            begin = 0 if self._begin is None else round(self._begin / base)
            if self._end is not None:
                end = min(end, round(self._end / base))
            if max(chapter["start"], begin) < end:
                yield chapter | {"start": max(chapter["start"] - begin, 0), "end": end - begin}


def _time_code(total: int, usual: int, dropped: int, mark: str) -> str:
    """Format a number of frames since midnight as a time code that drops numbers each minute."""
    if dropped:
        tens, rest = divmod(total, usual * 600 - dropped * 9)
        first = usual * 60
        minutes = 0 if rest < first else 1 + (rest - first) // (usual * 60 - dropped)
        total += dropped * (tens * 9 + minutes)
    seconds, frames = divmod(total, usual)
    hours, minutes, seconds = seconds // 3600 % 24, seconds // 60 % 60, seconds % 60
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{mark}{frames:02d}"


class DecodingTimes:
    """Decoding times and durations of video packets, derived from their timestamps.

    Decoding times never decrease, not even where two segments meet.
    """

    def __init__(self, segments: Sequence[Segment], encoder: VideoEncoder) -> None:
        self._all = [time for segment in segments for time in segment.times]
        usual = max(round(1 / (encoder.rate * encoder.time_base)), 1)
        self._end = self._all[-1] + (segments[-1].duration or usual)
        self._count, self._delay = 0, max(segment.delay for segment in segments)
        self._first_dts = self._all[0] - self._delay * self._after(self._all[0])

    def next(self, pts: int) -> tuple[int, int]:
        """Return the decoding time and duration of the next packet, both in ticks."""
        index, self._count = self._count - self._delay, self._count + 1
        dts = self._all[index] if index >= 0 else self._all[0] + index * self._after(self._all[0])
        if self._count == len(self._all):  # MP4 ends here: extend it to the last frame's end
            return dts, max(self._end - self._all[0] - (dts - self._first_dts), 1)
        return dts, self._after(pts)

    def _after(self, pts: int) -> int:
        """Return the ticks from a frame to the next."""
        index = bisect_right(self._all, pts)
        return (self._all[index] if index < len(self._all) else self._end) - pts

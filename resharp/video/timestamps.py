"""Times of the result's packets: of what is copied, moved to a cut; of pictures, counted anew."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from resharp.video.clip import Clip
from resharp.video.encoding import VideoEncoder
from resharp.video.resume import Segment


class CutShift:
    """Moves what is copied to where the result begins, and drops what is outside.

    Args:
        clip: the input.
        start: seconds from its first picture at which the result begins; None: where it does.
        end: the same for where it ends.
    """

    def __init__(self, clip: Clip, start: Fraction | None, end: Fraction | None) -> None:
        self._begin = clip.start + start if start else None
        self._end = None if end is None else clip.start + end

    def packet(self, packet: Any) -> Any:
        """A packet in its new place; None if it is outside."""
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
            packet.duration -= late  # a line that is on the screen at the cut stays there
            packet.pts = packet.dts = ticks
        packet.pts = None if packet.pts is None else packet.pts - ticks
        packet.dts = None if packet.dts is None else packet.dts - ticks
        return packet

    def chapters(self, chapters: Sequence[Any]) -> Iterator[Any]:
        """The chapters that are inside, in their new places."""
        for chapter in chapters:
            base, end = chapter["time_base"], chapter["end"]
            begin = 0 if self._begin is None else round(self._begin / base)
            if self._end is not None:
                end = min(end, round(self._end / base))
            if max(chapter["start"], begin) < end:
                yield chapter | {"start": max(chapter["start"] - begin, 0), "end": end - begin}


class DecodingTimes:
    """Decoding times and durations of pictures, from the order in which they are shown.

    They never run back, not even where two segments meet.
    """

    def __init__(self, segments: Sequence[Segment], encoder: VideoEncoder) -> None:
        self._all = [time for segment in segments for time in segment.times]
        usual = max(round(1 / (encoder.rate * encoder.time_base)), 1)
        self._end = self._all[-1] + (segments[-1].duration or usual)
        self._count, self._delay = 0, max(segment.delay for segment in segments)
        self._first_dts = self._all[0] - self._delay * self._after(self._all[0])

    def next(self, pts: int) -> tuple[int, int]:
        """Decoding time and duration of the next packet, both in ticks."""
        index, self._count = self._count - self._delay, self._count + 1
        dts = self._all[index] if index >= 0 else self._all[0] + index * self._after(self._all[0])
        if self._count == len(self._all):  # MP4 ends there: as late as the picture is shown
            return dts, max(self._end - self._all[0] - (dts - self._first_dts), 1)
        return dts, self._after(pts)

    def _after(self, pts: int) -> int:
        """Ticks from a frame to the next."""
        index = bisect_right(self._all, pts)
        return (self._all[index] if index < len(self._all) else self._end) - pts

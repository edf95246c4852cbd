"""Packet times of the result: copied packets are shifted to the cut, those of video recomputed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from resharp.video.clip import Clip
from resharp.video.encoding import VideoEncoder
from resharp.video.resume import Segment


class CutShift:
    """Shift of copied packets to the start of the result, which drops those outside of it.

    Args:
        clip: the input.
        start: seconds from its first frame to the start of the result; None: from the beginning.
        end: seconds from its first frame to the end of the result; None: to the end.
    """

    def __init__(self, clip: Clip, start: Fraction | None, end: Fraction | None) -> None:
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

    def chapters(self, chapters: Sequence[Any]) -> Iterator[Any]:
        """Yield the chapters that are inside, with shifted times."""
        for chapter in chapters:
            base, end = chapter["time_base"], chapter["end"]
            begin = 0 if self._begin is None else round(self._begin / base)
            if self._end is not None:
                end = min(end, round(self._end / base))
            if max(chapter["start"], begin) < end:
                yield chapter | {"start": max(chapter["start"] - begin, 0), "end": end - begin}


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

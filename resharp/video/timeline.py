"""From input frames to the numbered frames of the result: frame rate, cuts and repeats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor

import numpy as np

from resharp.opencv import cv2
from resharp.types import Log
from resharp.video.clip import Clip, ResumePoint, SourceFrame
from resharp.video.options import VideoOptions
from resharp.video.source import LostError, logger, pictures

BLOCK = 16
"""Side of the blocks whose means are compared, in pixels."""


@dataclass(frozen=True)
class Position:
    """Where a run resumes: before frame ``number``."""

    number: int = 0
    mark: ResumePoint | None = None
    """Input frame that the frame before it shows; None at the start."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame of the result, before it is restored."""

    number: int
    pts: int
    """Timestamp, in ticks of the result."""
    duration: int
    source: SourceFrame = field(repr=False)
    fresh: bool
    """Whether to restore it; otherwise the last restored frame is repeated."""


def timing(clip: Clip, options: VideoOptions) -> tuple[Fraction, Fraction]:
    """Return the seconds per tick of the result, and its (average) frames per second."""
    if options.fps is None:
        return clip.time_base, clip.rate
    finer = ceil(10_000 / options.fps.numerator)  # fine enough for the time of the first frame
    return Fraction(1, options.fps.numerator * finer), options.fps


def frames(
    clip: Clip, options: VideoOptions, place: Position, warn: Log = logger.warning
) -> Iterator[Frame]:
    """Yield the frames of the result from a position on.

    Raises:
        VideoError: as for :func:`~resharp.video.source.pictures`.
    """
    try:
        yield from _placed(clip, options, place, warn, seek=True)
    except LostError:  # seeking was inexact: count from the start
        yield from _placed(clip, options, place, warn, seek=False)


def _placed(
    clip: Clip, options: VideoOptions, place: Position, warn: Log, *, seek: bool
) -> Iterator[Frame]:
    first = clip.first + ceil((options.start or 0) / clip.time_base)
    mark = place.mark if seek else None
    begin = first if options.start and mark is None else None
    shown = pictures(clip, mark, begin, last_tick(clip, options), seek=seek, warn=warn)
    number = 0 if mark is None else place.number - 1  # the frame before shows the mark
    if options.fps is None:
        origin = first if options.start else 0
        made: Iterator[Frame] = (
            Frame(index, one.pts - origin, one.duration, one, True)
            for index, one in enumerate(shown, start=number)
        )
    else:
        made = _at_rate(shown, clip, options, number)
    wanted = (frame for frame in made if frame.number >= place.number)
    yield from _deduplicated(wanted, options)


def last_tick(clip: Clip, options: VideoOptions) -> int | None:
    """Return the input timestamp at which the result stops; None: at the end."""
    return None if options.end is None else clip.first + ceil(options.end / clip.time_base)


def _at_rate(
    shown: Iterator[SourceFrame], clip: Clip, options: VideoOptions, number: int
) -> Iterator[Frame]:
    """Show each input frame from the tick nearest to its time until the next; some are dropped."""
    base, rate = timing(clip, options)
    step = round(1 / (rate * base))
    offset = 0 if options.start else round(clip.start / base)
    origin = clip.start + (options.start or 0)

    def tick(pts: int) -> int:
        return floor((pts * clip.time_base - origin) * rate + Fraction(1, 2))

    def spread(one: SourceFrame, stop: int) -> Iterator[Frame]:
        for now in range(number, stop):
            yield Frame(now, offset + now * step, step, one, True)

    last: SourceFrame | None = None
    for one in shown:
        if last is not None:
            yield from spread(last, tick(one.pts))
            number = max(number, tick(one.pts))
        last = one
    if last is not None:
        lasts = last.duration or 1 / (clip.rate * clip.time_base)
        yield from spread(last, max(tick(last.pts + round(lasts)), 1))


def _deduplicated(made: Iterator[Frame], options: VideoOptions) -> Iterator[Frame]:
    """Decide which frames to restore; the first of every segment is one of them."""
    kept: SourceFrame | None = None
    for frame in made:
        same = kept is not None and (
            frame.source is kept
            or (options.skip_duplicates is not None and alike(kept, frame, options.skip_duplicates))
        )
        fresh = frame.number % options.segment == 0 or not same
        if fresh:
            kept = frame.source
        yield Frame(frame.number, frame.pts, frame.duration, frame.source, fresh)


def alike(kept: SourceFrame, frame: Frame, levels: float) -> bool:
    """Return whether the means of all blocks differ by at most ``levels`` of 255."""
    difference = cv2.absdiff(kept.image, frame.source.image)
    height, width = difference.shape[:2]
    size = (max(width // BLOCK, 1), max(height // BLOCK, 1))
    means = cv2.resize(difference.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    white = 1 if frame.source.image.dtype == np.uint8 else 257
    return bool(means.max() <= levels * white)

"""The input video: its properties and its frames."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from resharp.errors import VideoError
from resharp.images import Metadata, pixel_limit
from resharp.types import Image
from resharp.video.color import UNSPECIFIED, Color, PixelFormat, color_of, pixel_format
from resharp.video.pyav import open_video, pyav, reason
from resharp.video.side_data import (
    Mastering,
    chunks_of,
    losses,
    mastering_in,
    mastering_of,
    matrix_of,
    side_data,
)
from resharp.video.streams import (
    alpha_decoder,
    choose_stream,
    codec_name,
    has_alpha_packets,
    is_stereo,
    open_decoder,
    seconds,
)

if TYPE_CHECKING:
    from av.container.input import InputContainer
    from av.video.frame import VideoFrame

    from resharp.images.color_signal import ColorSignal
    from resharp.video.animation import Animation

DEFAULT_RATE = Fraction(25)
"""Frames per second of an input that does not state a rate."""
ALPHA_FORMAT = "yuva420p"
"""Pixel format of VP8 and VP9 with transparency."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """The video stream to restore, with the properties that its file states."""

    path: Path
    stream: int
    """Index of the video stream in its file."""
    width: int
    """Width in pixels as stored, before any rotation."""
    height: int
    form: PixelFormat
    color: Color
    time_base: Fraction
    """Length of one timestamp tick, in seconds."""
    rate: Fraction
    """Average frames per second."""
    first: int
    """Timestamp of the first frame, in ticks."""
    frames: int
    """Number of frames; an estimate, or 0 if unknown."""
    aspect: Fraction | None = None
    """Pixel width over height; None if pixels are square or the file does not say."""
    matrix: tuple[int, ...] | None = None
    """Display matrix (rotation and mirroring): nine fixed-point numbers, 16.16 and 2.30 bits."""
    mastering: Mastering | None = None
    """HDR mastering metadata of the first frame."""
    side_data: frozenset[str] = frozenset()
    """Kinds of side data of the first frame, which notes are about."""
    decoder: str | None = None
    """FFmpeg's decoder to use instead of its own choice."""
    late: int | None = None
    """Ticks to subtract from decoding times, which AVI has instead of timestamps; else None."""
    files: tuple[Path, ...] = ()
    """Image files, if the input is an image sequence instead of a video file."""
    animation: Animation | None = None
    """What the file states besides its frames, if it is an animated image; else None."""
    icc: bytes | None = None
    """ICC profile of images; their ``color`` does not count then."""
    signal: ColorSignal | None = None
    """Colors that images state by numbers, e.g. a gamma; None: by ``color``, if at all."""
    notes: tuple[str, ...] = ()
    """Notes about the input for the user."""
    max_pixels: int | None = None
    """The option of that name."""

    @property
    def colors(self) -> Metadata:
        """What a result that is an image must state about its colors."""
        if self.icc is not None:
            return Metadata(icc=self.icc)
        color = self.signal or self.color.signal
        if color is not None and color.cicp is not None and self.mastering is not None:
            color = replace(color, light=chunks_of(self.mastering))
        return Metadata(color=color)

    @property
    def colors_are_tags(self) -> bool:
        """Whether the tags of a video state the same colors."""
        if self.icc is not None or self.signal is None:
            return self.icc is None
        transfer = self.signal.gamma is None or self.color.transfer != UNSPECIFIED
        primaries = self.signal.chromaticities is None or self.color.primaries != UNSPECIFIED
        return transfer and primaries

    @property
    def start(self) -> Fraction:
        """Time of the first frame, in seconds."""
        return self.first * self.time_base


class ResumePoint(NamedTuple):
    """A frame of the input after which a run can resume."""

    pts: int
    """Timestamp of the frame, in ticks of the clip."""
    crc: int
    """CRC-32 of the pixels."""


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """A decoded frame of the input."""

    pts: int
    """Timestamp, in ticks of the clip."""
    duration: int
    """Duration in ticks; 0 if unknown."""
    image: Image
    """BGR or BGRA ``[h, w, c]``, uint8 or uint16."""

    def mark(self) -> ResumePoint:
        """Return the point at which a run resumes after this frame."""
        return ResumePoint(self.pts, zlib.crc32(np.ascontiguousarray(self.image).data))


def probe(
    path: str | os.PathLike[str], wanted: int | None = None, max_pixels: int | None = None
) -> Clip:
    """Return the properties of a video file. Decodes its first frame.

    Args:
        path: the file.
        wanted: index of the video stream to restore; None takes the one that players play.
        max_pixels: most pixels that a frame may have; None is the default.

    Raises:
        VideoError: the file cannot be read, no frame can be decoded, or frames are too large.
        OptionError: ``wanted`` is none of its video streams.
    """
    limit = pixel_limit(max_pixels).pixels
    with open_video(path, limit) as container:
        stream = choose_stream(container, Path(path), wanted, limit)
        frame, transparent = _first_frame(container, stream, path, limit)
        data = side_data(frame, codec_name(stream))
        form, decoder, notes = pixel_format(frame.format.name), None, []
        if transparent and not form.alpha:
            decoder = alpha_decoder(stream)
            if decoder is None:
                codec = codec_name(stream).upper()
                notes.append(f"transparency is left out: this FFmpeg cannot read that of {codec}")
            else:
                form = pixel_format(ALPHA_FORMAT)
        keeps = {"STEREO3D"} if is_stereo(stream) else set()  # as a tag: the container decides
        color = color_of(frame, form)
        rate, time_base, aspect = _rate(stream), stream.time_base, stream.sample_aspect_ratio
        first = frame.pts if frame.pts is not None else frame.dts or 0
        late: int | None = None
        if container.format.name == "avi" and frame.dts is not None:
            first = stream.start_time or 0
            late = int(frame.dts - first)
        if time_base is None or time_base.denominator >= 1 << 31:  # our muxers cannot store it
            time_base = Fraction(1, 90_000)
        return Clip(
            path=Path(path),
            stream=stream.index,
            width=frame.width,
            height=frame.height,
            form=form,
            color=color,
            time_base=time_base,
            rate=rate,
            first=first,
            late=late,
            frames=stream.frames or _estimate(container, stream, rate),
            aspect=None if not aspect or aspect == 1 else Fraction(aspect),
            matrix=matrix_of(data, frame),
            mastering=mastering_of(data),
            side_data=frozenset(data),
            decoder=decoder,
            notes=(*notes, *_notes(frame, form, color), *losses(data, keeps)),
            max_pixels=max_pixels,
        )


def with_colors(clip: Clip, stated: Metadata) -> Clip:
    """Return a clip with the colors that its images state, where video cannot state them."""
    color = stated.color
    if color is not None and color.cicp is not None:
        return replace(clip, mastering=clip.mastering or mastering_in(color.light))
    if stated.icc is not None:
        return replace(clip, icc=stated.icc)
    return clip if color is None or color.is_srgb else replace(clip, signal=color)


def _first_frame(
    container: InputContainer, stream: Any, path: object, limit: int
) -> tuple[VideoFrame, bool]:
    """Return the first frame, and whether the stream stores transparency beside its frames."""
    av = pyav()
    context, failure, transparent = open_decoder(stream, path, max_pixels=limit), "", False
    width, height = context.width, context.height
    if width * height > limit:
        raise VideoError(
            f"{path} has frames of {width} x {height} pixels, over the limit of {limit}. "
            f"If you trust the file, set `max_pixels` to {width * height}."
        )
    try:
        for packet in container.demux(stream):
            transparent = transparent or has_alpha_packets(stream, packet)
            try:
                frames: list[VideoFrame] = context.decode(packet)
                if frames:
                    return frames[0], transparent
            except av.error.FFmpegError as error:
                failure = f": {reason(error)}"
    except av.error.FFmpegError as error:
        failure = f": {reason(error)}"
    hint = "" if width else f". If its frames have more than {limit} pixels, set `max_pixels`"
    raise VideoError(f"{path} has a video stream, but no frame of it can be decoded{failure}{hint}")


def _rate(stream: Any) -> Fraction:
    """Return the frame rate. Without one in Matroska, FFmpeg reports its millisecond ticks."""
    average, guessed = stream.average_rate, stream.guessed_rate
    if average and guessed and not guessed / 2 <= average <= guessed * 2:
        average = guessed if average > 240 else average
    return Fraction(average or guessed or DEFAULT_RATE)


def _estimate(container: InputContainer, stream: Any, rate: Fraction) -> int:
    return round((seconds(stream) or Fraction(container.duration or 0, 1_000_000)) * rate)


def _notes(frame: VideoFrame, form: PixelFormat, color: Color) -> Iterator[str]:
    if frame.interlaced_frame:
        yield "interlaced video is not deinterlaced: combing stays, its flag is left out"
    if color.math != color.matrix and not form.rgb:
        yield f"color matrix {color.matrix} is treated as BT.709; the tag is kept"

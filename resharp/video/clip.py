"""The input: what is known of it before it is restored, and its frames."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from resharp.errors import VideoError
from resharp.types import Image
from resharp.video.color import Color, PixelFormat, color_of, pixel_format
from resharp.video.pyav import open_video, pyav, reason

if TYPE_CHECKING:
    from av.container.input import InputContainer
    from av.video.frame import VideoFrame

DEFAULT_RATE = Fraction(25)
"""Frames per second where nothing tells."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """The video stream that is restored, and its surroundings."""

    path: Path
    stream: int
    """Index of the video stream in its file."""
    width: int
    """In pixels, as stored: before any rotation."""
    height: int
    form: PixelFormat
    color: Color
    time_base: Fraction
    """Seconds of one tick of the timestamps."""
    rate: Fraction
    """Average frames per second."""
    first: int
    """Timestamp of the first frame, in ticks."""
    frames: int
    """How many there are; an estimate, and 0 where nothing tells."""
    aspect: Fraction | None = None
    """Width over height of a pixel; None where it is square or not said."""
    matrix: tuple[int, ...] | None = None
    """Display matrix (rotation and mirroring), nine numbers of 16.16 and 2.30 bits."""
    late: int | None = None
    """Where a format has no timestamps for showing (AVI), those for decoding count, less this."""
    files: tuple[Path, ...] = ()
    """Pictures, where the input is a sequence of them and no video file."""
    notes: tuple[str, ...] = ()
    """What the user should know of the input."""

    @property
    def start(self) -> Fraction:
        """Time of the first frame, in seconds."""
        return self.first * self.time_base


class ResumePoint(NamedTuple):
    """A picture of the input that a run can go on after."""

    pts: int
    """Its timestamp, in ticks of the clip."""
    crc: int
    """CRC-32 of its pixels."""


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """A picture of the input."""

    pts: int
    """When it is shown, in ticks of the clip."""
    duration: int
    """How long, in ticks; 0 where nothing tells."""
    image: Image
    """BGR or BGRA ``[h, w, c]``, uint8 or uint16."""

    def mark(self) -> ResumePoint:
        """Where a run goes on after this picture."""
        return ResumePoint(self.pts, zlib.crc32(np.ascontiguousarray(self.image).data))


def probe(path: str | os.PathLike[str]) -> Clip:
    """Look at a video, its first frame included.

    Raises:
        VideoError: it cannot be read, or shows no pictures.
    """
    with open_video(path) as container:
        videos = [s for s in container.streams.video if not is_cover(s)]
        if not videos:
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
            raise VideoError(
                f"{path} has no video stream, only {kinds}: there is nothing to restore"
            )
        stream = videos[0]
        frame = _first_frame(container, stream, path)
        form = pixel_format(frame.format.name)
        color, side_data = color_of(frame, form), _side_data(frame)
        rate, time_base, aspect = _rate(stream), stream.time_base, stream.sample_aspect_ratio
        first = frame.pts if frame.pts is not None else frame.dts or 0
        late: int | None = None
        if container.format.name == "avi" and frame.dts is not None:
            first = stream.start_time or 0
            late = int(frame.dts - first)
        if time_base is None or time_base.denominator >= 1 << 31:  # which no muxer of ours keeps
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
            matrix=_matrix(side_data),
            notes=tuple(_notes(frame, form, color, side_data)),
        )


def is_cover(stream: Any) -> bool:
    """Whether a video stream is a single picture of the album cover's kind."""
    return bool(stream.disposition & pyav().stream.Disposition.attached_pic)


def _first_frame(container: InputContainer, stream: Any, path: object) -> VideoFrame:
    av = pyav()
    if stream.codec_context is None:
        raise VideoError(f"{path}: this build of libav has no decoder for its video stream")
    failure = ""
    try:
        for packet in container.demux(stream):
            try:
                frames: list[VideoFrame] = packet.decode()
                if frames:
                    return frames[0]
            except av.error.FFmpegError as error:
                failure = f": {reason(error)}"
    except av.error.FFmpegError as error:
        failure = f": {reason(error)}"
    raise VideoError(
        f"{path} has a video stream without a single picture that can be read{failure}"
    )


def _rate(stream: Any) -> Fraction:
    """Frames per second; Matroska often says nothing, and libav then counts its milliseconds."""
    average, guessed = stream.average_rate, stream.guessed_rate
    if average and guessed and not guessed / 2 <= average <= guessed * 2:
        average = guessed if average > 240 else average
    return Fraction(average or guessed or DEFAULT_RATE)


def _estimate(container: InputContainer, stream: Any, rate: Fraction) -> int:
    if stream.duration is not None and stream.time_base is not None:
        return round(Fraction(stream.duration * stream.time_base) * rate)
    return round(Fraction(container.duration or 0, 1_000_000) * rate)


def _side_data(frame: VideoFrame) -> dict[str, Any]:
    found: Any = frame.side_data
    # Up to PyAV 18 iterating it gives its values, and from 19 on its keys.
    values = [item if hasattr(item, "type") else found[item] for item in found]
    return {data.type.name: data for data in values}


def _matrix(side_data: dict[str, Any]) -> tuple[int, ...] | None:
    if "DISPLAYMATRIX" not in side_data:
        return None
    numbers = struct.unpack("=9i", bytes(side_data["DISPLAYMATRIX"]))
    return None if numbers == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30) else numbers


def _notes(
    frame: VideoFrame, form: PixelFormat, color: Color, side_data: dict[str, Any]
) -> Iterator[str]:
    if frame.interlaced_frame:
        yield "it is interlaced and restored as it is: combing stays, and the mark is lost"
    if color.math != color.matrix and not form.rgb:
        yield f"its color matrix (code {color.matrix}) is taken as BT.709, and kept as a tag"
    hdr = {"MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL", "DYNAMIC_HDR_PLUS"}
    if hdr & side_data.keys():
        yield "its HDR mastering metadata (brightness of the display) are not carried"

"""The input video: its properties and its frames."""

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
"""Frames per second of an input that does not state a rate."""


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
    late: int | None = None
    """Ticks to subtract from decoding times, which AVI has instead of timestamps; else None."""
    files: tuple[Path, ...] = ()
    """Image files, if the input is an image sequence instead of a video file."""
    notes: tuple[str, ...] = ()
    """Notes about the input for the user."""

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


def probe(path: str | os.PathLike[str]) -> Clip:
    """Return the properties of a video file. Decodes its first frame.

    Raises:
        VideoError: the file cannot be read, or no frame can be decoded.
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
            matrix=_matrix(side_data),
            notes=tuple(_notes(frame, form, color, side_data)),
        )


def is_cover(stream: Any) -> bool:
    """Return whether a video stream is cover art, i.e. a single attached image."""
    return bool(stream.disposition & pyav().stream.Disposition.attached_pic)


def _first_frame(container: InputContainer, stream: Any, path: object) -> VideoFrame:
    av = pyav()
    if stream.codec_context is None:
        raise VideoError(f"{path}: this build of FFmpeg has no decoder for the video stream")
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
    raise VideoError(f"{path} has a video stream, but no frame of it can be decoded{failure}")


def _rate(stream: Any) -> Fraction:
    """Return the frame rate. Without one in Matroska, FFmpeg reports its millisecond ticks."""
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
    # Iterating yields the values up to PyAV 18, and the keys from 19 on.
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
        yield "interlaced video is not deinterlaced: combing stays, and the interlaced flag is lost"
    if color.math != color.matrix and not form.rgb:
        yield f"color matrix {color.matrix} is treated as BT.709; the tag is kept"
    hdr = {"MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL", "DYNAMIC_HDR_PLUS"}
    if hdr & side_data.keys():
        yield "HDR mastering metadata (display brightness) is not kept"

"""What is known of a video before it is restored."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resharp.errors import VideoError
from resharp.video.color import Color, PixelFormat, color_of, pixel_format
from resharp.video.pyav import open_file, pyav, reason

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
    aspect: Fraction | None
    """Width over height of a pixel; None where it is square or not said."""
    matrix: tuple[int, ...] | None
    """Display matrix (rotation and mirroring), nine numbers of 16.16 and 2.30 bits."""
    late: int | None = None
    """Where a format has no timestamps for showing (AVI), those for decoding count, less this."""
    files: tuple[Path, ...] = ()
    """Pictures, where the input is a sequence of them and no video file."""
    notes: tuple[str, ...] = ()
    """What the user should know of the input."""


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[InputContainer]:
    """A video file, for reading.

    Raises:
        VideoError: it cannot be opened; the message says why.
    """
    av = pyav()
    if not os.path.exists(path):
        raise VideoError(f"there is no file {path}")
    if Path(path).stat().st_size == 0:
        raise VideoError(f"{path} is empty")
    try:
        container = open_file(os.fspath(path), "r")
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(
            f"{path} cannot be read as a video: {reason(error)}. If it was cut off while it was "
            "copied or recorded, its index is missing: fetch it again, or repair it first"
        ) from error
    with container:
        yield container


def probe(path: str | os.PathLike[str]) -> Clip:
    """Look at a video, its first frame included.

    Raises:
        VideoError: it cannot be read, or shows no pictures.
    """
    with opened(path) as container:
        videos = [s for s in container.streams.video if not is_cover(s)]
        if not videos:
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
            raise VideoError(
                f"{path} has no video stream, only {kinds}: there is nothing to restore"
            )
        stream = videos[0]
        frame = _first_frame(container, stream, path)
        form = pixel_format(frame.format.name)
        color = color_of(frame, form)
        late = _late(container, stream, frame)
        rate = _rate(stream)
        return Clip(
            path=Path(path),
            stream=stream.index,
            width=frame.width,
            height=frame.height,
            form=form,
            color=color,
            time_base=_time_base(stream.time_base),
            rate=rate,
            first=_first(frame) if late is None else (frame.dts or 0) - late,
            late=late,
            frames=stream.frames or _estimate(container, stream, rate),
            aspect=_aspect(stream.sample_aspect_ratio),
            matrix=_matrix(frame),
            notes=tuple(_notes(frame, stream, form, color)),
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


def _first(frame: VideoFrame) -> int:
    return frame.pts if frame.pts is not None else frame.dts or 0


def _late(container: InputContainer, stream: Any, frame: VideoFrame) -> int | None:
    """How far times of decoding run behind, in a format that has no others."""
    if container.format.name != "avi" or frame.dts is None:
        return None
    return int(frame.dts - (stream.start_time or 0))


def _rate(stream: Any) -> Fraction:
    """Frames per second; Matroska often says nothing, and libav then counts its milliseconds."""
    average, guessed = stream.average_rate, stream.guessed_rate
    if average and guessed and not guessed / 2 <= average <= guessed * 2:
        average = guessed if average > 240 else average
    return Fraction(average or guessed or DEFAULT_RATE)


def _time_base(time_base: Fraction | None) -> Fraction:
    """Of the stream, if the muxers that we write with can keep it."""
    if time_base is None or time_base.denominator >= 1 << 31:
        return Fraction(1, 90_000)
    return time_base


def _estimate(container: InputContainer, stream: Any, rate: Fraction) -> int:
    if stream.duration is not None and stream.time_base is not None:
        return round(Fraction(stream.duration * stream.time_base) * rate)
    return round(Fraction(container.duration or 0, 1_000_000) * rate)


def _aspect(aspect: Fraction | None) -> Fraction | None:
    return None if not aspect or aspect == 1 else Fraction(aspect)


def _matrix(frame: VideoFrame) -> tuple[int, ...] | None:
    for data in _side_data(frame):
        if data.type.name == "DISPLAYMATRIX":
            numbers = struct.unpack("=9i", bytes(data))
            identity = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
            return None if numbers == identity else numbers
    return None


def _side_data(frame: VideoFrame) -> list[Any]:
    found: Any = frame.side_data
    # Up to PyAV 18 iterating it gives its values, and from 19 on its keys.
    return [item if hasattr(item, "type") else found[item] for item in found]


def _notes(frame: VideoFrame, stream: Any, form: PixelFormat, color: Color) -> Iterator[str]:
    if frame.interlaced_frame:
        yield "it is interlaced and restored as it is: combing stays, and the mark is lost"
    if color.math != color.matrix and not form.rgb:
        yield f"its colour matrix (code {color.matrix}) is taken as BT.709, and kept as a tag"
    kinds = {data.type.name for data in _side_data(frame)}
    if kinds & {"MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL", "DYNAMIC_HDR_PLUS"}:
        yield "its HDR mastering metadata (brightness of the display) are not carried"

"""Streams of a video file: which one is restored, how it is decoded, and what they are called."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from resharp.errors import OptionError, VideoError
from resharp.video.pyav import limiting, open_video, pyav
from resharp.video.side_data import optional

if TYPE_CHECKING:
    from pathlib import Path

    from av.container.input import InputContainer

ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders that read transparency, by the codecs whose usual decoders ignore it."""
ENOUGH = 5000
"""Number of packets in which to look for a second frame of each video stream."""
NEARLY = Fraction(9, 10)
"""Part of the longest duration from which on a stream counts as equally long."""


def choose_stream(
    container: InputContainer, path: Path, wanted: int | None, max_pixels: int | None = None
) -> Any:
    """Return the video stream to restore: the one asked for, or else the one that players play.

    Players take the stream that is marked as the default one. Among several, or without such a
    mark, a stream of one frame comes last, then one that is clearly shorter than another; of the
    rest the first is taken. Cover art is never taken without being asked for.

    Args:
        container: the file.
        path: its path, for messages.
        wanted: index of a stream; None leaves the choice open.
        max_pixels: most pixels that a frame may have, as the file was opened.

    Raises:
        VideoError: the file has no video stream.
        OptionError: ``wanted`` is none of its video streams.
    """
    videos = list(container.streams.video)
    if wanted is not None:
        for stream in videos:
            if stream.index == wanted:
                return stream
        names = ", ".join(map(describe, videos)) or "it has none"
        raise OptionError(f"`stream` must be a video stream of {path} ({names}), got {wanted}")
    videos = [stream for stream in videos if not is_cover(stream)]
    if not videos:
        kinds = ", ".join(sorted({one.type for one in container.streams})) or "nothing"
        raise VideoError(f"{path} has no video stream, only {kinds}: there is nothing to restore")
    if len(videos) == 1:
        return videos[0]
    able = [stream for stream in videos if stream.codec_context is not None] or videos
    moving = _moving(path, [stream.index for stream in able], max_pixels)
    able = [stream for stream in able if stream.index in moving] or able
    main = [stream for stream in able if not _has(stream, "dependent", "timed_thumbnails")] or able
    main = [stream for stream in main if _has(stream, "default")] or main
    longest = max(map(seconds, main))
    return next(stream for stream in main if seconds(stream) >= longest * NEARLY)


def _moving(path: Path, indices: list[int], max_pixels: int | None) -> set[int]:
    """Return the streams that have more than one frame."""
    once: set[int] = set()
    moving: set[int] = set()
    with suppress(pyav().error.FFmpegError), open_video(path, max_pixels) as container:
        chosen = [container.streams[index] for index in indices]
        for number, packet in enumerate(container.demux(chosen)):
            if packet.size:
                index = packet.stream.index
                (moving if index in once else once).add(index)
            if len(moving) == len(indices) or number >= ENOUGH:
                break
    return moving


def seconds(stream: Any) -> Fraction:
    """Return how long a stream says that it is; 0 if it does not say."""
    tag = stream.metadata.get("DURATION", "").split(":")  # Matroska's, 00:01:02.000000000
    try:
        hours, minutes, rest = (Fraction(part.strip()) for part in tag)
    except ValueError:
        if stream.duration is None or stream.time_base is None:
            return Fraction(0)
        return Fraction(stream.duration * stream.time_base)
    return hours * 3600 + minutes * 60 + rest


def _has(stream: Any, *names: str) -> bool:
    """Return whether a stream has one of these dispositions."""
    known = pyav().stream.Disposition
    bits = sum(int(getattr(known, name, 0)) for name in names)
    return bool(optional("disposition", lambda: int(stream.disposition), 0) & bits)


def is_cover(stream: Any) -> bool:
    """Return whether a video stream is cover art, i.e. a single attached image."""
    return _has(stream, "attached_pic")


def is_time_code(stream: Any) -> bool:
    """Return whether a stream is QuickTime's time code, which muxers make from the tag."""
    return stream.type == "data" and stream.name is None and "timecode" in stream.metadata


def is_stereo(stream: Any) -> bool:
    """Return whether a stream has Matroska's tag for the layout of stereoscopic 3D."""
    return any(name.lower() == "stereo_mode" for name in stream.metadata)


def codec_name(stream: Any) -> str:
    """Return FFmpeg's name of a stream's codec; ``unknown`` if it has none."""
    if stream.codec_context is not None:
        return str(stream.codec_context.name)
    name = None if stream.type == "attachment" else getattr(stream, "name", None)
    return str(name or "unknown")


def describe(stream: Any) -> str:
    """Return what a stream is in words, e.g. ``video stream 0 (mjpeg, 32x24)``."""
    name = codec_name(stream)
    if stream.type == "attachment":
        name = stream.metadata.get("filename", name)
    elif is_time_code(stream):
        name = "time code"
    elif name == "unknown":
        name = stream.metadata.get("handler_name", name)
    elif stream.type == "video" and stream.codec_context is not None:
        name += f", {stream.codec_context.width}x{stream.codec_context.height}"
    return f"{stream.type} stream {stream.index} ({name})"


def has_alpha_packets(stream: Any, packet: Any) -> bool:
    """Return whether a VP8 or VP9 stream stores transparency beside its frames, as WebM does."""
    if stream.codec_context is None or stream.codec_context.name not in ALPHA_DECODERS:
        return False
    tags = {name.lower(): value for name, value in stream.metadata.items()}
    if tags.get("alpha_mode", "").strip() == "1":
        return True
    added = optional(
        "additional data of a packet",
        lambda: bytes(packet.get_sidedata("matroska_block_additional")),
        b"",
    )
    return added[:8] == (1).to_bytes(8, "big")  # the number of such data; 1 is transparency


def alpha_decoder(stream: Any) -> str | None:
    """Return the decoder that reads a stream's transparency; None if this build has none."""
    name = ALPHA_DECODERS.get(codec_name(stream))
    if name is None:
        return None
    try:
        pyav().codec.Codec(name, "r")
    except (ValueError, pyav().error.FFmpegError):
        return None
    return name


def open_decoder(
    stream: Any,
    path: object,
    name: str | None = None,
    threads: int = 1,
    max_pixels: int | None = None,
) -> Any:
    """Return a context whose ``decode`` takes the packets of a stream.

    Args:
        stream: a video stream.
        path: its file, for error messages.
        name: FFmpeg's decoder to use instead of its own choice.
        threads: number of threads.
        max_pixels: most pixels that a frame may have; larger ones are damaged to the decoder.

    Raises:
        VideoError: this build of FFmpeg has no decoder for the stream.
    """
    usual = stream.codec_context
    if usual is None:
        raise VideoError(
            f"{path}: this build of FFmpeg has no decoder for {describe(stream)}: convert it to "
            "another codec first, or copy or download the file again if it is damaged"
        )
    if name is None:
        context = usual
    else:
        context = pyav().CodecContext.create(name, "r")
        if usual.extradata:
            context.extradata = usual.extradata
        for tag in ("color_range", "colorspace", "color_primaries", "color_trc"):
            setattr(context, tag, getattr(usual, tag))  # what the container says
    # The threads of libvpx's VP8 wait for each other in busy loops, on cores that restoring needs.
    context.options = limiting(max_pixels)
    context.thread_type, context.thread_count = "AUTO", 1 if name == "libvpx" else threads
    return context

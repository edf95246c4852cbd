"""Choice of the output container: every stream is tried in it before anything is restored."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resharp.errors import OptionError, OutputError
from resharp.video.clip import Clip
from resharp.video.pyav import open_video, pyav, reason
from resharp.video.side_data import losses
from resharp.video.streams import codec_name, describe, is_cover, is_stereo, is_time_code

if TYPE_CHECKING:
    from av.container.input import InputContainer
    from av.container.output import OutputContainer

logger = logging.getLogger(__name__)

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""FFmpeg's names of the containers that preserve timestamps, by file extension."""
ANIMATIONS = {".gif": "gif", ".webp": "webp", ".apng": "apng"}
"""Formats of animated images by file extension; ``.png`` is APNG if the input is animated too."""
OURS = {"major_brand", "minor_version", "compatible_brands", "encoder"}
"""File tags that are not copied, because every file has its own."""
SOON = 5000
"""Number of packets in which to look for the first one of each stream."""


@dataclass(frozen=True)
class MuxPlan:
    """Path and container of a result."""

    target: Path
    format: str
    """FFmpeg's name of the container, e.g. ``mp4``."""
    left_out: tuple[int, ...] = ()
    """Indices of the input streams that the container cannot hold."""
    notes: tuple[str, ...] = ()


class UnsupportedStream(NamedTuple):
    """A stream that a container cannot hold."""

    name: str
    """What it is in words."""
    essential: bool
    """Whether it is video, audio or subtitles, so that another container is better."""


def choose_container(target: Path, clip: Clip, segment: Path) -> MuxPlan:
    """Choose the container of a result: the requested one if it can hold everything.

    Args:
        target: path of the result as requested.
        clip: the input.
        segment: any encoded segment.

    Raises:
        OutputError: not even Matroska can hold the video.
        OptionError: the stream to restore is cover art.
    """
    with open_source(clip) as source:
        if source and is_cover(source.streams[clip.stream]):
            name = describe(source.streams[clip.stream])
            raise OptionError(
                f"{name} is cover art, not a video: write an image instead, e.g. cover%d.png as "
                "`dst`"
            )
    asked = CONTAINERS.get(target.suffix.lower(), "")
    others = ("matroska",) if asked == "mov" else ("mp4", "matroska")
    tried: dict[str, dict[int, UnsupportedStream]] = {}
    for name in dict.fromkeys((asked, *others) if asked else others):
        tried[name] = _unsupported(name, clip, segment)
        if not any(one.essential for one in tried[name].values()):
            break
    else:
        name = "matroska"
    unsupported, notes = tried[name], []
    if clip.stream in unsupported:
        raise OutputError(f"no container can hold the result: {unsupported[clip.stream].name}")
    if name != asked:
        wanted = target.suffix or "a path without extension"
        names = ", ".join(one.name for one in tried.get(asked, {}).values() if one.essential)
        target = target.with_suffix({"mp4": ".mp4", "matroska": ".mkv"}[name])
        advice = " (`codec` av1 fits)" if asked == "webm" and clip.stream in tried[asked] else ""
        notes.append(
            f"{wanted} cannot hold {names or 'timestamps'}: writing {target.name} instead{advice}"
        )
    notes += [
        f"{one.name} is left out: {target.suffix} cannot hold it" for one in unsupported.values()
    ]
    notes += _copied(clip, name, unsupported)
    if name in ("matroska", "webm") and (clip.time_base * 1000).denominator != 1:
        notes.append(f"{target.suffix} rounds timestamps to milliseconds")
    return MuxPlan(target, name, tuple(unsupported), tuple(notes))


def _copied(clip: Clip, name: str, unsupported: Mapping[int, UnsupportedStream]) -> Iterator[str]:
    """Yield a note for each stream that is not copied as a user may expect."""
    with open_source(clip) as source:
        for stream in source.streams if source else ():
            if stream.index == clip.stream and is_stereo(stream) and name in ("mp4", "mov"):
                yield from losses(["STEREO3D"])
            if stream.index == clip.stream or stream.index in unsupported:
                continue
            if stream.type == "video" and not is_cover(stream):
                yield f"{describe(stream)} is copied as it is"
            if _becomes_text(stream, name):
                yield f"{describe(stream)} becomes SubRip: its styles are left out"


def left_out_of_images(clip: Clip, what: str) -> Iterator[str]:
    """Yield a note for each thing besides frames that images cannot hold.

    Args:
        clip: the input.
        what: name of the images, e.g. their format.
    """
    with open_source(clip) as source:
        if source is None:
            return
        for stream in source.streams:
            if stream.index != clip.stream and is_wanted(stream, clip):
                yield f"{describe(stream)} is left out: {what} cannot hold it"
        if source.chapters():
            yield f"the chapters are left out: {what} cannot hold them"
        tags = [tag for tag in source.metadata if tag.lower() not in OURS | {"software"}]
        if tags:
            yield f"the tags of the file ({', '.join(tags)}) are left out: {what} cannot hold them"
        if code := source.streams[clip.stream].metadata.get("timecode"):
            yield f"the time code {code} is left out: {what} cannot hold it"


def _unsupported(name: str, clip: Clip, segment: Path) -> dict[int, UnsupportedStream]:
    """Return the streams that a container cannot hold; each is tried alone with the video."""
    found = {}
    with open_source(clip) as source, open_video(segment) as made:
        picture = next(p for p in made.demux(made.streams.video[0]) if p.size)
        problem = _problem(name, picture, None, None)
        if problem:
            logger.debug("%s cannot hold the video: %s", name, problem)
            codec = codec_name(picture.stream)
            return {clip.stream: UnsupportedStream(f"{codec} video", essential=True)}
        samples = _first_packets(source, clip) if source else {}
        for stream in source.streams if source else ():
            if stream.index == clip.stream or not is_wanted(stream, clip):
                continue
            problem = _problem(name, picture, stream, samples.get(stream.index))
            if problem:
                logger.debug("%s cannot hold stream %d: %s", name, stream.index, problem)
                essential = stream.type in ("audio", "subtitle")
                found[stream.index] = UnsupportedStream(describe(stream), essential)
    return found


def _first_packets(source: InputContainer, clip: Clip) -> dict[int, Any]:
    """Return the first packet of each stream, if it comes early in the file."""
    wanted = {s.index for s in source.streams if is_wanted(s, clip) and s.type != "attachment"}
    found: dict[int, Any] = {}
    with suppress(pyav().error.FFmpegError):  # damage is reported elsewhere
        for packet in islice(source.demux(), SOON):
            if packet.size and packet.stream.index in wanted:
                found.setdefault(packet.stream.index, packet)
            if len(found) == len(wanted):
                break
    return found


def _problem(name: str, picture: Any, other: Any, sample: Any) -> str:
    """Return why a container cannot hold the video and another stream; empty if it can.

    Writes a packet of each, since some muxers fail only at the end, and only if there are packets.
    """
    trial = pyav().open(io.BytesIO(), "w", format=name)
    try:
        pairs = [(picture, trial.add_stream_from_template(picture.stream, opaque=True))]
        if other is not None:
            made = add_stream(trial, other, name)
            pairs.append((None if made.type == "attachment" else sample, made))
        trial.start_encoding()
        for packet, stream in pairs:
            if packet is not None:
                copy = pyav().Packet(bytes(packet))
                copy.pts = copy.dts = 0
                copy.duration, copy.time_base = packet.duration, packet.time_base
                copy.is_keyframe, copy.stream = True, stream
                trial.mux(copy)
        trial.close()
    except Exception as error:  # whatever it is, the container cannot be used for the stream
        return reason(error)
    finally:
        with suppress(Exception):
            trial.close()
    return ""


@contextmanager
def open_source(clip: Clip) -> Iterator[InputContainer | None]:
    """Open the input file; yields None if it holds nothing to copy: images, or an animated one."""
    if clip.files or clip.animation is not None:
        yield None
        return
    with open_video(clip.path) as container:
        yield container


def is_wanted(stream: Any, clip: Clip) -> bool:
    """Return whether the result has a stream: all but what muxers make from chapters and tags."""
    if stream.index == clip.stream:
        return True
    return bool(stream.discard != pyav().stream.Discard.all) and not is_time_code(stream)


def _image(stream: Any) -> bytes:
    """Return the image file of cover art."""
    with open_video(stream.container.name) as container:
        packets = container.demux(container.streams[stream.index])
        return next((bytes(packet) for packet in packets if packet.size), b"")


def _becomes_text(stream: Any, name: str) -> bool:
    return stream.type == "subtitle" and name == "matroska" and codec_name(stream) == "mov_text"


def add_stream(out: OutputContainer, stream: Any, name: str) -> Any:
    """Add a copy of an input stream to a container of format ``name``.

    Cover art becomes an attachment of Matroska, where a video stream would be played.
    """
    if name == "matroska" and stream.type == "video" and is_cover(stream):
        codec, tags = codec_name(stream), {k.lower(): v for k, v in stream.metadata.items()}
        kind = {"mjpeg": "jpeg"}.get(codec, codec)
        filename = tags.get("filename", f"cover.{kind.replace('jpeg', 'jpg')}")
        return out.add_attachment(filename, tags.get("mimetype", f"image/{kind}"), _image(stream))
    if stream.type == "attachment":
        tags = stream.metadata
        return out.add_attachment(tags.get("filename", "file"), stream.mimetype or "", stream.data)
    if _becomes_text(stream, name):
        made = out.add_mux_stream("subrip")
        made.time_base = Fraction(1, 1000)
    else:
        made = out.add_stream_from_template(stream, opaque=True)
    made.disposition = stream.disposition
    for tag, value in stream.metadata.items():
        made.metadata[tag] = value
    return made

"""Choice of the output container: every stream is tried in it before anything is restored."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resharp.errors import OutputError
from resharp.video.clip import Clip
from resharp.video.pyav import open_video, pyav, reason

if TYPE_CHECKING:
    from av.container.input import InputContainer
    from av.container.output import OutputContainer

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""FFmpeg's names of the containers that preserve timestamps, by file extension."""
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

    why: str
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
    """
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
        raise OutputError(f"no container can hold the result: {unsupported[clip.stream].why}")
    if name != asked:
        why = "; ".join(sorted({one.why for one in tried.get(asked, {}).values()}))
        wanted = target.suffix or "a path without extension"
        target = target.with_suffix({"mp4": ".mp4", "matroska": ".mkv"}[name])
        notes.append(
            f"{wanted} cannot hold the result ({why or 'it does not preserve timestamps'}): "
            f"writing {target.name} instead"
        )
    notes += [f"left out: {one.why}" for one in unsupported.values()]
    if name in ("matroska", "webm") and (clip.time_base * 1000).denominator != 1:
        notes.append(f"{target.suffix} rounds timestamps to milliseconds")
    return MuxPlan(target, name, tuple(unsupported), tuple(notes))


def _unsupported(name: str, clip: Clip, segment: Path) -> dict[int, UnsupportedStream]:
    """Return the streams that a container cannot hold; each is tried alone with the video."""
    found = {}
    with open_source(clip) as source, open_video(segment) as made:
        picture = next(p for p in made.demux(made.streams.video[0]) if p.size)
        problem = _problem(name, picture, None, None)
        if problem:
            why = f"video ({codec_name(picture.stream)}): {problem}"
            return {clip.stream: UnsupportedStream(why, essential=True)}
        samples = _first_packets(source, clip) if source else {}
        for stream in source.streams if source else ():
            if stream.index == clip.stream or not is_wanted(stream, clip):
                continue
            problem = _problem(name, picture, stream, samples.get(stream.index))
            if problem:
                why = f"{stream.type} stream {stream.index} ({codec_name(stream)}): {problem}"
                essential = stream.type in ("audio", "subtitle")
                found[stream.index] = UnsupportedStream(why, essential)
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
            pairs.append((sample, add_stream(trial, other, name)))
        trial.start_encoding()
        for packet, stream in pairs:
            if packet is not None:
                copy = pyav().Packet(bytes(packet))
                copy.pts = copy.dts = 0
                copy.duration, copy.time_base = packet.duration, packet.time_base
                copy.is_keyframe, copy.stream = True, stream
                trial.mux(copy)
        trial.close()
    except (pyav().error.FFmpegError, ValueError, OSError) as error:
        return reason(error)
    finally:
        with suppress(Exception):
            trial.close()
    return ""


@contextmanager
def open_source(clip: Clip) -> Iterator[InputContainer | None]:
    """Open the input file; yields None if the input is an image sequence."""
    if clip.files:
        yield None
        return
    with open_video(clip.path) as container:
        yield container


def is_wanted(stream: Any, clip: Clip) -> bool:
    """Return whether the result has a stream: all but chapter tracks, which are regenerated."""
    return stream.index == clip.stream or bool(stream.discard != pyav().stream.Discard.all)


def codec_name(stream: Any) -> str:
    """Return FFmpeg's name of a stream's codec; ``data`` if it has none."""
    return stream.codec_context.name if stream.codec_context is not None else "data"


def add_stream(out: OutputContainer, stream: Any, name: str) -> Any:
    """Add a copy of an input stream to a container of format ``name``."""
    if stream.type == "attachment":
        tags = stream.metadata
        return out.add_attachment(tags.get("filename", "file"), stream.mimetype or "", stream.data)
    if stream.type == "subtitle" and name == "matroska" and codec_name(stream) == "mov_text":
        made = out.add_mux_stream("subrip")
        made.time_base = Fraction(1, 1000)
    else:
        made = out.add_stream_from_template(stream, opaque=True)
    made.disposition = stream.disposition
    for tag, value in stream.metadata.items():
        made.metadata[tag] = value
    return made

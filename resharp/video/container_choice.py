"""Which container a result goes into: every stream is tried in it before anything is restored."""

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
"""Those that keep timestamps, by the ending of a file's name."""
SOON = 5000
"""Packets among which the first of each stream is looked for."""


@dataclass(frozen=True)
class MuxPlan:
    """Where a result goes."""

    target: Path
    format: str
    """Of libav: ``mp4``, say."""
    left_out: tuple[int, ...] = ()
    """Indices of the input's streams that it cannot hold."""
    notes: tuple[str, ...] = ()


class UnsupportedStream(NamedTuple):
    """A stream that a container cannot hold."""

    why: str
    essential: bool
    """Whether it is the picture, sound or subtitles, so that another container is better."""


def choose_container(target: Path, clip: Clip, segment: Path) -> MuxPlan:
    """The container of a result: the one that is asked for, if it can hold everything.

    Args:
        target: as asked.
        clip: the input.
        segment: an encoded segment; any will do.

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
        wanted = target.suffix or "a name without ending"
        target = target.with_suffix({"mp4": ".mp4", "matroska": ".mkv"}[name])
        notes.append(
            f"{wanted} cannot carry it ({why or 'it does not keep timestamps as they are'}): the "
            f"result is {target.name}"
        )
    notes += [f"left out: {one.why}" for one in unsupported.values()]
    if name in ("matroska", "webm") and (clip.time_base * 1000).denominator != 1:
        notes.append(f"{target.suffix} counts milliseconds: timestamps are rounded to them")
    return MuxPlan(target, name, tuple(unsupported), tuple(notes))


def _unsupported(name: str, clip: Clip, segment: Path) -> dict[int, UnsupportedStream]:
    """Which streams a container cannot hold, and why: each is tried alone with the picture."""
    found = {}
    with open_source(clip) as source, open_video(segment) as made:
        picture = next(p for p in made.demux(made.streams.video[0]) if p.size)
        problem = _problem(name, picture, None, None)
        if problem:
            why = f"the picture ({codec_name(picture.stream)}): {problem}"
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
    """The first packet of each stream, of those that come soon."""
    wanted = {s.index for s in source.streams if is_wanted(s, clip) and s.type != "attachment"}
    found: dict[int, Any] = {}
    with suppress(pyav().error.FFmpegError):  # what is damaged is seen elsewhere
        for packet in islice(source.demux(), SOON):
            if packet.size and packet.stream.index in wanted:
                found.setdefault(packet.stream.index, packet)
            if len(found) == len(wanted):
                break
    return found


def _problem(name: str, picture: Any, other: Any, sample: Any) -> str:
    """Why a container cannot hold the picture and another stream; empty if it can.

    A packet of each is written, for some muxers complain only at the end, and only of those.
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
    """The file that the pictures are from; None where they are files."""
    if clip.files:
        yield None
        return
    with open_video(clip.path) as container:
        yield container


def is_wanted(stream: Any, clip: Clip) -> bool:
    """Whether a stream is in the result: all but those of chapters, which are made anew."""
    return stream.index == clip.stream or bool(stream.discard != pyav().stream.Discard.all)


def codec_name(stream: Any) -> str:
    """What libav calls a stream's codec; ``data`` where it has none."""
    return stream.codec_context.name if stream.codec_context is not None else "data"


def add_stream(out: OutputContainer, stream: Any, name: str) -> Any:
    """A stream of the input, in a container of that format."""
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

"""The result: all segments in a row, and all else of the input copied beside them."""

from __future__ import annotations

import heapq
import io
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resharp.errors import OutputError
from resharp.fsutil import commit_file
from resharp.video.clip import Clip, is_cover, opened
from resharp.video.encoding import VideoEncoder
from resharp.video.pyav import open_file, pyav, reason
from resharp.video.resume import Segment

if TYPE_CHECKING:
    from av.container.input import InputContainer
    from av.container.output import OutputContainer

CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
}
"""Those that keep timestamps, by the ending of a file's name."""
SOON = 5000
"""Packets among which the first of each stream is looked for."""
OURS = {"major_brand", "minor_version", "compatible_brands", "encoder"}
"""Tags that every file has of its own."""
MEASURED = ("DURATION", "BPS", "NUMBER_OF_", "_STATISTICS", "ENCODER")
"""Beginnings of tags of a stream that tell of its bytes, and not of the new ones."""
PLAIN_TAGS = {
    "title", "artist", "album", "album_artist", "author", "comment", "composer", "copyright",
    "creation_time", "date", "description", "disc", "encoded_by", "episode_id", "episode_sort",
    "genre", "grouping", "hd_video", "keywords", "location", "lyrics", "media_type", "network",
    "performer", "publisher", "season_number", "show", "sort_album", "sort_artist", "sort_name",
    "synopsis", "track", "year",
}  # fmt: skip
"""Tags that MP4 has places of its own for."""


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


def choose_delivery(target: Path, clip: Clip, segment: Path) -> MuxPlan:
    """The container of a result: the one that is asked for, if it can hold everything.

    Args:
        target: as asked.
        clip: the input.
        segment: an encoded segment; any will do.

    Raises:
        OutputError: not even Matroska can hold the video.
    """
    asked = CONTAINERS.get(target.suffix.lower())
    tried: dict[str, dict[int, UnsupportedStream]] = {}
    for name in dict.fromkeys([asked, "mp4", "matroska"]):
        if name is None or (asked in ("mp4", "mov") and name == "mp4" != asked):
            continue
        tried[name] = _refused(name, clip, segment)
        if not any(one.essential for one in tried[name].values()):
            return _delivery(target, name, tried[name], clip, tried.get(asked or "", {}))
    if clip.stream in tried["matroska"]:
        raise OutputError(f"no container can hold the result: {tried['matroska'][clip.stream].why}")
    return _delivery(target, "matroska", tried["matroska"], clip, tried.get(asked or "", {}))


def _delivery(
    target: Path,
    name: str,
    refused: dict[int, UnsupportedStream],
    clip: Clip,
    asked: dict[int, UnsupportedStream],
) -> MuxPlan:
    notes = []
    if CONTAINERS.get(target.suffix.lower()) != name:
        ending = {"mp4": ".mp4", "matroska": ".mkv"}[name]
        held = (
            "; ".join(sorted({one.why for one in asked.values()}))
            or "it does not keep timestamps as they are"
        )
        notes.append(
            f"{target.suffix or 'a name without ending'} cannot carry it ({held}): the "
            f"result is {target.with_suffix(ending).name}"
        )
        target = target.with_suffix(ending)
    notes += [f"left out: {one.why}" for one in refused.values()]
    if name in ("matroska", "webm") and (clip.time_base * 1000).denominator != 1:
        notes.append(f"{target.suffix} counts milliseconds: timestamps are rounded to them")
    return MuxPlan(target, name, tuple(refused), tuple(notes))


@contextmanager
def _around(clip: Clip) -> Iterator[InputContainer | None]:
    """The file that the pictures are from; None where they are files."""
    if clip.files:
        yield None
        return
    with opened(clip.path) as container:
        yield container


def _refused(name: str, clip: Clip, segment: Path) -> dict[int, UnsupportedStream]:
    """Which streams a container cannot hold, and why: each is tried alone with the picture."""
    refused = {}
    with _around(clip) as source, opened(segment) as made:
        picture = next(p for p in made.demux(made.streams.video[0]) if p.size)
        problem = _problem(name, picture, None, None)
        if problem:
            why = f"the picture ({_codec(picture.stream)}): {problem}"
            return {clip.stream: UnsupportedStream(why, essential=True)}
        samples = _samples(source, clip) if source else {}
        for stream in source.streams if source else ():
            if stream.index == clip.stream or not _wanted(stream, clip):
                continue
            problem = _problem(name, picture, stream, samples.get(stream.index))
            if problem:
                why = f"{stream.type} stream {stream.index} ({_codec(stream)}): {problem}"
                refused[stream.index] = UnsupportedStream(why, stream.type in ("audio", "subtitle"))
    return refused


def _samples(source: InputContainer, clip: Clip) -> dict[int, Any]:
    """The first packet of each stream, of those that come soon."""
    wanted = {s.index for s in source.streams if _wanted(s, clip) and s.type != "attachment"}
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
            pairs.append((sample, _add(trial, other, name)))
        trial.start_encoding()
        for packet, stream in pairs:
            if packet is not None:
                trial.mux(_copied(packet, stream))
        trial.close()
    except (pyav().error.FFmpegError, ValueError, OSError) as error:
        return reason(error)
    finally:
        with suppress(Exception):
            trial.close()
    return ""


def _copied(packet: Any, stream: Any) -> Any:
    copy = pyav().Packet(bytes(packet))
    copy.pts = copy.dts = 0
    copy.duration, copy.time_base = packet.duration, packet.time_base
    copy.is_keyframe, copy.stream = True, stream
    return copy


def _wanted(stream: Any, clip: Clip) -> bool:
    """Whether a stream is in the result: all but those of chapters, which are made anew."""
    return stream.index == clip.stream or bool(stream.discard != pyav().stream.Discard.all)


def _codec(stream: Any) -> str:
    return stream.codec_context.name if stream.codec_context is not None else "data"


def _add(out: OutputContainer, stream: Any, name: str) -> Any:
    """A stream of the input, in the result."""
    if stream.type == "attachment":
        tags = stream.metadata
        return out.add_attachment(tags.get("filename", "file"), stream.mimetype or "", stream.data)
    if stream.type == "subtitle" and name == "matroska" and _codec(stream) == "mov_text":
        made = out.add_mux_stream("subrip")
        made.time_base = Fraction(1, 1000)
    else:
        made = out.add_stream_from_template(stream, opaque=True)
    made.disposition = stream.disposition
    for tag, value in stream.metadata.items():
        made.metadata[tag] = value
    return made


def deliver(
    delivery: MuxPlan,
    clip: Clip,
    encoder: VideoEncoder,
    segments: Sequence[Segment],
    folder: Path,
    cut: tuple[Fraction, Fraction | None] | None = None,
) -> str:
    """Write the result, whole or not at all.

    Args:
        delivery: where to.
        clip: the input, for all but the picture.
        encoder: of the segments.
        segments: all, in order.
        folder: where they are.
        cut: seconds of the input that the result begins and ends at, counted from the first
            picture; None: all of it.

    Returns:
        What the user should know; empty if nothing.

    Raises:
        OutputError: it cannot be written.
    """
    target = delivery.target
    part = target.with_name(f".{target.name}.part")
    try:
        with ExitStack() as stack:
            lost = _write(delivery, clip, encoder, segments, folder, cut, part, stack)
        commit_file(part, target)
        return f"{lost} damaged packets of sound or text were left out" if lost else ""
    except (pyav().error.FFmpegError, OSError) as error:
        raise OutputError(
            f"{target} cannot be written: {reason(error)}. All frames are finished and kept in "
            f"{folder}: free space or mend what it says, and run the same again"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _write(
    delivery: MuxPlan,
    clip: Clip,
    encoder: VideoEncoder,
    segments: Sequence[Segment],
    folder: Path,
    cut: tuple[Fraction, Fraction | None] | None,
    part: Path,
    stack: ExitStack,
) -> int:
    """Write it all; how many damaged packets were left out."""
    source = stack.enter_context(_around(clip))
    found = source.metadata if source else {}
    tags = {key: value for key, value in found.items() if key.lower() not in OURS}
    out = stack.enter_context(
        open_file(
            os.fspath(part),
            "w",
            format=delivery.format,
            container_options=_muxer_options(delivery, encoder, tags),
        )
    )
    template = stack.enter_context(opened(folder / str(segments[0].file)))
    streams = _streams(out, source, template.streams.video[0], clip, encoder, delivery)
    out.metadata.update(tags)
    shift = _Shift(clip, cut)
    out.set_chapters(list(shift.chapters(source.chapters() if source else [])))
    out.start_encoding()
    picture = _picture_packets(streams[clip.stream], encoder, segments, folder)
    others = _other_packets(source, streams, clip, shift, delivery) if source else iter(())
    lost = 0
    for _, place, packet in heapq.merge(picture, others, key=lambda item: item[:2]):
        try:
            out.mux(packet)
        except (pyav().error.InvalidDataError, ValueError):
            if not place:  # one of ours
                raise
            lost += 1
    return lost


def _muxer_options(
    delivery: MuxPlan, encoder: VideoEncoder, tags: dict[str, str]
) -> dict[str, str]:
    if delivery.format not in ("mp4", "mov"):
        # Else all would be moved, the picture too, for sound that begins before zero.
        return {"avoid_negative_ts": "disabled"}
    options = {"movie_timescale": str(encoder.time_base.denominator)}
    if {tag.lower() for tag in tags} - PLAIN_TAGS:
        options["movflags"] = "use_metadata_tags"
    return options


def _streams(
    out: OutputContainer, source: Any, template: Any, clip: Clip, encoder: VideoEncoder, to: MuxPlan
) -> dict[int, Any]:
    """The result's streams by the index that they have in the input, in the input's order."""
    made = {}
    for stream in source.streams if source else [None]:
        if stream is None or stream.index == clip.stream:
            made[clip.stream] = _add_picture(out, template, stream, clip, encoder, to)
        elif _wanted(stream, clip) and stream.index not in to.left_out:
            made[stream.index] = _add(out, stream, to.format)
    return made


def _add_picture(
    out: OutputContainer, template: Any, stream: Any, clip: Clip, encoder: VideoEncoder, to: MuxPlan
) -> Any:
    """The restored picture, with what the input's stream says."""
    picture = out.add_stream_from_template(template, opaque=True)
    picture.time_base = encoder.time_base
    _tag(picture.codec_context, encoder)
    if template.codec_context.name == "hevc" and to.format in ("mp4", "mov"):
        picture.codec_context.codec_tag = "hvc1"  # the one that Apple's players know
    if clip.matrix is not None:
        picture.set_display_matrix(_scaled(clip, encoder))
    if stream is not None:
        for tag, value in stream.metadata.items():
            if not tag.upper().startswith(MEASURED):
                picture.metadata[tag] = value
        picture.disposition = stream.disposition
    return picture


def _tag(context: Any, encoder: VideoEncoder) -> None:
    """What the container says of the picture, for codecs that do not say it themselves."""
    context.framerate = encoder.rate
    if encoder.aspect is not None:
        context.sample_aspect_ratio = encoder.aspect
    context.color_range, context.colorspace = encoder.color.range, encoder.color.matrix
    context.color_primaries, context.color_trc = encoder.color.primaries, encoder.color.transfer


def _scaled(clip: Clip, encoder: VideoEncoder) -> list[int]:
    """The display matrix, whose shift is in pixels."""
    assert clip.matrix is not None
    numbers = list(clip.matrix)
    numbers[6] = numbers[6] * encoder.width // clip.width
    numbers[7] = numbers[7] * encoder.height // clip.height
    return numbers


class _Shift:
    """Moves what is copied to where the result begins."""

    def __init__(self, clip: Clip, cut: tuple[Fraction, Fraction | None] | None) -> None:
        first = clip.first * clip.time_base
        self.begin = None if cut is None or not cut[0] else first + cut[0]
        self.end = None if cut is None or cut[1] is None else first + cut[1]

    def packet(self, packet: Any) -> Any:
        """A packet in its new place; None if it is outside."""
        time, base = packet.pts if packet.pts is not None else packet.dts, packet.time_base
        if time is None or base is None:
            return packet if self.begin is None and self.end is None else None
        if self.end is not None and time * base >= self.end:
            return None
        if self.begin is None:
            return packet
        ticks = round(self.begin / base)
        late = ticks - time
        if late > 0:
            if packet.stream.type != "subtitle" or (packet.duration or 0) <= late:
                return None
            packet.duration -= late  # a line that is on the screen at the cut stays there
            packet.pts = packet.dts = ticks
        packet.pts = None if packet.pts is None else packet.pts - ticks
        packet.dts = None if packet.dts is None else packet.dts - ticks
        return packet

    def chapters(self, chapters: Sequence[Any]) -> Iterator[Any]:
        """The chapters that are inside, in their new places."""
        for chapter in chapters:
            base = chapter["time_base"]
            begin = 0 if self.begin is None else round(self.begin / base)
            end = (
                chapter["end"] if self.end is None else min(chapter["end"], round(self.end / base))
            )
            if max(chapter["start"], begin) < end:
                yield chapter | {"start": max(chapter["start"] - begin, 0), "end": end - begin}


Timed = tuple[Fraction, int, Any]
"""A packet with its decoding time in seconds, and 0 for the picture to go first."""


def _picture_packets(
    stream: Any, encoder: VideoEncoder, segments: Sequence[Segment], folder: Path
) -> Iterator[Timed]:
    """The packets of all segments, with decoding times that never run back."""
    times = _Times(segments, encoder)
    for segment in segments:
        with opened(folder / str(segment.file)) as container:
            count = 0
            for packet in container.demux(container.streams.video[0]):
                if not packet.size:
                    continue
                pts = segment.times[0] + _rescaled(packet, encoder)
                packet.time_base, packet.stream = encoder.time_base, stream
                dts, duration = times.next(pts)
                packet.pts, packet.dts, packet.duration = pts, dts, duration
                count += 1
                yield dts * encoder.time_base, 0, packet
        if count != len(segment.times):
            raise OutputError(
                f"segment {segment.file} holds {count} frames and not {len(segment.times)}: remove "
                f"{folder} and run it again"
            )


def _rescaled(packet: Any, encoder: VideoEncoder) -> int:
    return round(Fraction(packet.pts * packet.time_base) / encoder.time_base)


class _Times:
    """Decoding times and durations, from the order in which frames are shown."""

    def __init__(self, segments: Sequence[Segment], encoder: VideoEncoder) -> None:
        self._all = [time for segment in segments for time in segment.times]
        usual = max(round(1 / (encoder.rate * encoder.time_base)), 1)
        self._end = self._all[-1] + (segments[-1].duration or usual)
        self._count, self._delay = 0, max(segment.delay for segment in segments)
        self._first_dts = self._all[0] - self._delay * self._after(self._all[0])

    def next(self, pts: int) -> tuple[int, int]:
        """Decoding time and duration of the next packet."""
        index, self._count = self._count - self._delay, self._count + 1
        dts = self._all[index] if index >= 0 else self._all[0] + index * self._after(self._all[0])
        if self._count == len(self._all):  # MP4 ends there: as late as the picture is shown
            return dts, max(self._end - self._all[0] - (dts - self._first_dts), 1)
        return dts, self._after(pts)

    def _after(self, pts: int) -> int:
        """Ticks from a frame to the next."""
        index = bisect_right(self._all, pts)
        return (self._all[index] if index < len(self._all) else self._end) - pts


def _other_packets(
    source: Any, streams: dict[int, Any], clip: Clip, shift: _Shift, to: MuxPlan
) -> Iterator[Timed]:
    """Sound, subtitles and data of the input, as they are."""
    copied = [
        stream
        for stream in source.streams
        if stream.index in streams and stream.index != clip.stream and stream.type != "attachment"
    ]
    now = Fraction(-(10**9))
    last: dict[int, int] = {}
    strict = to.format in ("mp4", "mov")
    for packet in source.demux(copied) if copied else ():
        index = packet.stream.index
        timed_text = _codec(packet.stream) == "mov_text"
        if not packet.size or (timed_text and packet.size <= 2):
            continue  # an empty line stands for a pause, which muxers write themselves
        cover = is_cover(packet.stream) if packet.stream.type == "video" else False
        moved = packet if cover else shift.packet(packet)
        if moved is None:
            continue
        if timed_text and to.format == "matroska":
            moved = _as_text(moved)
        moved.stream = streams[index]
        if moved.dts is not None:
            if strict and moved.dts <= last.get(index, moved.dts - 1):  # MP4 refuses such
                moved.dts = last[index] + 1
                moved.pts = max(moved.pts if moved.pts is not None else moved.dts, moved.dts)
            last[index] = moved.dts
            now = max(now, moved.dts * (moved.time_base or Fraction(1)))
        yield now, 1 + index, moved


def _as_text(packet: Any) -> Any:
    """A line of MP4's timed text as one of SubRip: without the length before, and styles after."""
    data = bytes(packet)
    size = int.from_bytes(data[:2], "big")
    text = pyav().Packet(data[2 : 2 + size])
    text.pts, text.dts, text.duration = packet.pts, packet.pts, packet.duration
    text.time_base = packet.time_base
    return text

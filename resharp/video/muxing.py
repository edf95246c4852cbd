"""Muxing of the result: all segments joined, and everything else copied from the input."""

from __future__ import annotations

import heapq
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resharp.errors import OutputError
from resharp.fsutil import remove_leftovers, replacing
from resharp.video.clip import Clip
from resharp.video.container_choice import OURS, MuxPlan, add_stream, is_wanted, open_source
from resharp.video.encoding import VideoEncoder
from resharp.video.options import VideoOptions
from resharp.video.pyav import open_file, open_video, pyav, reason
from resharp.video.resume import Segment
from resharp.video.side_data import optional
from resharp.video.streams import codec_name, is_cover, is_time_code
from resharp.video.timestamps import CutShift, DecodingTimes

if TYPE_CHECKING:
    from av.container.output import OutputContainer

MEASURED = ("DURATION", "BPS", "NUMBER_OF_", "_STATISTICS", "ENCODER", "ALPHA_MODE")
"""Prefixes of stream tags that describe the bytes of the input, not of the result."""
PLAIN_TAGS = {
    "title", "artist", "album", "album_artist", "author", "comment", "composer", "copyright",
    "creation_time", "date", "description", "disc", "encoded_by", "episode_id", "episode_sort",
    "genre", "grouping", "hd_video", "keywords", "location", "lyrics", "media_type", "network",
    "performer", "publisher", "season_number", "show", "sort_album", "sort_artist", "sort_name",
    "synopsis", "track", "year",
}  # fmt: skip
"""Tags that MP4 has dedicated fields for."""


class _Expected(NamedTuple):
    """What a result should hold."""

    kinds: Counter[str]
    """Number of streams of each type."""
    time_code: str | None
    damaged: int
    """Packets that were refused, and are left out."""


Timed = tuple[Fraction, int, Any]
"""Decoding time in seconds, rank of the stream (0 for the video, which goes first) and packet."""


def mux(
    plan: MuxPlan,
    clip: Clip,
    options: VideoOptions,
    encoder: VideoEncoder,
    segments: Sequence[Segment],
    folder: Path,
    record: Callable[[Path], object],
) -> tuple[str, ...]:
    """Write the result, completely or not at all.

    Args:
        plan: path and container of the result.
        clip: the input, from which everything but the video is copied.
        options: start and end of the result.
        encoder: encoder settings of the segments.
        segments: all segments, in order.
        folder: folder of the segments.
        record: called with the complete file before it takes its name.

    Returns:
        Notes for the user on what is not in the result.

    Raises:
        OutputError: the result cannot be written.
    """
    shift = CutShift(clip, options.start, options.end)
    nothing: list[str] = []
    with recorded_result(plan.target, folder, record) as part:
        expected = _write(part, plan, clip, shift, encoder, segments, folder)
        notes = optional("the result", lambda: list(_missing(part, expected)), nothing)
    if _translation(clip, encoder) is None:
        notes.append("the translation of the display matrix is left out: it is too large")
    return tuple(notes)


@contextmanager
def recorded_result(target: Path, folder: Path, record: Callable[[Path], object]) -> Iterator[Path]:
    """Yield a file to write; at the end it is recorded and becomes the result.

    Args:
        target: path of the result.
        folder: folder of the segments, for the error message.
        record: called with the complete file before it takes its name.

    Raises:
        OutputError: the result cannot be written; nothing of it is left.
    """
    try:
        remove_leftovers(target)
        with replacing(target) as part:
            yield part
            record(part)
    except (pyav().error.FFmpegError, OSError) as error:
        raise OutputError(
            f"cannot write {target}: {reason(error)}. All frames are finished and kept in "
            f"{folder}: free space or fix the cause, then run it again to resume."
        ) from error


def _write(
    part: Path,
    plan: MuxPlan,
    clip: Clip,
    shift: CutShift,
    encoder: VideoEncoder,
    segments: Sequence[Segment],
    folder: Path,
) -> _Expected:
    """Write all streams, and return what the result should hold."""
    with open_source(clip) as source:
        found = source.metadata if source else {}
        tags = {key: value for key, value in found.items() if key.lower() not in OURS}
        if plan.format not in ("mp4", "mov"):
            # Otherwise audio that begins before zero would shift all streams, video included.
            how = {"avoid_negative_ts": "disabled"}
            how["fflags"] = "bitexact"  # identifiers would be random
        else:
            how = {"movie_timescale": str(encoder.time_base.denominator)}
            if {tag.lower() for tag in tags} - PLAIN_TAGS:
                how["movflags"] = "use_metadata_tags"
        with (
            open_file(os.fspath(part), "w", format=plan.format, container_options=how) as out,
            open_video(folder / str(segments[0].file)) as template,
        ):
            streams = {}  # by index in the input, in its order
            for stream in source.streams if source else [None]:
                if stream is None or stream.index == clip.stream:
                    made = _add_picture(out, plan, template.streams.video[0], stream, clip, encoder)
                    if source and (code := _time_code(source, stream, clip, shift, encoder)):
                        made.metadata["timecode"] = code
                        tags |= {name: code for name in tags if name.lower() == "timecode"}
                    streams[clip.stream] = made
                elif is_wanted(stream, clip) and stream.index not in plan.left_out:
                    streams[stream.index] = add_stream(out, stream, plan.format)
            if plan.format in ("mp4", "mov"):
                _mark_default(streams[clip.stream], streams.values())
            out.metadata.update(tags)
            out.set_chapters(list(shift.chapters(source.chapters() if source else [])))
            out.start_encoding()
            picture = _picture_packets(streams[clip.stream], encoder, segments, folder)
            others = _other_packets(source, streams, clip, shift, plan) if source else iter(())
            lost = 0
            for _, place, packet in heapq.merge(picture, others, key=lambda item: item[:2]):
                try:
                    out.mux(packet)
                except (pyav().error.InvalidDataError, ValueError):
                    if not place:  # a packet of the restored video
                        raise
                    lost += 1
            kinds = Counter(_kind(stream) for stream in streams.values())
            return _Expected(kinds, streams[clip.stream].metadata.get("timecode"), lost)


def _mark_default(picture: Any, streams: Iterable[Any]) -> None:
    """Mark the restored stream as the default if no video is; MP4 would mark the first."""
    default = int(pyav().stream.Disposition.default)
    videos = [one for one in streams if one.type == "video" and not is_cover(one)]
    if len(videos) > 1 and not any(int(one.disposition) & default for one in videos):
        picture.disposition = int(picture.disposition) | default


def _kind(stream: Any) -> str:
    """Return the type of a stream; Matroska reads attached images as video."""
    mimetype = stream.mimetype if stream.type == "attachment" else None
    return "video" if (mimetype or "").startswith("image/") else str(stream.type)


def _missing(path: Path, expected: _Expected) -> Iterator[str]:
    """Yield a note for each thing that is not in a finished file."""
    if expected.damaged:
        yield f"{expected.damaged} damaged audio or subtitle packets are left out"
    with open_video(path) as made:
        found = Counter(_kind(stream) for stream in made.streams)
        tags = [made.metadata, *(stream.metadata for stream in made.streams)]
        codes = {value for one in tags for name, value in one.items() if name.lower() == "timecode"}
    for kind, count in expected.kinds.items():
        if found[kind] < count:
            yield f"{count - found[kind]} of {count} {kind} streams are missing in the result"
    if expected.time_code and expected.time_code not in codes:
        yield f"the time code {expected.time_code} is left out: the result cannot hold it"


def _add_picture(
    out: OutputContainer,
    plan: MuxPlan,
    template: Any,
    source: Any,
    clip: Clip,
    encoder: VideoEncoder,
) -> Any:
    """Add the restored video stream, with the tags of the one in the input."""
    picture = out.add_stream_from_template(template, opaque=True)
    picture.time_base = encoder.time_base
    context = picture.codec_context
    context.framerate = encoder.rate
    encoder.tag(context)  # for codecs whose bitstream does not hold it
    if template.codec_context.name == "hevc" and plan.format in ("mp4", "mov"):
        context.codec_tag = "hvc1"  # the one that Apple's players support
    if clip.matrix is not None:
        shift = _translation(clip, encoder) or (0, 0)
        picture.set_display_matrix([*clip.matrix[:6], *shift, clip.matrix[8]])
    if source is not None:
        for tag, value in source.metadata.items():
            if not tag.upper().startswith(MEASURED):
                picture.metadata[tag] = value
        picture.disposition = source.disposition
    return picture


def _translation(clip: Clip, encoder: VideoEncoder) -> tuple[int, int] | None:
    """Return the translation of the display matrix in pixels; None if it is too large."""
    if clip.matrix is None:
        return 0, 0
    across, down = clip.matrix[6:8]
    shift = (across * encoder.width // clip.width, down * encoder.height // clip.height)
    return shift if max(map(abs, shift)) < 1 << 31 else None


def _time_code(source: Any, stream: Any, clip: Clip, shift: CutShift, encoder: VideoEncoder) -> str:
    """Return the time code of the result's first frame; empty if the input has none."""
    holders = [stream, source, *filter(is_time_code, source.streams)]
    codes = (one.metadata.get("timecode", "") for one in holders)
    return shift.time_code(next(filter(None, codes), ""), clip.rate, encoder.rate)


def _picture_packets(
    stream: Any, encoder: VideoEncoder, segments: Sequence[Segment], folder: Path
) -> Iterator[Timed]:
    """Yield the packets of all segments, with decoding times that never decrease."""
    times, base = DecodingTimes(segments, encoder), encoder.time_base
    packet: Any
    for segment in segments:
        with open_video(folder / str(segment.file)) as container:
            count = 0
            for packet in container.demux(container.streams.video[0]):
                if not packet.size:
                    continue
                pts = segment.times[0] + round(Fraction(packet.pts * packet.time_base) / base)
                packet.time_base, packet.stream = base, stream
                dts, duration = times.next(pts)
                packet.pts, packet.dts, packet.duration = pts, dts, duration
                count += 1
                yield dts * base, 0, packet
        if count != len(segment.times):
            raise OutputError(
                f"segment {segment.file} holds {count} frames instead of {len(segment.times)}: "
                f"remove {folder} and run it again"
            )


def _other_packets(
    source: Any, streams: dict[int, Any], clip: Clip, shift: CutShift, plan: MuxPlan
) -> Iterator[Timed]:
    """Yield the packets of audio, subtitles and other streams, copied from the input."""
    copied = [
        stream
        for stream in source.streams
        if stream.index in streams
        and stream.index != clip.stream
        and streams[stream.index].type != "attachment"
    ]
    now = Fraction(-(10**9))
    last: dict[int, int] = {}
    strict = plan.format in ("mp4", "mov")
    for packet in source.demux(copied) if copied else ():
        index = packet.stream.index
        timed_text = codec_name(packet.stream) == "mov_text"
        if not packet.size or (timed_text and packet.size <= 2):
            continue  # an empty line marks a pause, which muxers write themselves
        cover = is_cover(packet.stream) if packet.stream.type == "video" else False
        moved = packet if cover else shift.packet(packet)
        if moved is None:
            continue
        if timed_text and plan.format == "matroska":
            moved = _as_text(moved)
        moved.stream = streams[index]
        if moved.dts is not None:
            if strict and moved.dts <= last.get(index, moved.dts - 1):  # MP4 rejects such times
                moved.dts = last[index] + 1
                moved.pts = max(moved.pts if moved.pts is not None else moved.dts, moved.dts)
            last[index] = moved.dts
            now = max(now, moved.dts * (moved.time_base or Fraction(1)))
        yield now, 1 + index, moved


def _as_text(packet: Any) -> Any:
    """Convert a line of MP4 timed text to SubRip: drop the length before and the styles after."""
    data = bytes(packet)
    size = int.from_bytes(data[:2], "big")
    text = pyav().Packet(data[2 : 2 + size])
    text.pts, text.dts, text.duration = packet.pts, packet.pts, packet.duration
    text.time_base = packet.time_base
    return text

"""The result: all segments in a row, and all else of the input copied with them."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resharp.errors import OutputError
from resharp.fsutil import commit_file
from resharp.video.clip import Clip, is_cover
from resharp.video.container_choice import MuxPlan, add_stream, codec_name, is_wanted, open_source
from resharp.video.encoding import VideoEncoder
from resharp.video.options import VideoOptions
from resharp.video.pyav import open_file, open_video, pyav, reason
from resharp.video.resume import Segment
from resharp.video.timestamps import CutShift, DecodingTimes

if TYPE_CHECKING:
    from av.container.output import OutputContainer

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
Timed = tuple[Fraction, int, Any]
"""A packet with its decoding time in seconds, and 0 for the picture to go first."""


def mux(
    plan: MuxPlan,
    clip: Clip,
    options: VideoOptions,
    encoder: VideoEncoder,
    segments: Sequence[Segment],
    folder: Path,
) -> str:
    """Write the result, whole or not at all.

    Args:
        plan: where to.
        clip: the input, for all but the picture.
        options: where the result begins and ends.
        encoder: of the segments.
        segments: all, in order.
        folder: where they are.

    Returns:
        What the user should know; empty if nothing.

    Raises:
        OutputError: it cannot be written.
    """
    target = plan.target
    part = target.with_name(f".{target.name}.part")
    shift = CutShift(clip, options.start, options.end)
    try:
        lost = _write(part, plan, clip, shift, encoder, segments, folder)
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
    part: Path,
    plan: MuxPlan,
    clip: Clip,
    shift: CutShift,
    encoder: VideoEncoder,
    segments: Sequence[Segment],
    folder: Path,
) -> int:
    """Write it all; how many damaged packets were left out."""
    with open_source(clip) as source:
        found = source.metadata if source else {}
        tags = {key: value for key, value in found.items() if key.lower() not in OURS}
        if plan.format not in ("mp4", "mov"):
            # Else all would be moved, the picture too, for sound that begins before zero.
            how = {"avoid_negative_ts": "disabled"}
        else:
            how = {"movie_timescale": str(encoder.time_base.denominator)}
            if {tag.lower() for tag in tags} - PLAIN_TAGS:
                how["movflags"] = "use_metadata_tags"
        with (
            open_file(os.fspath(part), "w", format=plan.format, container_options=how) as out,
            open_video(folder / str(segments[0].file)) as template,
        ):
            streams = {}  # by the index in the input, in the input's order
            for stream in source.streams if source else [None]:
                if stream is None or stream.index == clip.stream:
                    made = _add_picture(out, plan, template.streams.video[0], stream, clip, encoder)
                    streams[clip.stream] = made
                elif is_wanted(stream, clip) and stream.index not in plan.left_out:
                    streams[stream.index] = add_stream(out, stream, plan.format)
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
                    if not place:  # one of ours
                        raise
                    lost += 1
            return lost


def _add_picture(
    out: OutputContainer,
    plan: MuxPlan,
    template: Any,
    source: Any,
    clip: Clip,
    encoder: VideoEncoder,
) -> Any:
    """The stream of the restored picture, with what that of the input says."""
    picture = out.add_stream_from_template(template, opaque=True)
    picture.time_base = encoder.time_base
    context = picture.codec_context
    context.framerate = encoder.rate
    encoder.tag(context)  # for codecs that do not say it themselves
    if template.codec_context.name == "hevc" and plan.format in ("mp4", "mov"):
        context.codec_tag = "hvc1"  # the one that Apple's players know
    if clip.matrix is not None:
        numbers = list(clip.matrix)  # its shift is in pixels
        numbers[6] = numbers[6] * encoder.width // clip.width
        numbers[7] = numbers[7] * encoder.height // clip.height
        picture.set_display_matrix(numbers)
    if source is not None:
        for tag, value in source.metadata.items():
            if not tag.upper().startswith(MEASURED):
                picture.metadata[tag] = value
        picture.disposition = source.disposition
    return picture


def _picture_packets(
    stream: Any, encoder: VideoEncoder, segments: Sequence[Segment], folder: Path
) -> Iterator[Timed]:
    """The packets of all segments, with decoding times that never run back."""
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
                f"segment {segment.file} holds {count} frames and not {len(segment.times)}: remove "
                f"{folder} and run it again"
            )


def _other_packets(
    source: Any, streams: dict[int, Any], clip: Clip, shift: CutShift, plan: MuxPlan
) -> Iterator[Timed]:
    """Sound, subtitles and data of the input, as they are."""
    copied = [
        stream
        for stream in source.streams
        if stream.index in streams and stream.index != clip.stream and stream.type != "attachment"
    ]
    now = Fraction(-(10**9))
    last: dict[int, int] = {}
    strict = plan.format in ("mp4", "mov")
    for packet in source.demux(copied) if copied else ():
        index = packet.stream.index
        timed_text = codec_name(packet.stream) == "mov_text"
        if not packet.size or (timed_text and packet.size <= 2):
            continue  # an empty line stands for a pause, which muxers write themselves
        cover = is_cover(packet.stream) if packet.stream.type == "video" else False
        moved = packet if cover else shift.packet(packet)
        if moved is None:
            continue
        if timed_text and plan.format == "matroska":
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

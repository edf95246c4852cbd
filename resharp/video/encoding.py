"""Encoding of segments: runs of frames in a file of their own, which is complete or absent."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resharp.checks import shortened, shown
from resharp.errors import OptionError, OutputError
from resharp.fsutil import commit_file
from resharp.types import Image
from resharp.video.clip import Clip
from resharp.video.color import BT709, FULL, LIMITED, RGB, Color, PixelFormat, pixel_format
from resharp.video.options import CODECS, VideoOptions
from resharp.video.pyav import pyav, reason
from resharp.video.side_data import Mastering
from resharp.video.timeline import timing

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

LARGEST_DELAY = 16
"""Largest number of frames by which codecs reorder."""
SLICED = 8
"""Pixels of the shorter side from which on ffv1 divides any frame into 16 slices."""
SEGMENT_FORMAT = "mp4"
"""MP4 preserves timestamps of any time base, and all properties in the stream's header."""


@dataclass(frozen=True)
class HdrParameters:
    """How an encoder takes HDR mastering metadata."""

    key: str
    """Option that holds the parameters."""
    display: str
    light: str
    unit: int | None = 50_000
    """Parts of 1 in which chromaticity is counted; None: it is a decimal number."""
    level: int | None = 10_000
    """Parts of 1 cd/m2 in which luminance is counted; None: it is a decimal number."""


MASTERING = "HDR mastering metadata (display brightness)"
HDR_PARAMETERS = {
    "libx264": HdrParameters("x264-params", "mastering-display", "cll"),
    "libx265": HdrParameters("x265-params", "master-display", "max-cll"),
    "libsvtav1": HdrParameters(
        "svtav1-params", "mastering-display", "content-light", unit=None, level=None
    ),
}
"""Encoders that write HDR mastering metadata."""


LONGEST_SIDE = 65_535
"""Pixels per side that a track of MP4, in which segments are kept, can state."""


@dataclass(frozen=True, kw_only=True)
class VideoEncoder:
    """Encoder settings of the result."""

    name: str
    """FFmpeg's name of the encoder."""
    options: tuple[tuple[str, str], ...]
    width: int
    """Width in pixels, padded to an even number where the pixel format requires it."""
    height: int
    form: PixelFormat
    color: Color
    time_base: Fraction
    rate: Fraction
    aspect: Fraction | None
    threads: int
    notes: tuple[str, ...] = ()
    """Notes for the user about what is lost."""

    def tag(self, context: Any) -> None:
        """Set the aspect ratio and color properties of a codec context."""
        if self.aspect is not None:
            context.sample_aspect_ratio = self.aspect
        context.color_range, context.colorspace = self.color.range, self.color.matrix
        context.color_primaries, context.color_trc = self.color.primaries, self.color.transfer


def choose_encoder(
    clip: Clip, options: VideoOptions, width: int, height: int, threads: int
) -> VideoEncoder:
    """Choose the encoder of the result.

    Args:
        clip: the input.
        options: options of the video.
        width: width of the restored frames.
        height: height of the restored frames.
        threads: number of encoder threads.

    Raises:
        OptionError: this build of FFmpeg lacks the encoder, or ``crf`` or ``pixel_format`` does
            not fit it.
        OutputError: the frames are larger than a video can hold.
    """
    if max(width, height) > LONGEST_SIDE:
        raise OutputError(
            f"{clip.path}: videos hold at most {LONGEST_SIDE} pixels per side, but the result "
            f"would be {width} x {height}. Use a smaller `scale`."
        )
    codec = options.codec if options.codec != "auto" else ("h264", "hevc")[clip.form.depth > 8]
    options = replace(options, codec=codec)  # this checks the crf
    name = _available_encoder(options.encoder, codec)
    form, lost = _choose_format(name, clip.form, options.pixel_format)
    color = _color_in(form, clip, lossless=name == "ffv1")
    mastering, note = _mastering(name, clip.mastering)
    lost = (*lost, note) if note else lost
    even_width, even_height = width + width % form.across, height + height % form.down
    if (even_width, even_height) != (width, height):
        sides = f"from {width}x{height} to {even_width}x{even_height}"
        note = f"frames are padded {sides}, as {form.name} requires"
        lost = (*lost, note)
    time_base, rate = timing(clip, options)
    return VideoEncoder(
        name=name,
        options=_options(name, codec, options, threads, mastering, min(even_width, even_height)),
        width=even_width,
        height=even_height,
        form=form,
        color=color,
        time_base=time_base,
        rate=rate,
        aspect=clip.aspect,
        threads=threads,
        notes=lost,
    )


class AlphaWatch:
    """Looks for transparency that an encoder does not support.

    Formats with alpha often hold opaque frames only, which lose nothing without it.

    Args:
        encoder: encoder settings; None if frames are written as image files.
    """

    def __init__(self, encoder: VideoEncoder | None) -> None:
        self._name = encoder.name if encoder is not None and not encoder.form.alpha else None

    def note(self, image: Image) -> str:
        """Return a note about the first frame that loses something; else an empty string."""
        if self._name is None or image.shape[2] < 4:
            return ""
        if image[:, :, 3].min() == np.iinfo(image.dtype).max:
            return ""
        name, self._name = self._name, None
        return f"transparency is left out: {name} cannot hold it, `codec` ffv1 can"


def _available_encoder(asked: str | None, codec: str) -> str:
    wanted = (asked,) if asked else CODECS[codec].encoders
    for name in wanted:
        if _is_encoder(name):
            return name
    able = [name for name in CODECS if has_encoder(name)]
    missing = shortened(" or ".join(wanted))
    raise OptionError(
        f"this build of FFmpeg (PyAV {pyav().__version__}) has no encoder {missing}: "
        f"use `codec` {' or '.join(able)}"
    )


def has_encoder(codec: str) -> bool:
    """Return whether this build of FFmpeg can write a codec, one of :data:`CODECS`."""
    return any(map(_is_encoder, CODECS[codec].encoders))


def _is_encoder(name: str) -> bool:
    av = pyav()
    try:
        return bool(av.codec.Codec(name, "w").type == "video")
    except (ValueError, av.error.FFmpegError):
        return False


def _choose_format(
    name: str, source: PixelFormat, asked: str | None
) -> tuple[PixelFormat, tuple[str, ...]]:
    """Return the format asked for, or the encoder's closest, and notes about what is lost."""
    lossless = name == "ffv1"
    known = pyav().codec.Codec(name, "w").video_formats or ()
    able = [pixel_format(one.name) for one in known if not one.name.startswith("yuvj")]
    able = [one for one in able if one.depth >= 8 and (lossless or not one.alpha)]
    able = able or [pixel_format("yuv420p")]
    wanted = source
    if not lossless and (source.rgb or source.gray):  # players expect 4:2:0
        wanted = replace(source, across=2, down=2)
    if asked is None:
        found = min(able, key=lambda one: _distance(wanted, one, lossless=lossless))
    else:
        wanted = source
        names = [one.name for one in able]
        if asked not in names:
            raise OptionError(
                f"`pixel_format` must be one of {name}'s ({', '.join(names)}), got {shown(asked)}"
            )
        found = able[names.index(asked)]
    lost = []
    if found.depth < source.depth:
        most = "as `pixel_format` asks" if asked else f"the most that {name} holds"
        lost.append(f"colors are rounded to {found.depth} bits, {most}")
    if found.gray and not source.gray:
        lost.append(f"color is left out: `pixel_format` {found.name} cannot hold it")
    elif not wanted.gray and (found.across > wanted.across or found.down > wanted.down):
        lost.append(f"chroma is stored at a lower resolution ({found.name})")
    return found, tuple(lost)


def _color_in(form: PixelFormat, clip: Clip, *, lossless: bool) -> Color:
    """Return the color properties of the result, whose format may be of another family."""
    color = clip.color
    if form.rgb:
        return replace(color, range=FULL, matrix=RGB)
    if form.gray:  # libswscale writes gray in full range only
        return replace(color, range=FULL, matrix=BT709 if color.matrix == RGB else color.matrix)
    if color.matrix == RGB or (clip.form.gray and color.range == FULL and not lossless):
        return replace(color, range=LIMITED, matrix=BT709)
    return color


def _distance(wanted: PixelFormat, one: PixelFormat, *, lossless: bool) -> tuple[Any, ...]:
    """Return a sort key for how badly a format fits; the first differing entry decides."""
    depth = wanted.depth if lossless or wanted.depth <= 12 else 10  # players support 10 bits
    planar = one.name.startswith(("yuv", "gbr", "gray"))
    return (
        wanted.alpha and not one.alpha,
        max(depth - one.depth, 0),
        # Players handle gray and RGB formats of lossy codecs badly, so they become YUV.
        one.gray,
        one.rgb != (wanted.rgb and lossless),
        not wanted.gray and (one.across > wanted.across or one.down > wanted.down),
        abs(one.depth - depth),
        abs(one.across - (2 if wanted.gray else wanted.across))
        + abs(one.down - (2 if wanted.gray else wanted.down)),
        one.alpha and not wanted.alpha,
        not planar and not one.rgb,
        one.name,
    )


def _mastering(name: str, found: Mastering | None) -> tuple[str, str]:
    """Return HDR mastering metadata as the encoder's parameters, and a note if it is lost."""
    if found is None:
        return "", ""
    form, parts, note = HDR_PARAMETERS.get(name), [], ""
    if form is None:
        return "", f"the {MASTERING} is left out: {name} cannot hold it"
    if found.primaries and found.luminance:
        red, green, blue, white = (
            f"({_number(x, form.unit)},{_number(y, form.unit)})"
            for x, y in zip(found.primaries[::2], found.primaries[1::2], strict=True)
        )
        low, high = (_number(value, form.level) for value in found.luminance)
        parts.append(f"{form.display}=G{green}B{blue}R{red}WP{white}L({high},{low})")
    elif found.primaries or found.luminance:
        note = f"the {MASTERING} is left out: it is incomplete"
    if found.light is not None:
        parts.append(f"{form.light}={found.light[0]},{found.light[1]}")
    return ":".join(parts), note


def _number(value: Fraction, unit: int | None) -> str:
    """Format a number, or a count of its ``unit`` parts if there is one."""
    return f"{float(value):.6g}" if unit is None else str(round(value * unit))


def _options(
    name: str, codec: str, options: VideoOptions, threads: int, mastering: str, side: int
) -> tuple[tuple[str, str], ...]:
    known = CODECS[codec]
    quality = options.crf if options.crf is not None or known.crf is None else known.crf[0]
    values: dict[str, str] = {}
    ours = name in known.encoders
    if quality is not None and (ours or name.endswith("_nvenc")):
        values["crf" if ours else "cq"] = f"{quality:g}"  # NVENC calls it cq
    elif options.crf is not None:
        raise OptionError(f"`crf` is not supported for the encoder {name}: leave out `crf`")
    if options.preset is not None or (ours and known.preset is not None):
        values["preset"] = options.preset or str(known.preset)
    if name == "libx265":
        values["x265-params"] = f"log-level=error:frame-threads={min(threads, 4)}"
    if name == "libsvtav1":
        values["svtav1-params"] = f"lp={min(threads, 6)}"
    if name == "ffv1":
        slices = "16" if side >= SLICED else "1"
        values |= {"level": "3", "slices": slices, "slicecrc": "1"}
    if mastering:
        key = HDR_PARAMETERS[name].key
        values[key] = f"{values[key]}:{mastering}" if key in values else mastering
    return tuple(sorted(values.items()))


class Encoding:
    """A segment that is being written, as ``<path>.part``.

    Args:
        path: path of the finished segment.
        encoder: encoder settings.

    Raises:
        OutputError: the file cannot be written.
        OptionError: the encoder rejects its options.
    """

    def __init__(self, path: Path, encoder: VideoEncoder) -> None:
        self._path, self._part, self._encoder = path, path.with_name(f"{path.name}.part"), encoder
        self.times: list[int] = []
        """Timestamps of its frames, in ticks of the encoder."""
        self._order: list[int] = []
        with _writing_to(self._part.parent):
            self._container = pyav().open(
                os.fspath(self._part),
                "w",
                format=SEGMENT_FORMAT,
                options={"movie_timescale": "1000"},
            )
            self._stream = self._open_stream()

    def _open_stream(self) -> Any:
        encoder = self._encoder
        try:
            stream = self._container.add_stream(
                encoder.name, rate=encoder.rate, options=dict(encoder.options)
            )
        except ValueError as error:
            raise OptionError(
                f"the encoder {encoder.name} cannot write MP4 segments ({error}): choose another "
                "`encoder`"
            ) from error
        stream.width, stream.height = encoder.width, encoder.height
        stream.pix_fmt, stream.time_base = encoder.form.name, encoder.time_base
        context = stream.codec_context
        context.time_base, context.thread_count = encoder.time_base, encoder.threads
        encoder.tag(context)
        try:
            context.open()
        except pyav().error.FFmpegError as error:
            options = " ".join(f"{name}={value}" for name, value in encoder.options)
            raise OptionError(
                f"the encoder {encoder.name} cannot be opened for {encoder.width}x{encoder.height} "
                f"pixels with {options}: {reason(error)}"
            ) from error
        return stream

    def add(self, frame: VideoFrame, pts: int) -> None:
        """Encode a frame.

        Args:
            frame: frame of the encoder's size and pixel format.
            pts: timestamp in the encoder's ticks, later than the one before.

        Raises:
            OutputError: the file cannot be written.
        """
        self.times.append(pts)
        frame.pts, frame.time_base = pts - self.times[0], self._encoder.time_base
        with _writing_to(self._part.parent):
            self._mux(self._stream.encode(frame))

    def _mux(self, packets: Sequence[Any]) -> None:
        usual = max(round(1 / (self._encoder.rate * self._encoder.time_base)), 1)
        for packet in packets:
            # Recomputed, because libx265's decoding times are wrong in very short segments.
            early = len(self._order) - LARGEST_DELAY
            packet.dts = early * usual if early < 0 else self.times[early] - self.times[0]
            self._order.append(packet.pts)
            self._container.mux(packet)

    @property
    def delay(self) -> int:
        """Number of frames by which decoding order runs ahead of display order."""
        rank = {time: index for index, time in enumerate(sorted(self._order))}
        return max((index - rank[time] for index, time in enumerate(self._order)), default=0)

    def finish(self) -> None:
        """Write the remaining packets, flush to disk, and give the file its final name.

        Raises:
            OutputError: the file cannot be written.
        """
        with _writing_to(self._part.parent):
            self._mux(self._stream.encode(None))
            self._container.close()
            commit_file(self._part, self._path)

    def abandon(self) -> None:
        """Close and delete the unfinished file."""
        with suppress(Exception):  # FFmpeg fails again where it failed before
            self._container.close()
        self._part.unlink(missing_ok=True)


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    """Convert the errors of FFmpeg and the disk to an OutputError."""
    try:
        yield
    except OutputError:
        raise
    except (OSError, pyav().error.FFmpegError) as error:
        refused = error.errno == errno.EINVAL
        advice = "use another `codec` or a smaller `scale`" if refused else "free space there"
        raise OutputError(
            f"cannot write a segment to {folder}: {reason(error)}. Finished segments are kept: "
            f"{advice}, then run it again to resume."
        ) from error

"""Options of a video, and the default settings of each codec."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

from resharp.checks import (
    QUOTED,
    check_choice,
    check_int,
    check_number,
    check_text,
    plain,
    shown,
)
from resharp.errors import OptionError
from resharp.images import pixel_limit
from resharp.outputs import JournalOption


@dataclass(frozen=True, kw_only=True)
class Codec:
    """A codec and its default settings."""

    encoders: tuple[str, ...]
    """FFmpeg encoders; the first one in the build is used."""
    crf: tuple[float, float, float] | None
    """Default, lowest (best) and highest ``crf``; None: the codec is lossless."""
    preset: str | None
    """Encoder preset, a fast one, since the model should take most of the time; None: no preset."""


CODECS = {
    "h264": Codec(encoders=("libx264",), crf=(18, 0, 51), preset="veryfast"),
    "hevc": Codec(encoders=("libx265",), crf=(20, 0, 51), preset="veryfast"),
    "av1": Codec(encoders=("libsvtav1",), crf=(26, 0, 63), preset="10"),
    "ffv1": Codec(encoders=("ffv1",), crf=None, preset=None),
}
"""Codecs by the names that the option ``codec`` takes."""


CodecName = Literal["auto", "h264", "hevc", "av1", "ffv1"]
LATEST = 10**9
"""Largest ``start`` and ``end`` in seconds, 31 years."""
MOST_THREADS = 1024
"""Largest number of ``encoder_threads``."""
SEGMENT = 120


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """Options of a video.

    Raises:
        OptionError: a value is invalid.
    """

    codec: CodecName = "auto"
    """One of :data:`CODECS`, or ``auto`` for h264, hevc for more than 8 bits, or av1 in WebM."""
    encoder: str | None = None
    """FFmpeg encoder to use instead of the codec's default, e.g. ``h264_nvenc``."""
    crf: float | None = None
    """Quality of the codec, lower is better; None is the codec's default."""
    preset: str | None = None
    """Preset of the encoder; None is a fast one."""
    pixel_format: str | None = None
    """FFmpeg's pixel format of the result, e.g. ``yuv444p``; None is the one closest to the input
    that players support."""
    stream: int | None = None
    """Index of the video stream to restore, counted over all streams; None is the one that players
    play."""
    fps: Fraction | None = None
    """Constant frame rate of the result; None keeps every timestamp."""
    start: Fraction | None = None
    """Seconds at the beginning to leave out."""
    end: Fraction | None = None
    """Seconds from the first frame at which to stop."""
    segment: int = SEGMENT
    """Frames that are finished together, which is what an interruption costs at most."""
    skip_duplicates: float | None = None
    """Mean difference of a 16x16 block, in levels of 255, up to which a frame repeats the last
    restored one; None restores every frame."""
    encoder_threads: int | None = None
    """Threads of the encoder, on which its bytes depend; None: 1.5 per core."""

    journal: JournalOption = "auto"
    """Where it is recorded that the result is finished; ``auto`` is the cache folder."""
    max_pixels: int | None = None
    """Most pixels that a frame may have; None is the default of :func:`resharp.images.read`."""

    def __post_init__(self) -> None:
        pixel_limit(self.max_pixels)  # checks RESHARP_MAX_PIXELS too
        check_choice("journal", self.journal, get_args(JournalOption))
        check_choice("codec", self.codec, ("auto", *CODECS))
        for name in ("encoder", "preset", "pixel_format"):
            if getattr(self, name) is not None:
                check_text(name, getattr(self, name))
        for name in ("crf", "fps", "start", "end", "skip_duplicates"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), -math.inf)
        codec = CODECS.get(self.codec)
        if self.crf is not None and codec is not None:
            if codec.crf is None:
                raise OptionError(f"{self.codec} is lossless: leave out `crf`")
            low, high = codec.crf[1:]
            if not low <= self.crf <= high:
                raise OptionError(
                    f"`crf` must be between {low:g} and {high:g} for {self.codec}, got {self.crf:g}"
                )
        if self.stream is not None:
            check_int("stream", self.stream, 0)
        for name in ("encoder", "preset", "pixel_format"):
            text = getattr(self, name)
            # FFmpeg takes C strings of UTF-8, and prints those that it does not know.
            if text is not None and (not text.isprintable() or len(text) > QUOTED):
                raise OptionError(
                    f"`{name}` must be at most {QUOTED} printable characters, got {shown(text)}"
                )
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise OptionError(f"`fps` must be in (0, 1000], got {self.fps}")
        start = self.start or Fraction(0)
        if start < 0 or (self.end is not None and self.end <= start):
            raise OptionError(
                f"`start` must be >= 0 and `end` after it, got {start} and {self.end}"
            )
        if max(start, self.end or 0) > LATEST:
            raise OptionError(f"`start` and `end` must be at most {LATEST} seconds")
        for name in ("segment", "encoder_threads"):
            value = getattr(self, name)
            if value is not None:
                check_int(name, value, 1, MOST_THREADS if name == "encoder_threads" else None)
        if self.skip_duplicates is not None and not 0 <= self.skip_duplicates <= 255:
            raise OptionError(
                f"`skip_duplicates` must be between 0 and 255, got {self.skip_duplicates}"
            )

    def deciding(self) -> dict[str, Any]:
        """Return the options that determine the frames, as JSON; not ``end``, which only cuts."""
        values = asdict(self)
        for name in ("end", "encoder_threads", "journal", "max_pixels"):
            del values[name]
        return {
            name: str(value) if isinstance(value, Fraction) else plain(value)
            for name, value in values.items()
        }

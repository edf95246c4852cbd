"""What may be asked of a video, and what each codec is made with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

from resharp.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Codec:
    """A codec, and how we encode it."""

    encoders: tuple[str, ...]
    """Of libav, the first that is in the build is used."""
    crf: tuple[float, float, float] | None
    """Default, lowest (best) and highest quality number; None: lossless."""
    preset: str | None
    """Of the encoder's own: fast ones, for the network should be what takes time."""


CODECS = {
    "h264": Codec(encoders=("libx264",), crf=(18, 0, 51), preset="veryfast"),
    "hevc": Codec(encoders=("libx265",), crf=(20, 0, 51), preset="veryfast"),
    "av1": Codec(encoders=("libsvtav1",), crf=(26, 0, 63), preset="10"),
    "ffv1": Codec(encoders=("ffv1",), crf=None, preset=None),
}
"""By the names of ``--codec``."""


CodecName = Literal["auto", "h264", "hevc", "av1", "ffv1"]
SEGMENT = 120


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """What may be asked of a video.

    Raises:
        OptionError: a value makes no sense.
    """

    codec: CodecName = "auto"
    """One of :data:`CODECS`; ``auto``: h264, and hevc for more than 8 bits."""
    encoder: str | None = None
    """Encoder of libav in place of the codec's usual one, ``h264_nvenc`` say."""
    crf: float | None = None
    """Quality number of the codec, lower is better; None is the codec's default."""
    preset: str | None = None
    """The encoder's preset; None is a fast one."""
    fps: Fraction | None = None
    """Constant frame rate of the result; None keeps every timestamp."""
    start: Fraction | None = None
    """Seconds from the first frame on to leave out."""
    end: Fraction | None = None
    """Seconds from the first frame at which to stop."""
    segment: int = SEGMENT
    """Frames that are finished together: what an interruption costs at most."""
    skip_duplicates: float | None = None
    """Levels of 255 up to which the mean of every 16x16 block may differ for the last restored
    picture to be shown again; None restores every frame."""
    encoder_threads: int | None = None
    """Threads of the encoder, which decide its bytes; None: half as many again as cores."""

    def __post_init__(self) -> None:
        if self.codec != "auto" and self.codec not in CODECS:
            raise OptionError(f"codec {self.codec!r} is not one of auto, {', '.join(CODECS)}")
        codec = CODECS.get(self.codec)
        if self.crf is not None and codec is not None:
            if codec.crf is None:
                raise OptionError(f"{self.codec} is lossless: leave --crf out")
            low, high = codec.crf[1:]
            if not low <= self.crf <= high:
                raise OptionError(
                    f"crf {self.crf:g} is not in {low:g}..{high:g}, those of {self.codec}"
                )
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise OptionError(f"fps {self.fps} is not in 0..1000")
        start = self.start or Fraction(0)
        if start < 0 or (self.end is not None and self.end <= start):
            raise OptionError("start and end are seconds, and the end comes after the start")
        for name in ("segment", "encoder_threads"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise OptionError(f"{name} is {value!r}; it must be at least 1")
        if self.skip_duplicates is not None and not 0 <= self.skip_duplicates <= 255:
            raise OptionError(f"skip_duplicates {self.skip_duplicates} is not in 0..255 levels")

    def deciding(self) -> dict[str, Any]:
        """What of it decides the frames of a result, as JSON; the end does not: it only cuts."""
        values = asdict(self)
        del values["end"], values["encoder_threads"]
        return {
            name: str(value) if isinstance(value, Fraction) else value
            for name, value in values.items()
        }

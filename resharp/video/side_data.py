"""Side data of frames: rotation, HDR metadata, captions and whatever else a decoder attaches.

All of it is optional, so none of it ends a run: what PyAV cannot read is unknown, or a note.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeVar

from resharp.video.pyav import pyav

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

logger = logging.getLogger(__name__)

T = TypeVar("T")

LATEST = {28: "LCEVC", 29: "VIEW_ID", 30: "3D_REFERENCE_DISPLAYS", 31: "EXIF"}
"""Names of side data that FFmpeg has and PyAV 18 has not, by AVFrameSideDataType."""
NUMBERS = range(64)
"""Numbers of side data to look for where PyAV has no names for them."""
UNSAFE = ("png", "apng")
"""Codecs with ICC profiles that have a name. PyAV 18 frees the name twice, which ends the process,
when ``frame.side_data`` is touched: the profile is removed first."""
ICC = "type=ICC_PROFILE"
LOST = {
    "3D_REFERENCE_DISPLAYS": "information about 3D displays",
    "A53_CC": "closed captions inside the video stream",
    "AFD": "active format description",
    "AMBIENT_VIEWING_ENVIRONMENT": "ambient viewing environment",
    "DOVI_METADATA": "Dolby Vision metadata",
    "DOVI_RPU_BUFFER": "Dolby Vision metadata",
    "DYNAMIC_HDR_PLUS": "HDR10+ metadata",
    "DYNAMIC_HDR_VIVID": "HDR Vivid metadata",
    "EXIF": "EXIF metadata of the frames",
    "ICC_PROFILE": "ICC profile of the frames",
    "LCEVC": "LCEVC enhancement layer",
    "PANSCAN": "pan and scan window",
    "S12M_TIMECODE": "time code of each frame",
    "SEI_UNREGISTERED": "user data inside the video stream (SEI)",
    "SPHERICAL": "projection of 360-degree video",
    "STEREO3D": "layout of stereoscopic 3D",
    "VIEW_ID": "numbers of the views of multiview video",
}
"""Side data that is lost, in words. What is not listed describes the coding of the input, or is
applied while decoding."""
ENCODERS = (
    bytes.fromhex("dc45e9bde6d948b7962cd820d923eeef"),
    bytes.fromhex("2ca2de09b51747dbbb55a4fe7fc2fc4e"),
)
"""UUIDs of the user data in which x264 and x265 list their settings, which nobody misses."""
IDENTITY = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
"""Display matrix that changes nothing."""


@dataclass(frozen=True, kw_only=True)
class Mastering:
    """The display that HDR video was mastered on (SMPTE ST 2086), and its light levels."""

    primaries: tuple[Fraction, ...] = ()
    """Chromaticity x and y of red, green, blue and white; empty if unknown."""
    luminance: tuple[Fraction, ...] = ()
    """Darkest and brightest luminance in cd/m2; empty if unknown."""
    light: tuple[int, int] | None = None
    """Brightest pixel and brightest average of a frame (MaxCLL, MaxFALL) in cd/m2."""


def optional(what: str, read: Callable[[], T], default: T) -> T:
    """Return what ``read`` returns, or ``default`` if it raises anything.

    For information that a run can do without, from files and libraries that are not ours.
    """
    try:
        return read()
    except Exception:
        logger.debug("%s cannot be read", what, exc_info=True)
        return default


def side_data(frame: VideoFrame, codec: str) -> dict[str, bytes]:
    """Return the side data of a frame by FFmpeg's names, without their prefix.

    The bytes of types that PyAV has no name for are empty.

    Args:
        frame: a decoded frame.
        codec: FFmpeg's name of its codec.
    """
    if codec in UNSAFE:
        found = optional("side data", lambda: _filtered(frame, f"mode=select:{ICC}"), None)
        bare = optional("side data", lambda: _filtered(frame, f"mode=delete:{ICC}"), None)
        rest = {} if bare is None else _safe_side_data(bare)
        return rest if found is None else {"ICC_PROFILE": b"", **rest}
    return _safe_side_data(frame)


def _safe_side_data(frame: VideoFrame) -> dict[str, bytes]:
    try:
        return _named(frame)
    except ValueError:  # PyAV raises it for all side data if it has no name for one of them
        return optional("side data", lambda: _with_unnamed(frame), {})
    except Exception:
        logger.debug("side data cannot be read", exc_info=True)
        return {}


def _named(frame: VideoFrame) -> dict[str, bytes]:
    found: Any = frame.side_data
    # Iterating yields the values up to PyAV 18, and the keys from 19 on.
    values = [item if hasattr(item, "type") else found[item] for item in found]
    named = [(data.type.name, bytes(data)) for data in values]
    return {name: data for name, data in named if data[:16] not in ENCODERS}


def _with_unnamed(frame: VideoFrame) -> dict[str, bytes]:
    """Return side data where PyAV fails at some: it is listed, then removed by libavfilter."""
    known = {kind.value for kind in pyav().sidedata.sidedata.Type}
    unnamed = [number for number in NUMBERS if number not in known]
    found = {
        LATEST.get(number, f"type {number}"): b""
        for number in unnamed
        if _filtered(frame, f"mode=select:type={number}") is not None
    }
    rest = _filtered(frame, *(f"mode=delete:type={number}" for number in unnamed))
    return found if rest is None else found | _named(rest)


def _filtered(frame: VideoFrame, *steps: str) -> Any:
    """Send a frame through libavfilter's ``sidedata``; None if it drops the frame."""
    av = pyav()
    graph = av.filter.Graph()
    source = last = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base or Fraction(1, 1000),
    )
    for step in steps:
        one = graph.add("sidedata", step)
        last.link_to(one)
        last = one
    sink = graph.add("buffersink")
    last.link_to(sink)
    graph.configure()
    source.push(frame)
    with suppress(av.error.BlockingIOError):
        return sink.pull()
    return None


def matrix_of(data: Mapping[str, bytes], frame: VideoFrame) -> tuple[int, ...] | None:
    """Return the display matrix of a frame; None if it is shown as it is stored."""
    block = data.get("DISPLAYMATRIX", b"")
    if len(block) != 36:
        degrees = optional("rotation", lambda: int(frame.rotation), 0)
        return _turned(degrees) if degrees else None
    numbers = struct.unpack("=9i", block)
    return None if numbers == IDENTITY else numbers


def oriented(orientation: int) -> tuple[int, ...]:
    """Return the display matrix of an EXIF orientation of 2 to 8."""
    corners = (
        *((-1, 0, 0, 1), (-1, 0, 0, -1), (1, 0, 0, -1)),
        *((0, 1, 1, 0), (0, 1, -1, 0), (0, -1, -1, 0), (0, -1, 1, 0)),
    )
    a, b, c, d = (value << 16 for value in corners[orientation - 2])
    return (a, b, 0, c, d, 0, 0, 0, 1 << 30)


def _turned(degrees: int) -> tuple[int, ...]:
    """Return the display matrix of a counterclockwise rotation by a multiple of 90 degrees."""
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[round(degrees / 90) % 4]
    unit = 1 << 16
    return (cos * unit, -sin * unit, 0, sin * unit, cos * unit, 0, 0, 0, 1 << 30)


def mastering_of(data: Mapping[str, bytes]) -> Mastering | None:
    """Return the HDR mastering metadata of a frame; None if it has none."""
    primaries: tuple[Fraction, ...] = ()
    luminance: tuple[Fraction, ...] = ()
    light = None
    with suppress(struct.error, ZeroDivisionError, KeyError):
        # AVMasteringDisplayMetadata: ten rationals, then which of them are known.
        numbers = struct.unpack("=22i", data["MASTERING_DISPLAY_METADATA"][:88])
        pairs = tuple(zip(numbers[:20:2], numbers[1:20:2], strict=True))
        if numbers[20]:
            primaries = tuple(Fraction(*pair) for pair in pairs[:8])
        if numbers[21]:
            luminance = tuple(Fraction(*pair) for pair in pairs[8:])
    with suppress(struct.error, KeyError):
        light = struct.unpack("=2I", data["CONTENT_LIGHT_LEVEL"][:8])
    if primaries or luminance or light:
        return Mastering(primaries=primaries, luminance=luminance, light=light)
    return None


def chunks_of(mastering: Mastering) -> tuple[tuple[str, bytes], ...]:
    """Return HDR mastering metadata as chunks of PNG: mDCV and cLLI."""
    found = []
    if mastering.primaries and mastering.luminance:
        numbers = [min(round(one * 50_000), 65_535) for one in mastering.primaries]
        low, high = (min(round(one * 10_000), (1 << 32) - 1) for one in mastering.luminance)
        found.append(("mDCV", struct.pack(">8H2I", *numbers, high, low)))
    if mastering.light is not None:
        most = (min(one * 10_000, (1 << 32) - 1) for one in mastering.light)
        found.append(("cLLI", struct.pack(">2I", *most)))
    return tuple(found)


def mastering_in(chunks: Iterable[tuple[str, bytes]]) -> Mastering | None:
    """Return the HDR mastering metadata that chunks of PNG state; None if there are none."""
    known = dict(chunks)
    display, light = known.get("mDCV", b""), known.get("cLLI", b"")
    numbers = struct.unpack(">8H2I", display) if len(display) == 24 else ()
    made = Mastering(
        primaries=tuple(Fraction(one, 50_000) for one in numbers[:8]),
        luminance=tuple(Fraction(one, 10_000) for one in numbers[:7:-1]),
        light=(
            (int.from_bytes(light[:4], "big") // 10_000, int.from_bytes(light[4:], "big") // 10_000)
            if len(light) == 8
            else None
        ),
    )
    return None if made == Mastering() else made


def losses(names: Iterable[str], kept: Collection[str] = ()) -> Iterator[str]:
    """Yield a note for each kind of side data that the result does not have.

    Args:
        names: names of side data, as :func:`side_data` returns them.
        kept: those that the result has after all.
    """
    lost = [name for name in names if name not in kept]
    kinds = [LOST.get(name) or (f"side data of {name}" if " " in name else "") for name in lost]
    for kind in dict.fromkeys(filter(None, kinds)):
        yield f"{kind} cannot be kept"


class LossWatch:
    """Looks for side data that is lost in each frame, cheaply.

    Where PyAV has no name for one type, looking takes long: that is done for one frame.

    Args:
        seen: names of side data about which the user knows.
        codec: FFmpeg's name of the codec.
    """

    def __init__(self, seen: Collection[str], codec: str) -> None:
        self._seen, self._codec = set(seen), codec
        self._unnamed = not self._seen.isdisjoint(LATEST.values())

    def notes(self, frame: VideoFrame) -> Iterator[str]:
        """Yield a note for each kind that no frame before had."""
        if self._codec in UNSAFE:  # one profile holds for all frames
            return
        try:
            found = _named(frame)
        except Exception:
            if self._unnamed:
                return
            self._unnamed = True
            found = side_data(frame, self._codec)
        new = found.keys() - self._seen
        self._seen |= new
        yield from losses(name for name in found if name in new)

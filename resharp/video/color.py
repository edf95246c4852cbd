"""Color properties of video, and conversion to BGR and back without a shift.

libswscale's default flags darken by one to three levels (measured: docs/design/video.md); with
accurate rounding and full chroma, both directions agree to within one level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from resharp.images.color_signal import ColorSignal
from resharp.opencv import cv2
from resharp.types import Image
from resharp.video.planes import PLANAR, fill
from resharp.video.pyav import pyav

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


LIMITED, FULL = 1, 2
"""Color ranges, numbered as in FFmpeg (AVColorRange)."""
RGB, BT709, UNSPECIFIED, BT601, BT2020 = 0, 1, 2, 6, 9
"""Color matrices, numbered as in FFmpeg and ISO/IEC 23091-2."""
ALIKE_PRIMARIES, ALIKE_TRANSFERS = frozenset({0, 1, 2, 5, 6, 7}), frozenset({0, 1, 2, 6, 7, 13})
"""Color primaries and transfers that are shown like sRGB."""
KNOWN_MATRICES = frozenset({1, 4, 5, 6, 7, 9})
"""Color matrices that libswscale supports."""
ACCURATE = 0x4 | 0x2000 | 0x4000 | 0x40000
"""libswscale flags: bicubic, full chroma in and out, accurate rounding. PyAV has names for them
only from version 18 on."""
DEEP_WHITE = 65280
"""Value that libswscale takes for 16-bit white when converting to or from limited range."""
HD = (1280, 720)
"""Frames at least this wide or this high default to BT.709, as in players."""


@dataclass(frozen=True)
class Color:
    """Color properties of a video, as code points of ISO/IEC 23091-2."""

    range: int
    """:data:`LIMITED` or :data:`FULL`."""
    matrix: int
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED

    @property
    def math(self) -> int:
        """Matrix to convert with: BT.709 in place of one that libswscale does not support."""
        # PyAV passes BT.2020 to libswscale only from version 18 on.
        names = pyav().video.reformatter.Colorspace
        known = KNOWN_MATRICES if hasattr(names, "BT2020") else KNOWN_MATRICES - {BT2020}
        return self.matrix if self.matrix in known else BT709

    @property
    def signal(self) -> ColorSignal | None:
        """What an image of these colors must state; None if untagged images show them alike.

        Players show BT.601 and BT.709 video as if it were sRGB, so these are not stated.
        """
        if self.primaries in ALIKE_PRIMARIES and self.transfer in ALIKE_TRANSFERS:
            return None
        known = self.primaries if self.primaries != UNSPECIFIED else BT709
        return ColorSignal(cicp=(known, self.transfer))


@dataclass(frozen=True)
class PixelFormat:
    """Pixel format of a video."""

    name: str
    """FFmpeg's name, e.g. ``yuv420p``."""
    depth: int
    """Bits per component."""
    rgb: bool
    alpha: bool
    gray: bool
    across: int
    """Pixels per chroma sample along a row; 1 for 4:4:4."""
    down: int
    """Pixels per chroma sample along a column; 1 for 4:4:4 and 4:2:2."""

    @property
    def array(self) -> str:
        """FFmpeg's name of the packed format used for arrays."""
        if self.alpha:
            return "bgra" if self.depth <= 8 else "rgba64le"
        return "bgr24" if self.depth <= 8 else "bgr48le"


def pixel_format(name: str) -> PixelFormat:
    """Return the properties of a pixel format, by FFmpeg's name."""
    known = pyav().VideoFormat(name, 1 << 12, 1 << 12)
    parts = known.components
    rgb = known.is_rgb or name.startswith("pal")
    chroma = None if rgb or len(parts) < 3 else parts[1]
    return PixelFormat(
        name=name,
        depth=max((part.bits for part in parts), default=8),
        rgb=rgb,
        alpha=any(part.is_alpha for part in parts),
        gray=chroma is None and not rgb,
        across=(1 << 12) // chroma.width if chroma else 1,
        down=(1 << 12) // chroma.height if chroma else 1,
    )


def color_of(frame: VideoFrame, form: PixelFormat) -> Color:
    """Return the color properties of a frame, with the defaults of players for unspecified ones."""
    if form.rgb:
        return Color(FULL, RGB, int(frame.color_primaries), int(frame.color_trc))
    full = int(frame.color_range) == FULL or form.name.startswith("yuvj")
    matrix = int(frame.colorspace)
    if matrix in (UNSPECIFIED, RGB):
        large = frame.width >= HD[0] or frame.height >= HD[1]
        matrix = BT709 if large else BT601
    return Color(
        FULL if full else LIMITED, matrix, int(frame.color_primaries), int(frame.color_trc)
    )


class Converter:
    """Converter between FFmpeg frames and arrays for an Upscaler. Use one per thread."""

    def __init__(self) -> None:
        self._reformatter = pyav().video.reformatter.VideoReformatter()

    def to_array(self, frame: VideoFrame, form: PixelFormat, color: Color) -> Image:
        """Convert a frame to BGR or BGRA ``[h, w, c]``: uint8 up to 8 bits, otherwise uint16."""
        array = self._to(frame, form.array, color, color.range, FULL).to_ndarray()
        if form.array == "rgba64le":
            array = array[:, :, [2, 1, 0, 3]]
        array = _stretched(np.ascontiguousarray(array), *_ends(form, color))
        if form.name.startswith("yuva") and form.depth > 8:  # alpha has no limited range
            array[:, :, 3] = _scaled(_alpha_plane(frame, form.depth), (1 << form.depth) - 1, 65535)
        return array

    def to_frame(self, array: Image, form: PixelFormat, color: Color) -> VideoFrame:
        """Convert an array to a frame.

        Args:
            array: BGR or BGRA, uint8 or uint16; it need not match the depth of ``form``.
            form: pixel format of the frame; if it has no alpha, the array's is dropped.
            color: color properties of the frame.
        """
        if PLANAR.fullmatch(form.name) and (form.depth > 8 or color.range == FULL):
            return _tagged(self._in_planes(array, form, color), color)
        if array.dtype == np.uint16 and not form.rgb:
            colors = _stretched(array[:, :, :3], 0, 65535 * 65535 / DEEP_WHITE)
            array = np.dstack([colors, array[:, :, 3:]])
        packed = {("uint8", 3): "bgr24", ("uint16", 3): "bgr48le", ("uint8", 4): "bgra"}
        name = packed.get((array.dtype.name, array.shape[2]), "rgba64le")
        if name == "rgba64le":
            array = array[:, :, [2, 1, 0, 3]]
        array = np.ascontiguousarray(array)
        if name in ("bgr24", "bgra"):  # the other formats need a copy
            frame = pyav().VideoFrame.from_numpy_buffer(array, format=name)
        else:
            frame = pyav().VideoFrame.from_ndarray(array, format=name)
        made = self._to(frame, form.name, color, FULL, color.range)
        if form.name.startswith("yuva") and array.shape[2] == 4:  # libswscale adds a level
            white = int(np.iinfo(array.dtype).max)
            alpha = _scaled(array[:, :, 3], white, (1 << form.depth) - 1)
            _alpha_plane(made, form.depth)[:] = alpha
        return _tagged(made, color)

    def _in_planes(self, array: Image, form: PixelFormat, color: Color) -> VideoFrame:
        height, width = array.shape[:2]
        frame: VideoFrame = pyav().VideoFrame(width, height, form.name)
        dtype = np.dtype(np.uint8 if form.depth == 8 else np.uint16)
        planes = [
            np.frombuffer(memoryview(plane), dtype).reshape(plane.height, -1)[:, : plane.width]
            for plane in frame.planes
        ]
        full = color.range == FULL
        fill(planes, array[:, :, :3], color.math, full=full, depth=form.depth)
        return frame

    def _to(self, frame: Any, name: str, color: Color, source: int, target: int) -> Any:
        how: dict[str, Any] = {}
        if color.matrix != RGB:  # RGB formats differ only in byte order
            how = {
                "src_colorspace": color.math,
                "dst_colorspace": color.math,
                "src_color_range": source,
                "dst_color_range": target,
            }
        return self._reformatter.reformat(
            frame, format=name, interpolation=ACCURATE, threads=1, **how
        )


def _alpha_plane(frame: VideoFrame, depth: int) -> Image:
    """Return the fourth plane of a frame, ``[h, w]``, to read or write."""
    plane = frame.planes[3]
    rows = np.frombuffer(memoryview(plane), np.uint8 if depth == 8 else np.uint16)
    return rows.reshape(plane.height, -1)[:, : plane.width]


def _scaled(values: Image, white: int, top: int) -> Image:
    """Scale integers from 0..``white`` to 0..``top``, rounded."""
    if white == top:
        return values
    return np.asarray((values.astype(np.uint32) * np.uint32(top) + white // 2) // white)


def _ends(form: PixelFormat, color: Color) -> tuple[float, float]:
    """Return the values of a format's black and white after libswscale's conversion to an array."""
    shallow = form.depth <= 8
    if form.gray and color.range == LIMITED:  # libswscale does not stretch it
        return (16, 235) if shallow else (16 << 8, 235 << 8)
    if shallow or form.rgb:
        return (0, 255 if shallow else 65535)
    top = ((1 << form.depth) - 1) << (16 - form.depth)
    return 0, top if color.range == FULL or form.gray else DEEP_WHITE


def _stretched(array: Image, black: float, white: float) -> Image:
    """Stretch the values so that black is 0 and white is 255 or 65535."""
    full = 255 if array.dtype == np.uint8 else 65535
    if (black, white) == (0, full):
        return array
    gain = full / (white - black)
    return np.asarray(cv2.addWeighted(array, gain, array, 0.0, -black * gain))


def _tagged(frame: VideoFrame, color: Color) -> VideoFrame:
    frame.colorspace, frame.color_range = color.matrix, color.range
    frame.color_primaries, frame.color_trc = color.primaries, color.transfer
    return frame

"""Color of video: what its numbers mean, and the way to BGR and back without a shift.

libswscale's default flags darken by one to three levels (measured: docs/video.md); with accurate
rounding and full chroma both ways agree to within one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from resharp.types import Image
from resharp.video.planes import PLANAR, fill
from resharp.video.pyav import pyav

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


LIMITED, FULL = 1, 2
"""Ranges, as libav numbers them (AVColorRange)."""
RGB, BT709, UNSPECIFIED, BT601, BT2020 = 0, 1, 2, 6, 9
"""Matrices, as libav and ISO/IEC 23091-2 number them."""
KNOWN_MATRICES = frozenset({1, 4, 5, 6, 7, 9})
"""Those that libswscale can compute with."""
ACCURATE = 0x4 | 0x2000 | 0x4000 | 0x40000
"""Flags of libswscale: bicubic, full chroma in and out, accurate rounding. PyAV has names for them
only from 18 on."""
DEEP_WHITE = 65280
"""What libswscale takes for white in 16 bits, on the way to limited range and from it."""
HD = (1280, 720)
"""Pictures of this size and more are BT.709 where nothing says so, as players assume."""


@dataclass(frozen=True)
class Color:
    """What the numbers of a video mean: code points of ISO/IEC 23091-2."""

    range: int
    """:data:`LIMITED` or :data:`FULL`."""
    matrix: int
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED

    @property
    def math(self) -> int:
        """The matrix to compute with."""
        # PyAV hands BT.2020 to libswscale only from 18 on.
        names = pyav().video.reformatter.Colorspace
        known = KNOWN_MATRICES if hasattr(names, "BT2020") else KNOWN_MATRICES - {BT2020}
        return self.matrix if self.matrix in known else BT709


@dataclass(frozen=True)
class PixelFormat:
    """How a video's pixels are stored."""

    name: str
    """As libav calls it."""
    depth: int
    """Bits of a component."""
    rgb: bool
    alpha: bool
    gray: bool
    across: int
    """Pixels for each chroma value, along a row; 1 for 4:4:4."""
    down: int
    """The same, along a column."""

    @property
    def array(self) -> str:
        """The packed format that arrays of it have, as libav calls it."""
        if self.alpha:
            return "bgra" if self.depth <= 8 else "rgba64le"
        return "bgr24" if self.depth <= 8 else "bgr48le"


def pixel_format(name: str) -> PixelFormat:
    """What libav knows of a pixel format."""
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
    """What a frame says of its color, with what players assume where it says nothing."""
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
    """Between frames of libav and arrays as an Upscaler takes them. For one thread at a time."""

    def __init__(self) -> None:
        self._reformatter = pyav().video.reformatter.VideoReformatter()

    def to_array(self, frame: VideoFrame, form: PixelFormat, color: Color) -> Image:
        """A frame as BGR or BGRA ``[h, w, c]``; uint8 for 8 bits, else uint16."""
        array = self._to(frame, form.array, color, color.range, FULL).to_ndarray()
        if form.array == "rgba64le":
            array = array[:, :, [2, 1, 0, 3]]
        return _stretched(np.ascontiguousarray(array), *_ends(form, color))

    def to_frame(self, array: Image, form: PixelFormat, color: Color) -> VideoFrame:
        """An array as a frame of that format and color.

        Args:
            array: BGR or BGRA; uint8 or uint16, whatever the format's depth.
            form: of the frame; without alpha, that of the array is dropped.
            color: of the frame.
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
        if name in ("bgr24", "bgra"):  # the others have to be copied
            frame = pyav().VideoFrame.from_numpy_buffer(array, format=name)
        else:
            frame = pyav().VideoFrame.from_ndarray(array, format=name)
        return _tagged(self._to(frame, form.name, color, FULL, color.range), color)

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
        if color.matrix != RGB:  # else nothing but the order of the bytes differs
            how = {
                "src_colorspace": color.math,
                "dst_colorspace": color.math,
                "src_color_range": source,
                "dst_color_range": target,
            }
        return self._reformatter.reformat(
            frame, format=name, interpolation=ACCURATE, threads=1, **how
        )


def _ends(form: PixelFormat, color: Color) -> tuple[float, float]:
    """What libswscale makes of a format's black and white, in arrays of ours."""
    shallow = form.depth <= 8
    if form.gray and color.range == LIMITED:  # which it does not stretch
        return (16, 235) if shallow else (16 << 8, 235 << 8)
    if shallow or form.rgb:
        return (0, 255 if shallow else 65535)
    top = ((1 << form.depth) - 1) << (16 - form.depth)
    return 0, top if color.range == FULL or form.gray else DEEP_WHITE


def _stretched(array: Image, black: float, white: float) -> Image:
    """So that black is 0 and white is 255 or 65535."""
    full = 255 if array.dtype == np.uint8 else 65535
    if (black, white) == (0, full):
        return array
    gain = full / (white - black)
    return np.asarray(cv2.addWeighted(array, gain, array, 0.0, -black * gain))


def _tagged(frame: VideoFrame, color: Color) -> VideoFrame:
    frame.colorspace, frame.color_range = color.matrix, color.range
    frame.color_primaries, frame.color_trc = color.primaries, color.transfer
    return frame

"""Animated images that tests make byte by byte, and how to take them apart with other readers."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from resharp.video import VideoOptions, VideoReport
from resharp.video.run import render_video
from tests.video.kit import Enlarged

pillow: Any = pytest.importorskip("PIL.Image", reason="needs Pillow")

Image = NDArray[Any]
DURATIONS = (40, 100, 250, 30, 700)
"""Of the frames of an animation, in milliseconds."""


def restore_scaled(source: Path, target: Path, scale: int, **options: Any) -> VideoReport:
    """Restore with each pixel repeated instead of a network."""
    config: Any = Enlarged(scale)
    return render_video(source, target, config, options=VideoOptions(**options))


class GifFrame(NamedTuple):
    """A rectangle of one color, whose first columns are transparent."""

    left: int
    top: int
    width: int
    height: int
    color: tuple[int, int, int]
    disposal: int
    delay: int
    clear: int = 0


GIF_FRAMES = (
    GifFrame(2, 2, 10, 8, (255, 0, 0), 1, 0, 2),
    GifFrame(5, 4, 8, 8, (0, 255, 0), 3, 6),
    GifFrame(0, 0, 6, 6, (0, 0, 255), 2, 2, 3),
    GifFrame(8, 8, 8, 4, (200, 200, 0), 0, 5),
    GifFrame(0, 0, 16, 12, (1, 2, 3), 2, 7, 5),
    GifFrame(4, 4, 4, 4, (9, 200, 100), 1, 30),
)
GIF_SIZE = (16, 12)


def gif(frames: Sequence[GifFrame], loop: int | None = None, tail: bytes = b"") -> bytes:
    """Return a GIF of 16x12 with a palette for each frame."""
    out = b"GIF89a" + struct.pack("<HHBBB", *GIF_SIZE, 0, 0, 0)
    if loop is not None:
        out += b"!\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", loop) + b"\0"
    for one in frames:
        palette, bits, data = _lzw(one)
        out += b"!\xf9\x04" + struct.pack("<BHBB", one.disposal << 2 | 1, one.delay, 0, 0)
        out += b"," + struct.pack("<HHHHB", *one[:4], 0x80 | bits) + palette + data
    return out + tail + b";"


def _lzw(one: GifFrame) -> tuple[bytes, int, bytes]:
    """Let Pillow compress a frame, and take its palette and data."""
    image = pillow.fromarray(np.ones((one.height, one.width), np.uint8), "P")
    for x in range(one.clear):
        image.paste(0, (x, 0, x + 1, one.height))
    image.putpalette([9, 9, 9, *one.color] + [0] * (254 * 3))
    buffer = io.BytesIO()
    image.save(buffer, "GIF", optimize=False)
    data = buffer.getvalue()
    at = 13 + 3 * (2 << (data[10] & 7))
    palette = data[13:at]
    while data[at] == 0x21:
        at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    assert data[at] == 0x2C
    return palette, data[10] & 7, data[at + 10 : -1]


def gif_canvases(frames: Sequence[GifFrame]) -> list[Image]:
    """What a GIF shows, by GIF89a: RGBA ``[12, 16, 4]`` for each frame."""
    canvas, shown = np.zeros((*GIF_SIZE[::-1], 4), np.uint8), []
    for one in frames:
        before = canvas.copy()
        rows = slice(one.top, one.top + one.height)
        canvas[rows, one.left + one.clear : one.left + one.width] = (*one.color, 255)
        shown.append(canvas.copy())
        if one.disposal == 2:
            canvas[rows, one.left : one.left + one.width] = 0
        elif one.disposal == 3:
            canvas = before
    return shown


@dataclass(frozen=True)
class ApngFrame:
    left: int
    top: int
    image: Image
    """RGBA, uint8 or uint16."""
    delay: tuple[int, int]
    disposal: int = 0
    blend: int = 0


@dataclass(frozen=True, kw_only=True)
class ApngSpec:
    frames: Sequence[ApngFrame]
    size: tuple[int, int] = (16, 12)
    plays: int = 0
    default: Image | None = None
    """An image for programs that do not know APNG, which is not a frame."""
    extra: bytes = field(default=b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _idat(image: Image) -> bytes:
    big = image.astype(">u2") if image.dtype == np.uint16 else image
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in big))


def apng(spec: ApngSpec) -> bytes:
    """Return an APNG, by its specification."""
    depth = 16 if spec.frames[0].image.dtype == np.uint16 else 8
    out = b"\x89PNG\r\n\x1a\n"
    out += chunk(b"IHDR", struct.pack(">IIBBBBB", *spec.size, depth, 6, 0, 0, 0)) + spec.extra
    out += chunk(b"acTL", struct.pack(">II", len(spec.frames), spec.plays))
    if spec.default is not None:
        out += chunk(b"IDAT", _idat(spec.default))
    number = 0
    for index, one in enumerate(spec.frames):
        height, width = one.image.shape[:2]
        place = struct.pack(">IIIII", number, width, height, one.left, one.top)
        out += chunk(b"fcTL", place + struct.pack(">HHBB", *one.delay, one.disposal, one.blend))
        number += 1
        if index == 0 and spec.default is None:
            out += chunk(b"IDAT", _idat(one.image))
        else:
            out += chunk(b"fdAT", struct.pack(">I", number) + _idat(one.image))
            number += 1
    return out + chunk(b"IEND", b"")


def apng_canvases(spec: ApngSpec) -> list[Image]:
    """What an APNG shows, by its specification: float RGBA for each frame."""
    canvas, shown = np.zeros((*spec.size[::-1], 4)), []
    white = 255 if spec.frames[0].image.dtype == np.uint8 else 65535
    for index, one in enumerate(spec.frames):
        before, image = canvas.copy(), one.image.astype(float)
        rows = slice(one.top, one.top + image.shape[0])
        area = canvas[rows, one.left : one.left + image.shape[1]]
        if one.blend:
            over, under = image[..., 3:] / white, area[..., 3:] / white
            alpha = over + under * (1 - over)
            mixed = image[..., :3] * over + area[..., :3] * under * (1 - over)
            area[..., :3] = np.where(alpha > 0, mixed / np.maximum(alpha, 1e-9), 0)
            area[..., 3:] = alpha * white
        else:
            area[:] = image
        shown.append(canvas.copy())
        if one.disposal == 1 or (one.disposal == 2 and index == 0):
            area[:] = 0
        elif one.disposal == 2:
            canvas = before
    return shown


class Shown(NamedTuple):
    """What Pillow reads in an animation."""

    images: list[Image]
    """RGBA."""
    durations: list[float]
    """Milliseconds."""
    info: dict[str, Any]


def shown(path: Path) -> Shown:
    images, durations = [], []
    with pillow.open(path) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            image.load()
            images.append(np.array(image.convert("RGBA")))
            durations.append(image.info.get("duration", 0))
        image.seek(0)
        return Shown(images, durations, dict(image.info))


def distance(one: Image, other: Image) -> float:
    """Largest difference of two RGBA images, where they are not transparent."""
    first, second = one.astype(float), other.astype(float)
    colors = np.abs(first - second)[..., :3] * ((first[..., 3:] > 0) | (second[..., 3:] > 0))
    return float(max(colors.max(), np.abs(first - second)[..., 3].max()))


def drawings(count: int, alpha: str = "none", size: tuple[int, int] = (40, 30)) -> list[Image]:
    """RGBA frames with flat areas that move; ``alpha`` is none, full or partial."""
    made = []
    for number in range(count):
        image = np.full((size[1], size[0], 4), 255, np.uint8)
        image[..., :3] = (number * 40 % 256, 100, 200 - 20 * number)
        image[4:14, 4 + 2 * number : 14 + 2 * number, :3] = (250, 10, 30)
        if alpha != "none":
            image[18:28, 2 * number : 2 * number + 8, 3] = 0 if alpha == "full" else 128
        made.append(image)
    return made


def save(path: Path, images: Sequence[Image], durations: Sequence[int], **options: Any) -> Path:
    """Let Pillow write an animation."""
    opaque = all(image[..., 3].min() == 255 for image in images)
    first, *rest = (pillow.fromarray(image[..., : 3 if opaque else 4]) for image in images)
    lossless: dict[str, dict[str, Any]] = {".webp": {"lossless": True}, ".avif": {"quality": 100}}
    exact = lossless.get(path.suffix, {})
    first.save(
        path, save_all=True, append_images=rest, duration=list(durations), **{**exact, **options}
    )
    return path

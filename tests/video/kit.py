"""Clips that tests make, with numbered frames and flat patches, and how to take files apart."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from resharp.pipeline.restorer import ModelUse, RestorerInfo

av = pytest.importorskip("av", reason="needs PyAV (pip install 'resharp[video]')")

Image = NDArray[Any]
WIDTH, HEIGHT = 128, 96
BITS = 8
CELL = 16
LATE = 8
"""More calls than can be in work at once. Calls are held as they come, and the first that is held
may be of an earlier frame than the last that is not: for N frames in order, let N + LATE through.
"""
PATCHES = ((40, 60, 200), (200, 120, 30), (128, 128, 128), (30, 180, 90))
"""Flat colors, blue, green, red."""
LUMA = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def draw(number: int, width: int = WIDTH, height: int = HEIGHT) -> Image:
    """A frame: its number in black and white cells on top, flat patches in the middle."""
    image = np.full((height, width, 3), 90, np.uint8)
    for bit in range(BITS):
        image[:CELL, bit * CELL : (bit + 1) * CELL] = 230 if number >> bit & 1 else 20
    side = width // len(PATCHES)
    for index, color in enumerate(PATCHES):
        image[CELL * 2 : CELL * 2 + 32, index * side : (index + 1) * side] = color
    cv2.line(image, (0, height - 8), (number * 3 % width, height - 24), (250, 250, 250), 2)
    return image


def number_in(image: Image) -> int:
    """The number that :func:`draw` drew, in an image of any size."""
    cell = image.shape[1] * CELL // WIDTH
    row = image[cell // 4 : cell * 3 // 4].mean(axis=(0, 2))
    cells = [row[bit * cell + cell // 4 : (bit + 1) * cell - cell // 4] for bit in range(BITS)]
    return sum((part.mean() > 125) << bit for bit, part in enumerate(cells))


def to_yuv(image: Image, matrix: int, *, full: bool, depth: int = 8) -> list[Image]:
    """Y, Cb and Cr of 4:2:0 by the standards (ITU-R BT.601, BT.709, BT.2020)."""
    blue, green, red = (image[:, :, i] / 255 for i in range(3))
    kr, kb = LUMA[matrix]
    y = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = [(blue - y) / (2 * (1 - kb)), (red - y) / (2 * (1 - kr))]
    top, unit = (1 << depth) - 1, 1 << (depth - 8)
    planes = [y * top if full else (y * 219 + 16) * unit]
    for one in chroma:
        mean = one.reshape(one.shape[0] // 2, 2, one.shape[1] // 2, 2).mean(axis=(1, 3))
        planes.append(mean * top + 128 * unit if full else (mean * 224 + 128) * unit)
    return [np.rint(plane) for plane in planes]


def fill(frame: Any, planes: Sequence[Image], depth: int = 8) -> None:
    dtype = np.uint8 if depth == 8 else np.uint16
    for plane, values in zip(frame.planes, planes, strict=True):
        row = plane.line_size // np.dtype(dtype).itemsize
        np.frombuffer(plane, dtype).reshape(-1, row)[:, : values.shape[1]] = values


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a clip is made of."""

    frames: int = 24
    pts: tuple[int, ...] | None = None
    """In ticks; None: 24 frames per second."""
    time_base: Fraction = Fraction(1, 90_000)
    codec: str = "libx264"
    depth: int = 8
    full: bool = False
    matrix: int = 1
    primaries: int = 2
    transfer: int = 2
    sound: Sequence[str] = ()
    subtitles: str | None = None
    chapters: bool = False
    rotation: int = 0
    aspect: Fraction | None = None
    size: tuple[int, int] = (WIDTH, HEIGHT)
    options: dict[str, str] = field(default_factory=lambda: {"crf": "8", "g": "12"})

    def times(self) -> tuple[int, ...]:
        if self.pts is not None:
            return self.pts
        return tuple(round(n / self.time_base / 24) for n in range(self.frames))


VARIABLE = tuple(int(t) for t in np.cumsum([0, *[1500, 3003, 6006, 3000, 4500] * 9])[:24])


def make(path: Path, spec: Spec | None = None) -> Path:
    """Write a clip."""
    spec = spec or Spec()
    exact = {"movie_timescale": "90000"} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", container_options=exact) as out:
        out.metadata["title"] = "A clip"
        picture = _picture(out, spec)
        sound = [out.add_stream(codec, rate=48_000, layout="stereo") for codec in spec.sound]
        for stream, language in zip(sound, ("eng", "kor", "deu"), strict=False):
            stream.metadata["language"] = language
        text = None
        if spec.subtitles:
            text = out.add_mux_stream(spec.subtitles)
            text.time_base = Fraction(1, 1000)
            text.metadata["language"] = "fra"
        if spec.chapters:
            base = Fraction(1, 1000)
            out.set_chapters(
                [
                    {
                        "id": 1,
                        "start": 0,
                        "end": 400,
                        "time_base": base,
                        "metadata": {"title": "1"},
                    },
                    {
                        "id": 2,
                        "start": 400,
                        "end": 999,
                        "time_base": base,
                        "metadata": {"title": "2"},
                    },
                ]
            )
        out.start_encoding()
        for number, pts in enumerate(spec.times()):
            out.mux(picture.encode(_frame(number, pts, spec)))
            for index, stream in enumerate(sound):
                out.mux(stream.encode(_tone(number, index)))
        for stream in (picture, *sound):
            out.mux(stream.encode(None))
        if text is not None:
            for packet in _lines(text, spec):
                out.mux(packet)
    return path


def _picture(out: Any, spec: Spec) -> Any:
    stream = out.add_stream(spec.codec, rate=24, options=spec.options)
    stream.width, stream.height = spec.size
    stream.pix_fmt = "yuv420p" if spec.depth == 8 else "yuv420p10le"
    context = stream.codec_context
    context.time_base = stream.time_base = spec.time_base
    context.color_range, context.colorspace = 2 if spec.full else 1, spec.matrix
    context.color_primaries, context.color_trc = spec.primaries, spec.transfer
    if spec.aspect:
        context.sample_aspect_ratio = spec.aspect
    if spec.rotation:
        stream.set_display_rotation(spec.rotation)
    return stream


def _frame(number: int, pts: int, spec: Spec) -> Any:
    name = "yuv420p" if spec.depth == 8 else "yuv420p10le"
    frame = av.VideoFrame(*spec.size, name)
    image = draw(number, *spec.size)
    fill(frame, to_yuv(image, spec.matrix, full=spec.full, depth=spec.depth), spec.depth)
    frame.pts, frame.time_base = pts, spec.time_base
    return frame


def _tone(number: int, index: int) -> Any:
    wave = np.sin(np.arange(number * 2000, number * 2000 + 2000) * 0.03 * (index + 1)) * 0.2
    frame = av.AudioFrame.from_ndarray(
        np.stack([wave, wave]).astype(np.float32), format="fltp", layout="stereo"
    )
    frame.sample_rate, frame.pts, frame.time_base = 48_000, number * 2000, Fraction(1, 48_000)
    return frame


def _lines(stream: Any, spec: Spec) -> Iterator[Any]:
    for index, text in enumerate((b"one", b"zwei")):
        data = struct.pack(">H", len(text)) + text if spec.subtitles == "mov_text" else text
        packet = av.Packet(data)
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts = packet.dts = index * 500
        packet.duration = 300
        yield packet


@dataclass
class Parts:
    """What a file holds."""

    numbers: list[int]
    times: list[Fraction]
    """Seconds at which frames are shown."""
    frames: list[Any]
    packets: dict[int, list[bytes]]
    """Payloads by stream, except the video's."""
    packet_times: dict[int, list[Fraction]]
    stream: Any
    languages: list[str | None]
    kinds: list[str]
    chapters: list[tuple[float, float, str]]
    metadata: dict[str, str]

    def patches(self, index: int) -> Image:
        """Mean of the patches of a frame, in its own numbers: ``[patch, plane]``."""
        frame = self.frames[index]
        deep = "10" in frame.format.name
        means = []
        for plane in frame.planes:
            dtype = np.uint16 if deep else np.uint8
            row = plane.line_size // np.dtype(dtype).itemsize
            values = np.frombuffer(plane, dtype).reshape(-1, row)[: plane.height, : plane.width]
            scale = plane.width / WIDTH
            top, bottom = round((CELL * 2 + 8) * scale), round((CELL * 2 + 24) * scale)
            side = plane.width // len(PATCHES)
            means.append(
                [
                    values[top:bottom, i * side + side // 4 : (i + 1) * side - side // 4].mean()
                    for i in range(len(PATCHES))
                ]
            )
        return np.array(means).T


def parts(path: Path) -> Parts:
    """Take a file apart."""
    frames, packets, times = [], dict[int, list[bytes]](), dict[int, list[Fraction]]()
    with av.open(str(path)) as container:
        picture = next(s for s in container.streams.video if not s.disposition & 0x400)
        for packet in container.demux():
            if packet.stream.index == picture.index:
                frames += packet.decode()
            elif packet.size and int(packet.stream.discard) != 48:
                codec = packet.stream.codec_context
                if codec is not None and codec.name == "mov_text" and packet.size <= 2:
                    continue
                packets.setdefault(packet.stream.index, []).append(bytes(packet))
                times.setdefault(packet.stream.index, []).append(packet.pts * packet.time_base)
        return Parts(
            numbers=[number_in(frame.to_ndarray(format="bgr24")) for frame in frames],
            times=[Fraction(frame.pts * frame.time_base) for frame in frames],
            frames=frames,
            packets=packets,
            packet_times=times,
            stream=_facts(picture, frames),
            languages=[s.language for s in container.streams if s.type in ("audio", "subtitle")],
            kinds=[s.type for s in container.streams if int(s.discard) != 48],
            chapters=[_chapter(one) for one in container.chapters()],
            metadata=dict(container.metadata),
        )  # fmt: skip


def _chapter(chapter: Any) -> tuple[float, float, str]:
    begin, end = (
        round(float(chapter[name] * chapter["time_base"]), 3) for name in ("start", "end")
    )
    return begin, end, chapter["metadata"].get("title", "")


def _facts(stream: Any, frames: Sequence[Any]) -> dict[str, Any]:
    first = frames[0]
    return {
        "aspect": stream.sample_aspect_ratio,
        "rotation": first.rotation,
        "range": int(first.color_range),
        "matrix": int(first.colorspace),
        "primaries": int(first.color_primaries),
        "transfer": int(first.color_trc),
        "format": first.format.name,
        "size": (first.width, first.height),
    }


class Enlarged:
    """Fake config that repeats each pixel ``scale`` times per side, and counts its calls.

    Args:
        scale: output size over input size.
        hold: images after which each call waits, until ``release`` is set or the run stops; None:
            no call waits.
        release: lets the waiting calls continue; None: they wait for the run to stop.
    """

    upscaler = network = tile = None
    threads, aligned, device = 1, False, "auto"

    def __init__(
        self, scale: int = 2, *, hold: int | None = None, release: threading.Event | None = None
    ) -> None:
        self.scale, self.count = float(scale), 0
        self._hold, self._release = hold, release or threading.Event()
        self._lock = threading.Lock()
        self.config, self.memory_fraction = self, 0.5
        use = ModelUse(model="enlarged", backend="numpy", device="cpu")
        self.info = RestorerInfo(
            scale=self.scale, key="enlarged", tile=None, upscaler=use, face=None
        )

    def open(self) -> Enlarged:
        return self

    def key(self) -> str:
        return self.info.key

    def on(self, **settings: Any) -> Enlarged:
        return self

    def batch_for(self, height: int, width: int) -> int:
        return 1

    def __call__(self, image: Image, *, progress: Any = None) -> Image:
        with self._lock:
            self.count += 1
            held = self._hold is not None and self.count > self._hold
        while held and not self._release.wait(0.001):
            progress(0, 1)
        if progress is not None:
            progress(1, 1)
        times = round(self.scale)
        return np.repeat(np.repeat(image, times, axis=0), times, axis=1)

    def batch(self, images: Sequence[Image]) -> list[Image]:
        return [self(image) for image in images]

    def pin_tile(self, tile: int | None) -> None:
        pass

    def close(self) -> None:
        pass

    def __enter__(self) -> Enlarged:
        return self

    def __exit__(self, *error: object) -> None:
        pass

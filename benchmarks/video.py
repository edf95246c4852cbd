"""``python -m benchmarks.video PHOTO``: restore_video against inference alone and libav alone."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import cv2
import numpy as np

from benchmarks.common import Image, json_option, report
from resharp import RestoreConfig, Upscaler, VideoOptions
from resharp.gpu.devices import usable_threads
from resharp.pipeline.restorer import ModelUse, RestorerInfo
from resharp.runtime import DEFAULT_MODEL
from resharp.video import VideoReport
from resharp.video.clip import Clip, probe
from resharp.video.color import Converter
from resharp.video.encoding import VideoEncoder, choose_encoder
from resharp.video.pyav import pyav
from resharp.video.run import render_video

RATE = 24
SCALE = 4
THREADS = usable_threads() * 3 // 2
"""Threads of the encoder in all variants, equal to the default of restore_video."""
OPTIONS = VideoOptions(encoder_threads=THREADS)
LIKE = 40.0
"""Minimum PSNR in dB between the results of two variants."""
Row = tuple[str, int, float, float, float]


@dataclass(frozen=True)
class Place:
    """Inputs and working folder of a measurement."""

    photo: Image
    folder: Path
    pairs: int
    model: str


@click.command()
@click.argument("photo", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-m", "--model", default=DEFAULT_MODEL, show_default=True)
@click.option("--pairs", default=1, show_default=True, help="Pairs for the inference comparison.")
@click.option("--only", type=click.Choice(["inference", "libav", "duplicates"]), multiple=True)
@json_option
def main(
    photo: Path, model: str, pairs: int, only: tuple[str, ...], json_file: Path | None
) -> None:
    """Time restore_video against its parts in turns; below 1, restore_video is faster."""
    picture = cv2.imread(str(photo), cv2.IMREAD_COLOR)
    if picture is None:
        raise click.ClickException(f"cannot read {photo}")
    parts = {"inference": _inference, "libav": _libav, "duplicates": _duplicates}
    rows: list[Row] = []
    notes: dict[str, Any] = {"encoder threads": THREADS}
    with tempfile.TemporaryDirectory(prefix="resharp-") as folder:
        place = Place(np.asarray(picture, np.uint8), Path(folder), pairs, model)
        for name, part in parts.items():
            if not only or name in only:
                rows += part(place, notes)
    for name in dict.fromkeys(row[0] for row in rows):
        found = [row[4] for row in rows if row[0] == name]
        notes[f"{name}, median ratio"] = statistics.median(found)
    columns = ("restore_video against", "pair", "restore_video (s)", "other (s)", "ratio")
    report("Video", columns, rows, notes, json_file)


def _inference(place: Place, notes: dict[str, Any]) -> list[Row]:
    """Compare with the network alone, on the same frames as arrays."""
    path = _clip(place, 120, 640, 360)
    frames = list(_arrays(path))
    config = RestoreConfig(model=place.model)
    with Upscaler(place.model) as upscaler:
        expected = upscaler(frames[0])

    def alone() -> None:
        with Upscaler(place.model) as upscaler:
            for frame in frames:
                upscaler(frame)

    target = place.folder / "inference.mp4"
    rows = _paired(
        {"inference alone": alone}, lambda: _whole(path, target, config), place.pairs, target
    )
    _assert_alike(next(_arrays(target)), expected)
    notes["inference"] = "120 frames of 640x360, x4"
    return rows


def _libav(place: Place, notes: dict[str, Any]) -> list[Row]:
    """Compare with decoding and encoding alone, with nearest-neighbor scaling as the network."""
    path, clip = _clip(place, 120, 640, 360), probe(place.folder / "clip.mp4")
    encoder = choose_encoder(clip, OPTIONS, 640 * SCALE, 360 * SCALE, THREADS)
    target, other = place.folder / "nearest.mp4", place.folder / "other.mp4"
    large = list(_plain(path))  # input of the last variant; not timed

    def encoding(frames: Callable[[], Iterator[Any]]) -> Callable[[], None]:
        return lambda: _encode(frames(), encoder, other)

    ways = {
        "loop over arrays": encoding(lambda: _plain(path)),
        "loop over arrays, exact colors": encoding(lambda: _exact(path, clip, encoder)),
        "decode + encode, no arrays": encoding(lambda: _kept(path, large)),
    }
    config = cast(RestoreConfig, Nearest())
    rows = _paired(ways, lambda: _whole(path, target, config), 5, target)
    _encode(_exact(path, clip, encoder), encoder, other)
    for ours, theirs in zip(_arrays(target), _arrays(other), strict=True):
        _assert_alike(ours, theirs)
    notes["libav"] = f"120 frames of 640x360, x{SCALE}, {encoder.name} {dict(encoder.options)}"
    return rows


def _duplicates(place: Place, notes: dict[str, Any]) -> list[Row]:
    """Compare with and without ``skip_duplicates`` on a clip that shows each view three times."""
    path, rows = _clip(place, 24, 320, 180, shown=3), list[Row]()
    config = RestoreConfig(model=place.model)
    target, other = place.folder / "skipping.mp4", place.folder / "all.mp4"
    for levels in (1.0, 2.0):
        options = VideoOptions(encoder_threads=THREADS, skip_duplicates=levels)
        name = f"itself without --skip-duplicates {levels:g}"
        ways = {name: partial(_whole, path, other, config)}
        made: list[VideoReport] = []

        def ours(options: VideoOptions = options, made: list[VideoReport] = made) -> None:
            made.append(_whole(path, target, config, options))

        rows += _paired(ways, ours, 3, target)
        for one, two in zip(_arrays(target), _arrays(other), strict=True):
            _assert_alike(one, two, 30.0)  # lower, because coding noise differs between frames
        told = f"{made[-1].restored} of 24 frames restored (8 views, each three times, 320x180, x4)"
        notes[f"--skip-duplicates {levels:g}"] = told
    return rows


def _paired(
    ways: Mapping[str, Callable[[], object]], ours: Callable[[], object], pairs: int, target: Path
) -> list[Row]:
    """Time all variants in turns, starting with a different one in each round."""
    rows: list[Row] = []
    order = [*ways, ""]
    for index in range(pairs):
        seconds = {}
        for name in order[index % len(order) :] + order[: index % len(order)]:
            if not name:
                target.unlink(missing_ok=True)
            begin = time.perf_counter()
            (ways[name] if name else ours)()
            seconds[name] = time.perf_counter() - begin
        rows += [
            (name, index, seconds[""], seconds[name], seconds[""] / seconds[name]) for name in ways
        ]
    return sorted(rows, key=lambda row: [*ways].index(row[0]))


def _whole(
    path: Path, target: Path, config: RestoreConfig, options: VideoOptions = OPTIONS
) -> VideoReport:
    made = render_video(path, target, config, options=options, overwrite=True)
    assert _times(made.target) == _times(path), "the timestamps differ"
    return made


class Nearest:
    """Stand-in for a config and its restorer: nearest-neighbor scaling at almost no cost."""

    upscaler = network = tile = None
    threads, aligned, device, scale = 1, False, "auto", float(SCALE)

    def __init__(self) -> None:
        self.config, self.memory_fraction = self, 0.5
        use = ModelUse(model="nearest", backend="opencv", device="cpu")
        self.info = RestorerInfo(
            scale=self.scale, key="nearest", tile=None, upscaler=use, face=None
        )

    def open(self) -> Nearest:
        """Return itself."""
        return self

    def key(self) -> str:
        """Return the key of its one setting."""
        return self.info.key

    def on(self, **settings: Any) -> Nearest:
        """Return itself for any settings."""
        return self

    def batch_for(self, height: int, width: int) -> int:
        """Return 1: images are processed one by one."""
        return 1

    def __call__(self, image: Image, *, progress: Any = None) -> Image:
        return enlarged(image)

    def batch(self, images: Sequence[Image]) -> list[Image]:
        """Enlarge several images."""
        return [enlarged(image) for image in images]

    def pin_tile(self, tile: int | None) -> None:
        """Do nothing: there are no tiles."""

    def close(self) -> None:
        """Do nothing: there are no resources."""

    def __enter__(self) -> Nearest:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def enlarged(image: Image) -> Image:
    """Enlarge an image by nearest-neighbor scaling."""
    size = (image.shape[1] * SCALE, image.shape[0] * SCALE)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_NEAREST), image.dtype)


def _plain(path: Path) -> Iterator[Any]:
    """Yield enlarged frames, converted with libswscale's default flags as in a plain loop."""
    for frame in _frames(path):
        large = enlarged(frame.to_ndarray(format="bgr24"))
        made = pyav().VideoFrame.from_ndarray(large, format="bgr24").reformat(format="yuv420p")
        yield _stamped(made, frame)


def _exact(path: Path, clip: Clip, encoder: VideoEncoder) -> Iterator[Any]:
    """Yield enlarged frames, converted with resharp's flags."""
    converter = Converter()
    for frame in _frames(path):
        large = enlarged(converter.to_array(frame, clip.form, clip.color))
        yield _stamped(converter.to_frame(large, encoder.form, encoder.color), frame)


def _kept(path: Path, large: Sequence[Any]) -> Iterator[Any]:
    """Decode frames and replace each by a prepared frame of the output size."""
    for frame, made in zip(_frames(path), large, strict=True):
        yield _stamped(made, frame)


def _stamped(made: Any, frame: Any) -> Any:
    made.pts, made.time_base = frame.pts, frame.time_base
    return made


def _frames(path: Path) -> Iterator[Any]:
    with pyav().open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        yield from container.decode(video=0)


def _arrays(path: Path) -> Iterator[Image]:
    clip, converter = probe(path), Converter()
    for frame in _frames(path):
        yield converter.to_array(frame, clip.form, clip.color)


def _times(path: Path) -> list[Fraction]:
    """Return the presentation times of all packets, in seconds."""
    with pyav().open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        return sorted(Fraction(packet.pts * packet.time_base) for packet in packets)


def _encode(frames: Iterator[Any], encoder: VideoEncoder, target: Path) -> None:
    with pyav().open(str(target), "w") as out:
        stream: Any = out.add_stream(encoder.name, rate=encoder.rate, options=dict(encoder.options))
        stream.width, stream.height = encoder.width, encoder.height
        stream.pix_fmt, stream.time_base = encoder.form.name, encoder.time_base
        context = stream.codec_context
        context.time_base, context.thread_count = encoder.time_base, encoder.threads
        context.color_range, context.colorspace = encoder.color.range, encoder.color.matrix
        for frame in frames:
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def _clip(place: Place, count: int, width: int, height: int, shown: int = 1) -> Path:
    """Encode a clip that pans over the photo and shows each view ``shown`` times."""
    path, views = place.folder / "clip.mp4", count // shown
    photo = _filling(place.photo, width + 2 * views, height + views)
    with pyav().open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=RATE, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(count):
            view = number // shown
            part = np.ascontiguousarray(photo[view : view + height, 2 * view : 2 * view + width])
            out.mux(stream.encode(pyav().VideoFrame.from_ndarray(part, format="bgr24")))
        out.mux(stream.encode(None))
    return path


def _filling(photo: Image, width: int, height: int) -> Image:
    """Resize the photo so that it covers a size."""
    factor = max(width / photo.shape[1], height / photo.shape[0])
    size = (int(np.ceil(photo.shape[1] * factor)), int(np.ceil(photo.shape[0] * factor)))
    return np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8)


def _assert_alike(one: Image, two: Image, decibels: float = LIKE) -> None:
    error = float(np.mean((one.astype(np.float64) - two) ** 2))
    psnr = 10 * np.log10(255**2 / max(error, 1e-9))
    assert psnr >= decibels, f"PSNR must be at least {decibels:g} dB, got {psnr:.1f}"


if __name__ == "__main__":
    main()

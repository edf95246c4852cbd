"""Image sequences: a folder or a numbered pattern of pictures in place of a video file."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from resharp.errors import ImageError, OptionError, OutputError, VideoError
from resharp.fsutil import sha256_of, write_whole
from resharp.images import read, suffixes, writable, write
from resharp.types import Image
from resharp.video.clip import DEFAULT_RATE, Clip, probe
from resharp.video.color import FULL, RGB, Color, PixelFormat
from resharp.video.options import VideoOptions
from resharp.video.source_frame import SourceFrame

NUMBER = re.compile(r"%(0?\d*)d")
TIMECODES = "timecodes.txt"


def probe_any(source: str | os.PathLike[str], options: VideoOptions) -> Clip:
    """Look at a video file, a folder of pictures, or a pattern of them.

    Raises:
        VideoError: it cannot be read; or there are no pictures.
    """
    text = os.fspath(source)
    if os.path.isdir(text):
        found = sorted(p for p in Path(text).iterdir() if _is_picture(p))
        return _of_pictures(Path(text), found, options.fps or DEFAULT_RATE)
    if NUMBER.search(Path(text).name) and not os.path.exists(text):
        clip = _of_pictures(Path(text), _matching(text), options.fps or DEFAULT_RATE)
        return replace(clip, notes=tuple(_gaps(clip, Path(text).name)))
    return probe(text)


def _gaps(clip: Clip, name: str) -> Iterator[str]:
    """What to say of numbers that are missing."""
    numbers = [int(found[1]) for p in clip.files if (found := _numbered(name).fullmatch(p.name))]
    missing = numbers[-1] - numbers[0] + 1 - len(numbers)
    if missing > 0:
        yield f"{missing} numbers from {numbers[0]} to {numbers[-1]} have no picture: passed over"


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in suffixes() and path.is_file() and not path.name.startswith(".")


def _numbered(name: str) -> re.Pattern[str]:
    """What the names of a pattern look like; the number is its group."""
    before, after = NUMBER.split(name)[0], NUMBER.split(name)[-1]
    return re.compile(rf"{re.escape(before)}(\d+){re.escape(after)}")


def _matching(pattern: str) -> list[Path]:
    """The files of a pattern like ``frame_%05d.png``, by their numbers."""
    folder, name = Path(pattern).parent, Path(pattern).name
    numbered = _numbered(name)
    loose = NUMBER.sub("*", glob.escape(name))
    found = [(m, p) for p in folder.glob(loose) if (m := numbered.fullmatch(p.name)) is not None]
    return [path for _, path in sorted(found, key=lambda item: int(item[0][1]))]


def _of_pictures(source: Path, found: Sequence[Path], rate: Fraction) -> Clip:
    if not found:
        raise VideoError(f"{source} holds no picture ({', '.join(suffixes())})")
    first = picture(found[0])
    deep, alpha = first.dtype == np.uint16, first.shape[2] == 4
    names = {(False, False): "bgr24", (False, True): "bgra", (True, False): "bgr48le"}
    form = PixelFormat(
        name=names.get((deep, alpha), "rgba64le"), depth=16 if deep else 8, rgb=True, alpha=alpha,
        gray=False, across=2, down=2,
    )  # fmt: skip
    return Clip(
        path=source,
        stream=0,
        width=first.shape[1],
        height=first.shape[0],
        form=form,
        color=Color(FULL, RGB),
        time_base=1 / rate,
        rate=rate,
        first=0,
        frames=len(found),
        aspect=None,
        matrix=None,
        files=tuple(found),
    )


def picture(path: Path) -> Image:
    """A picture of a sequence, as BGR or BGRA ``[h, w, c]``; uint8 or uint16.

    Raises:
        VideoError: it cannot be read.
    """
    try:
        pixels = read(path).pixels
    except ImageError as error:
        raise VideoError(f"{error} What is before it is restored and kept") from error
    if pixels.dtype == np.float32:
        raise VideoError(f"{path} holds floats: make it 16 bits first, videos have whole numbers")
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    return np.asarray(pixels)


def sequence(clip: Clip, first: int = 0) -> Iterator[SourceFrame]:
    """The pictures of a sequence from that number on.

    Raises:
        VideoError: one cannot be read, or has another size than the first.
    """
    for number, path in enumerate(clip.files[first:], start=first):
        image = picture(path)
        if image.shape[:2] != (clip.height, clip.width) or image.shape[2] != (
            4 if clip.form.alpha else 3
        ):
            raise VideoError(
                f"{path} is {image.shape[1]}x{image.shape[0]} with {image.shape[2]} channels, and "
                f"the first is {clip.width}x{clip.height} with {4 if clip.form.alpha else 3}: a "
                "video has one size. Use resharp upscale for pictures of any size"
            )
        if image.dtype != (np.uint16 if clip.form.depth > 8 else np.uint8):
            raise VideoError(f"{path} has another number of bits than the first picture")
        yield SourceFrame(number, 1, image)


@dataclass(frozen=True)
class FrameFiles:
    """A sequence that is written."""

    folder: Path
    pattern: str
    """Name of a frame, with its number: ``%06d.png``."""

    def path(self, number: int) -> Path:
        """Where the frame of that number, from 0, goes; files are numbered from 1."""
        return self.folder / NUMBER.sub(lambda m: f"{number + 1:{m[1] or '0'}d}", self.pattern)

    def has(self, path: Path) -> bool:
        """Whether a file has the name of a frame, whatever its number."""
        if os.path.realpath(path.parent) != os.path.realpath(self.folder):
            return False
        return _numbered(self.pattern).fullmatch(path.name) is not None

    def digest(self, first: int, count: int) -> str | None:
        """SHA-256 over frames; None where one is not there."""
        paths = map(self.path, range(first, first + count))
        try:
            return sha256_of(b"".join(bytes.fromhex(sha256_of(path)) for path in paths))
        except OSError:
            return None

    def write(self, number: int, image: Image) -> None:
        """Write a frame, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        write(self.path(number), image)

    def repeat(self, number: int) -> None:
        """Write the frame before once more.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            write_whole(self.path(number), self.path(number - 1).read_bytes())
        except OSError as error:
            raise OutputError(f"{self.path(number)} cannot be written: {error}") from error

    def finish(self, times: Sequence[int], time_base: Fraction) -> None:
        """Write when each frame is shown, in milliseconds (timestamp format 2).

        Frames that follow the last are of a longer result that was here before: they go.
        """
        number = len(times)
        while os.path.exists(self.path(number)):
            self.path(number).unlink()
            number += 1
        lines = [f"{float(time * time_base * 1000):.6f}" for time in times]
        text = "\n".join(["# timestamp format v2", *lines]) + "\n"
        write_whole(self.folder / TIMECODES, text.encode("ascii"))


def sequence_target(target: Path) -> FrameFiles | None:
    """What is to be written, if the target is a sequence.

    Raises:
        OptionError: pictures of that ending cannot be written.
    """
    if NUMBER.search(target.name):
        if target.suffix.lower() not in writable():
            raise OptionError(f"{target.suffix or 'no ending'} cannot be written: end it in .png")
        return FrameFiles(Path(os.path.abspath(target)).parent, target.name)  # noqa: PTH100
    return None

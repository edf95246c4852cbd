"""Image sequences: a folder of images or a numbered pattern instead of a video file."""

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
from resharp.images import read, suffixes, writable
from resharp.types import Image
from resharp.video.clip import DEFAULT_RATE, Clip, SourceFrame, probe
from resharp.video.color import FULL, RGB, Color, PixelFormat
from resharp.video.options import VideoOptions

NUMBER = re.compile(r"%(0?\d*)d")
TIMECODES = "timecodes.txt"


def probe_any(source: str | os.PathLike[str], options: VideoOptions) -> Clip:
    """Return the properties of a video file, a folder of images, or a pattern of them.

    Raises:
        VideoError: the input cannot be read, or there are no images.
    """
    text = os.fspath(source)
    if os.path.isdir(text):
        files = sorted(path for path in Path(text).iterdir() if path.is_file())
        found = [p for p in files if p.suffix.lower() in suffixes() and not p.name.startswith(".")]
        return _of_pictures(Path(text), found, options.fps or DEFAULT_RATE)
    if NUMBER.search(Path(text).name) and not os.path.exists(text):
        numbered = _matching(text)
        files = [path for _, path in numbered]
        clip = _of_pictures(Path(text), files, options.fps or DEFAULT_RATE)
        first, last = numbered[0][0], numbered[-1][0]
        missing = last - first + 1 - len(files)
        if missing > 0:
            note = f"{missing} numbers from {first} to {last} have no image and are skipped"
            clip = replace(clip, notes=(note,))
        return clip
    return probe(text)


def _numbered(name: str) -> re.Pattern[str]:
    """Return a regular expression for the file names of a pattern; its group is the number."""
    before, after = NUMBER.split(name)[0], NUMBER.split(name)[-1]
    return re.compile(rf"{re.escape(before)}(\d+){re.escape(after)}")


def _matching(pattern: str) -> list[tuple[int, Path]]:
    """Return the files of a pattern like ``frame_%05d.png`` with their numbers, in order."""
    folder, name = Path(pattern).parent, Path(pattern).name
    numbered = _numbered(name)
    files = folder.glob(NUMBER.sub("*", glob.escape(name)))
    found = [(int(match[1]), path) for path in files if (match := numbered.fullmatch(path.name))]
    return sorted(found, key=lambda item: item[0])


def _of_pictures(source: Path, found: Sequence[Path], rate: Fraction) -> Clip:
    if not found:
        raise VideoError(f"{source} has no images ({', '.join(suffixes())})")
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
        files=tuple(found),
    )


def picture(path: Path) -> Image:
    """Read an image of a sequence as BGR or BGRA ``[h, w, c]``, uint8 or uint16.

    Raises:
        VideoError: the image cannot be read.
    """
    try:
        pixels = read(path).pixels
    except ImageError as error:
        raise VideoError(f"{error} All images before it are restored and kept.") from error
    if pixels.dtype == np.float32:
        raise VideoError(
            f"{path} has float pixels, which a video cannot hold: convert it to 16 bits"
        )
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    return np.asarray(pixels)


def sequence(clip: Clip, first: int = 0) -> Iterator[SourceFrame]:
    """Yield the images of a sequence from number ``first`` on.

    Raises:
        VideoError: an image cannot be read, or differs in size or format from the first.
    """
    shape = (clip.height, clip.width, 4 if clip.form.alpha else 3)
    for number, path in enumerate(clip.files[first:], start=first):
        image = picture(path)
        if image.shape != shape:
            raise VideoError(
                f"{path} is {image.shape[1]}x{image.shape[0]} with {image.shape[2]} channels, but "
                f"the first image is {clip.width}x{clip.height} with {shape[2]}. All images of a "
                "video must have the same size: use 'resharp upscale' for images of any size."
            )
        if image.dtype != (np.uint16 if clip.form.depth > 8 else np.uint8):
            raise VideoError(f"{path} does not have the bit depth of the first image")
        yield SourceFrame(number, 1, image)


@dataclass(frozen=True)
class FrameFiles:
    """An image sequence that is written."""

    folder: Path
    pattern: str
    """Pattern of the file names, e.g. ``%06d.png``."""

    def path(self, number: int) -> Path:
        """Return the path of a frame, numbered from 0; file names are numbered from 1."""
        return self.folder / NUMBER.sub(lambda m: f"{number + 1:{m[1] or '0'}d}", self.pattern)

    def has(self, path: Path) -> bool:
        """Return whether a file has the name of a frame, with any number."""
        if os.path.realpath(path.parent) != os.path.realpath(self.folder):
            return False
        return _numbered(self.pattern).fullmatch(path.name) is not None

    def digest(self, first: int, count: int) -> str | None:
        """Return the SHA-256 over ``count`` frames; None if one is missing."""
        paths = map(self.path, range(first, first + count))
        try:
            return sha256_of(b"".join(bytes.fromhex(sha256_of(path)) for path in paths))
        except OSError:
            return None

    def repeat(self, number: int) -> None:
        """Write the previous frame again as frame ``number``.

        Raises:
            OutputError: the file cannot be written.
        """
        try:
            write_whole(self.path(number), self.path(number - 1).read_bytes())
        except OSError as error:
            raise OutputError(f"cannot write {self.path(number)}: {error}") from error

    def finish(self, times: Sequence[int], time_base: Fraction) -> None:
        """Write the time of each frame, in milliseconds (timestamp format v2).

        Frames after the last one are from an earlier, longer result, and are deleted.
        """
        number = len(times)
        while os.path.exists(self.path(number)):
            self.path(number).unlink()
            number += 1
        lines = [f"{float(time * time_base * 1000):.6f}" for time in times]
        text = "\n".join(["# timestamp format v2", *lines]) + "\n"
        write_whole(self.folder / TIMECODES, text.encode("ascii"))


def sequence_target(target: Path) -> FrameFiles | None:
    """Return the image sequence to write; None if the target is not a pattern.

    Raises:
        OptionError: images with that extension cannot be written.
    """
    if not NUMBER.search(target.name):
        return None
    if target.suffix.lower() not in writable():
        extension = f"extension {target.suffix}" if target.suffix else "no extension"
        raise OptionError(f"cannot write images with {extension}: use e.g. .png in `dst`")
    return FrameFiles(Path(os.path.abspath(target)).parent, target.name)  # noqa: PTH100

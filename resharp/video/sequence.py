"""Image sequences: a folder of images or a numbered pattern instead of a video file."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from resharp.errors import ImageError, OptionError, OutputError, VideoError
from resharp.fsutil import PART, remove_leftovers, sha256_of, write_whole
from resharp.images import Metadata, header, metadata_in, pixel_limit, read, suffixes, writable
from resharp.images.codec import TRUNCATED_HINT
from resharp.images.color_signal import ColorSignal
from resharp.images.formats import detect
from resharp.images.limits import check_header
from resharp.images.transfer import cannot_hold
from resharp.opencv import cv2
from resharp.outputs import FileStat
from resharp.reading import open_regular, read_bounded
from resharp.types import Image, Log
from resharp.video.animation import lost_of, probe_animation
from resharp.video.clip import DEFAULT_RATE, Clip, SourceFrame, probe, with_colors
from resharp.video.color import FULL, RGB, Color, PixelFormat
from resharp.video.options import VideoOptions

logger = logging.getLogger(__name__)

NUMBER = re.compile(r"%(0?\d*)d")
TIMECODES = "timecodes.txt"
_HEAD = 4096
_STILL = ("jpeg", "tiff", "bmp")
"""Formats without animations, of which incomplete ones are restored as far as they go."""
ROUNDING = Fraction(1, 1000)
"""Seconds by which the durations of equal frames differ where a file counts milliseconds."""


def probe_any(source: str | os.PathLike[str], options: VideoOptions) -> Clip:
    """Return the properties of a video file, a folder of images, or a pattern of them.

    Raises:
        VideoError: the input cannot be read, or there are no images.
    """
    text, limit = os.fspath(source), options.max_pixels
    if os.path.isdir(text):
        try:
            files = sorted(path for path in Path(text).iterdir() if os.path.isfile(path))
        except OSError as error:
            raise VideoError(f"the folder {text} cannot be read: {error.strerror}") from error
        found = [p for p in files if p.suffix.lower() in suffixes() and not p.name.startswith(".")]
        return _of_pictures(Path(text), found, options)
    if NUMBER.search(Path(text).name) and not os.path.exists(text):
        numbered = [one for one in _matching(text) if os.path.isfile(one[1])]
        files = [path for _, path in numbered]
        clip = _of_pictures(Path(text), files, options)
        first, last = numbered[0][0], numbered[-1][0]
        missing = last - first + 1 - len(files)
        if missing > 0:
            note = f"{missing} numbers from {first} to {last} have no image and are skipped"
            clip = replace(clip, notes=(*clip.notes, note))
        return clip
    _check_size(Path(text), limit)
    animation = probe_animation(text, limit)
    if animation is not None and options.stream in (None, animation.stream):
        return animation
    if animation is not None:
        return probe(text, options.stream, limit)
    return _of_file(Path(text), options)


def _of_file(path: Path, options: VideoOptions) -> Clip:
    """Return the properties of a video file, or of an image, which is a video of one frame."""
    try:
        with path.open("rb") as file:
            form = detect(file.read(_HEAD))
    except OSError:
        form = None  # `probe` says why
    # FFmpeg shows the transparency and the tiles of AVIF as streams of their own, and ignores the
    # transparent color of a PNG of fewer than 8 bits, and most of what it says about colors.
    if form in ("avif", "png"):
        return _of_pictures(path, [path], options)
    clip = probe(path, options.stream, options.max_pixels)
    if form is None:
        return clip
    stated = _stated(path, options.max_pixels)
    known = {"icc"} if "ICC_PROFILE" in clip.side_data else set()
    known |= {"exif"} if "EXIF" in clip.side_data else set()
    notes = (*lost_of(stated, "the result", frozenset(known)), *stated.lost)
    return replace(clip, notes=(*clip.notes, *notes))


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


def _check_size(path: Path, max_pixels: int | None) -> None:
    """Check the header of a file if it is an image, which may be animated or incomplete.

    Raises:
        VideoError: its frames have too many pixels.
    """
    try:
        with open_regular(path) as file:
            form = detect(file.read(_HEAD))
            if form is None:
                return
            found = header(file, str(path))
    except (OSError, ImageError):
        return  # reading it reports the reason
    try:
        check_header(found, str(path), max_pixels, whole=found.format in _STILL)
    except ImageError as error:
        raise VideoError(str(error)) from error


def _of_pictures(source: Path, found: Sequence[Path], options: VideoOptions) -> Clip:
    rate = options.fps or DEFAULT_RATE
    if not found:
        raise VideoError(f"{source} has no images ({', '.join(suffixes())})")
    first, stated = picture(found[0], options.max_pixels)[0], _stated(found[0], options.max_pixels)
    left = lost_of(stated, "the result", frozenset({"icc"}))
    deep, alpha = first.dtype == np.uint16, first.shape[2] == 4
    names = {(False, False): "bgr24", (False, True): "bgra", (True, False): "bgr48le"}
    form = PixelFormat(
        name=names.get((deep, alpha), "rgba64le"), depth=16 if deep else 8, rgb=True, alpha=alpha,
        gray=False, across=2, down=2,
    )  # fmt: skip
    clip = Clip(
        path=source,
        stream=0,
        width=first.shape[1],
        height=first.shape[0],
        form=form,
        color=_color_of(stated),
        time_base=1 / rate,
        rate=rate,
        first=0,
        frames=len(found),
        files=tuple(found),
        notes=(*left, *stated.lost),
        max_pixels=options.max_pixels,
    )
    times = found[0].with_name(TIMECODES)
    if len(found) > 1 and options.fps is None and os.path.exists(times):
        note = f"{times} is not read: each image is shown for 1/{rate} second; `fps` changes it"
        clip = replace(clip, notes=(*clip.notes, note))
    return with_colors(clip, stated)


def _stated(path: Path, max_pixels: int | None) -> Metadata:
    try:
        return metadata_in(read_bounded(path, pixel_limit(max_pixels).bytes))[0]
    except (ImageError, OSError):  # `picture` says why
        return Metadata()


def _color_of(stated: Metadata) -> Color:
    """Return the colors that an image states by code points, as video does."""
    if stated.color is None or stated.color.cicp is None:
        return Color(FULL, RGB)
    return Color(FULL, RGB, *stated.color.cicp)


def picture(path: Path, max_pixels: int | None = None) -> tuple[Image, Metadata]:
    """Read an image of a sequence, of at most so many pixels, and its properties.

    Returns:
        BGR or BGRA ``[h, w, c]``, uint8 or uint16, and the metadata.

    Raises:
        VideoError: the image cannot be read.
    """
    try:
        found = read(path, max_pixels=max_pixels)
    except ImageError as error:
        raise VideoError(str(error).replace(TRUNCATED_HINT, ".")) from error
    pixels = found.pixels
    if pixels.dtype == np.float32:
        raise VideoError(
            f"{path} has float pixels, which a video cannot hold: convert it to 16 bits"
        )
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    return np.asarray(pixels), found.metadata


def sequence(clip: Clip, first: int = 0, warn: Log = logger.warning) -> Iterator[SourceFrame]:
    """Yield the images of a sequence from number ``first`` on.

    Args:
        clip: the images.
        first: number of the image to begin with.
        warn: called with a note if an image states something that the first one does not.

    Raises:
        VideoError: an image cannot be read, or differs in size or format from the first.
    """
    shape = (clip.height, clip.width, 4 if clip.form.alpha else 3)
    unlike = _Unlike(clip)
    for number, path in enumerate(clip.files[first:], start=first):
        try:
            image, stated = picture(path, clip.max_pixels)
        except VideoError as error:
            raise VideoError(f"{error} All images before it are restored and kept.") from error
        if image.shape != shape:
            raise VideoError(
                f"{path} is {image.shape[1]}x{image.shape[0]} with {image.shape[2]} channels, but "
                f"the first image is {clip.width}x{clip.height} with {shape[2]}. All images of a "
                "video must have the same size and channels: use 'resharp upscale' for images of "
                "any size."
            )
        if image.dtype != (np.uint16 if clip.form.depth > 8 else np.uint8):
            raise VideoError(f"{path} does not have the bit depth of the first image")
        for note in unlike.notes(stated, path):
            warn(note)
        yield SourceFrame(number, 1, image)


class _Unlike:
    """Looks for what images state and the first one does not, about which the user knows."""

    def __init__(self, clip: Clip) -> None:
        first = _stated(clip.files[0], clip.max_pixels)
        self._colors, self._seen = _colors_of(first), {*_kinds(first)}
        # `read` takes the resolution from EXIF too.
        self._seen |= {cannot_hold("the result", "density")} if first.exif is not None else set()

    def notes(self, stated: Metadata, path: Path) -> Iterator[str]:
        """Yield a note for each kind that no image before had."""
        new = [kind for kind in _kinds(stated) if kind not in self._seen]
        self._seen.update(new)
        for kind in new:
            yield f"{path.name}: {kind}"
        if "colors" not in self._seen and _colors_of(stated) != self._colors:
            self._seen.add("colors")
            yield f"{path.name} states other colors than the first image, whose colors count"


def _kinds(stated: Metadata) -> list[str]:
    return list(lost_of(stated, "the result", frozenset({"icc"})))


def _colors_of(stated: Metadata) -> tuple[bytes | None, Color, ColorSignal | None]:
    """Return all that an image states about its colors."""
    signal = stated.color
    known = None if signal is None or signal.cicp or signal.is_srgb or stated.icc else signal
    return stated.icc, _color_of(stated), known


@dataclass(frozen=True)
class FrameFiles:
    """An image sequence that is written."""

    folder: Path
    pattern: str
    """Pattern of the file names, e.g. ``%06d.png``."""

    def path(self, number: int) -> Path:
        """Return the path of a frame, numbered from 0; file names are numbered from 1."""
        return self.folder / NUMBER.sub(lambda m: f"{number + 1:{m[1] or '0'}d}", self.pattern)

    def existing(self) -> list[Path]:
        """Return the files in the folder that have the name of a frame, in order."""
        return [path for _, path in self._matching()]

    def _matching(self) -> list[tuple[int, Path]]:
        return _matching(os.fspath(self.folder / self.pattern))

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

    def sizes(self, count: int) -> str | None:
        """Return the SHA-256 over the sizes of the first ``count`` frames; None if one is missing.

        They tell changed frames from others without reading them.
        """
        try:
            sizes = [self.path(number).stat().st_size for number in range(count)]
        except OSError:
            return None
        return sha256_of(str(sizes).encode("ascii"))

    def changed(self, count: int) -> int:
        """Return when any of the first ``count`` frames was changed or moved last, in ns."""
        try:
            return max(map(_changed, map(self.path, range(count))), default=0)
        except OSError:
            return 0

    def repeat(self, number: int) -> None:
        """Write the previous frame again as frame ``number``.

        Raises:
            OutputError: the file cannot be written.
        """
        try:
            write_whole(self.path(number), self.path(number - 1).read_bytes())
        except OSError as error:
            raise OutputError(f"cannot write {self.path(number)}: {error}") from error

    def timecodes(self, times: Sequence[int], time_base: Fraction, last: int = 0) -> bytes:
        """Return the time of each frame, in milliseconds (timestamp format v2).

        One more line holds the end of the last frame, if it is not shown as long as the one before,
        which is what readers assume.

        Args:
            times: timestamps of the frames, in ticks.
            time_base: length of a tick, in seconds.
            last: duration of the last frame, in ticks; 0 if unknown.
        """
        before = times[-1] - times[-2] if len(times) > 1 else 0
        if last and abs(last - before) * time_base > ROUNDING:
            times = [*times, times[-1] + last]
        lines = [f"{float(time * time_base * 1000):.6f}" for time in times]
        return ("\n".join(["# timestamp format v2", *lines]) + "\n").encode("ascii")

    def finish(self, count: int, timecodes: bytes, earlier: FileStat) -> int:
        """Write the file of timestamps, and delete the images of an earlier, longer result.

        Temporary files of killed runs are deleted, too; no other process may be writing here.

        Args:
            count: number of images.
            timecodes: contents of the file of timestamps.
            earlier: number of images of an earlier result under the same names, and the time of
                the last change of any; those changed later are kept.

        Returns:
            Number of images after the last one that are left, since no run has made them.
        """
        for number in range(count, earlier.size):
            path = self.path(number)
            if os.path.lexists(path) and _changed(path) <= earlier.mtime_ns:
                path.unlink()
        remove_leftovers(self.folder / TIMECODES)
        for path in self.folder.glob(f".*{PART}"):
            name = path.name[1:].removesuffix(PART).rpartition(".")[0]
            if _numbered(self.pattern).fullmatch(name):
                path.unlink(missing_ok=True)
        write_whole(self.folder / TIMECODES, timecodes)
        return sum(number > count for number, _ in self._matching())


def _changed(path: Path) -> int:
    """Return when a file was written, or moved to its place, in nanoseconds."""
    found = path.lstat()
    return max(found.st_mtime_ns, found.st_ctime_ns)


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

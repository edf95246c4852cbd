"""Animated images as input: GIF, APNG, WebP and AVIF.

FFmpeg decodes GIF and APNG correctly, and AVIF but for its transparency, which is a stream of its
own. It does not decode animated WebP: Pillow does.
"""

from __future__ import annotations

import logging
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from resharp.errors import ImageError, VideoError
from resharp.images import Metadata, exif, metadata_in, pixel_limit
from resharp.images.transfer import cannot_hold
from resharp.opencv import cv2
from resharp.optional import require
from resharp.reading import read_bounded
from resharp.types import Image
from resharp.video.clip import Clip, SourceFrame, probe, with_colors
from resharp.video.color import FULL, RGB, Color, Converter, PixelFormat, color_of, pixel_format
from resharp.video.pyav import limiting, open_video, pyav
from resharp.video.side_data import losses, oriented

logger = logging.getLogger(__name__)

AnimationFormat = Literal["GIF", "APNG", "WebP", "AVIF"]
_HEAD = 4096
_MILLISECOND = Fraction(1, 1000)
_SHORTEST, _USUAL = 10, 100
"""Milliseconds: browsers show a frame of at most the first for the second."""
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, KeyError, TypeError, struct.error)
"""What Pillow raises for damaged files."""


@dataclass(frozen=True, kw_only=True)
class Animation:
    """What an animated image states besides its frames."""

    format: AnimationFormat
    plays: int = 0
    """How often it is played; 0: forever."""
    decoder: Literal["webp", "avif", "gif"] | None = None
    """How :func:`animated` decodes it; None: as any video."""
    alpha: int | None = None
    """Index of the stream that holds the transparency of an AVIF; None: there is none."""
    orientation: int = 1
    """EXIF orientation of the frames, 1 to 8; it is not in ``metadata`` any more."""
    metadata: Metadata = field(default_factory=Metadata)
    """Metadata of upright frames."""
    notes: tuple[str, ...] = ()
    """Notes for the user about what is lost in any result."""

    def lost_in(self, what: str, keeps: frozenset[str] = frozenset()) -> Iterator[str]:
        """Yield a note for each thing that a result cannot hold.

        Args:
            what: name of the result's format.
            keeps: names of the fields of ``metadata`` that it holds, and ``plays``.
        """
        yield from lost_of(self.metadata, what, keeps)
        if self.plays != 1 and "plays" not in keeps:
            often = f"{self.plays} times" if self.plays else "forever"
            yield cannot_hold(what, f"the loop count ({often})")


def lost_of(metadata: Metadata, what: str, keeps: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield a note for each kind of metadata that a result cannot hold.

    Args:
        metadata: what images state.
        what: name of the result's format.
        keeps: names of the fields that it holds.
    """
    for kind in ("icc", "exif", "xmp", "photoshop", "text", "gain_map"):
        if getattr(metadata, kind) and kind not in keeps:
            yield cannot_hold(what, kind)
    if metadata.own and "own" not in keeps:
        yield cannot_hold(what, "the data of other programs (PNG chunks)")
    density = metadata.density
    if density is not None and density.inches and "density" not in keeps:
        yield cannot_hold(what, "density")


def probe_animation(path: str | os.PathLike[str], max_pixels: int | None = None) -> Clip | None:
    """Return the properties of an animated image; None if the file is something else.

    Args:
        path: the file.
        max_pixels: most pixels that a frame may have; None is the default.

    Raises:
        VideoError: the file is damaged, its frames are too large, or it holds several images that
            are not an animation.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            head = file.read(_HEAD)
    except OSError:
        return None  # `probe` says why
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        _refuse_pages(path)
    clip = _of(path, head, max_pixels)
    return clip and replace(clip, max_pixels=max_pixels)


def _of(path: str | os.PathLike[str], head: bytes, max_pixels: int | None) -> Clip | None:
    """Return the properties of an animated image, by its first bytes."""
    if head[:4] == b"GIF8":
        return _of_gif(path, max_pixels)
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        stated = _stated(path, "APNG", max_pixels)
        return None if stated is None else _with(probe(path, max_pixels=max_pixels), stated)
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and head[20] & 2:
        return _of_webp(path, max_pixels)
    if head[4:8] == b"ftyp" and b"avis" in _brands(head):
        return _of_avif(path, max_pixels)
    return None


@contextmanager
def _pillow(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open an image with Pillow.

    Raises:
        VideoError: it claims more pixels than Pillow reads.
    """
    pil = require("PIL.Image", feature="Animated images", extra="video", package="pillow")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with pil.open(path) as image:
                yield image
        except pil.DecompressionBombError as error:
            raise VideoError(
                f"{path} claims more pixels than can be read ({error}): make it smaller, or copy "
                "or download it again if it is damaged"
            ) from error


def _refuse_pages(path: str | os.PathLike[str]) -> None:
    """Raise an error for a TIFF of several pages."""
    try:
        with _pillow(path) as image:
            pages = image.n_frames
    except _BROKEN:
        return  # `probe` says why
    if pages > 1:
        raise VideoError(
            f"{path} is a TIFF of {pages} pages, which are not the frames of a video: split it "
            "into one file per page, then run 'resharp upscale' on their folder"
        )


def _stated(
    path: str | os.PathLike[str], form: AnimationFormat, max_pixels: int | None
) -> Animation | None:
    """Return what a GIF, PNG or AVIF states besides its frames; None: a PNG that does not move."""
    loop: int | None = 0
    try:
        if form != "AVIF":  # its loop count is in its edit list
            with _pillow(path) as image:
                if form == "APNG" and image.get_format_mimetype() != "image/apng":
                    return None
                loop = image.info.get("loop")
    except VideoError:
        raise
    except _BROKEN as error:
        logger.debug("%s cannot be read by Pillow: %s", path, error)
        if form == "APNG":
            return None
    return _described(loop, path, form, max_pixels)


def _described(
    loop: int | None, path: str | os.PathLike[str], form: AnimationFormat, max_pixels: int | None
) -> Animation:
    plays = loop or 0
    if form == "GIF":  # it states repetitions, or nothing
        plays = 1 if loop is None else loop + 1 if loop else 0
    try:
        data = read_bounded(path, pixel_limit(max_pixels).bytes)
        found, turn = metadata_in(data)
    except (ImageError, OSError) as error:
        note = f"the metadata of {path} is left out: the file is incomplete or damaged ({error})"
        return Animation(format=form, plays=plays, notes=(note,))
    return Animation(
        format=form,
        plays=plays,
        orientation=turn,
        metadata=_upright(found, turn),
        notes=found.lost,
    )


def _upright(found: Metadata, turn: int) -> Metadata:
    """Return metadata for frames that are turned upright, as results are or say."""
    block, density = found.exif, found.density
    if block is not None:
        try:
            block = exif.upright(block, turn)
        except ValueError:  # it is malformed, which the writer says
            logger.debug("the EXIF block is malformed", exc_info=True)
    return replace(found, exif=block, density=density and density.turned(turn), lost=())


def _of_webp(path: str | os.PathLike[str], max_pixels: int | None) -> Clip:
    """Return the properties of an animated WebP. Decodes all of it, for times and transparency."""
    times, alpha = [], False
    with _webp(path) as image:
        described = _described(image.info.get("loop"), path, "WebP", max_pixels)
        for pixels, duration in _webp_frames(image, path):
            times.append(duration)
            alpha = alpha or bool(pixels[..., 3].min() < 255)
        width, height = image.size
    total = sum(times)
    form = PixelFormat(
        name="bgra" if alpha else "bgr24", depth=8, rgb=True, alpha=alpha, gray=False,
        across=1, down=1,
    )  # fmt: skip
    clip = Clip(
        path=Path(path),
        stream=0,
        width=width,
        height=height,
        form=form,
        color=Color(FULL, RGB),
        time_base=_MILLISECOND,
        rate=Fraction(1000 * len(times), total),
        first=0,
        frames=len(times),
    )
    return _with(clip, replace(described, decoder="webp"))


def _of_gif(path: str | os.PathLike[str], max_pixels: int | None) -> Clip:
    """Return the properties of a GIF. FFmpeg corrects frames without a delay, but not of 10 ms."""
    clip = probe(path, max_pixels=max_pixels)
    stated = _stated(path, "GIF", max_pixels) or Animation(format="GIF")
    with open_video(path, pixel_limit(max_pixels).pixels) as container:
        stream = container.streams[clip.stream]
        lasts = [packet.duration or 0 for packet in container.demux(stream) if packet.size]
    if min(lasts, default=_USUAL) * clip.time_base > _SHORTEST * _MILLISECOND:
        return _with(clip, stated)
    slow = [_shown(last * clip.time_base) for last in lasts]
    note = f"frames of {_SHORTEST} ms are shown for {_USUAL} ms, as in browsers"
    timed = replace(
        clip,
        time_base=_MILLISECOND,
        rate=Fraction(1000 * len(slow), sum(slow)),
        first=0,
        frames=len(slow),
        notes=(*clip.notes, note),
    )
    return _with(timed, replace(stated, decoder="gif"))


def _with(clip: Clip, stated: Animation) -> Clip:
    """Return a clip with what its file states, instead of notes about the same in its frames."""
    doubled = set(losses(("EXIF", "ICC_PROFILE")))
    notes = tuple(note for note in clip.notes if note not in doubled)
    matrix = clip.matrix if stated.orientation == 1 else oriented(stated.orientation)
    clip = replace(clip, animation=stated, matrix=matrix, notes=(*notes, *stated.notes))
    return with_colors(clip, stated.metadata)


def _shown(seconds: Fraction) -> int:
    """Return how many milliseconds browsers show a frame."""
    last = round(seconds * 1000)
    return last if last > _SHORTEST else _USUAL


@contextmanager
def _webp(path: str | os.PathLike[str]) -> Iterator[Any]:
    try:
        with _pillow(path) as image:
            yield image
    except VideoError:
        raise
    except _BROKEN as error:
        raise VideoError(
            f"{path} is a damaged WebP file ({error}): copy or download it again"
        ) from error


def _webp_frames(image: Any, path: object) -> Iterator[tuple[Image, int]]:
    """Yield the frames of a WebP as RGBA with their durations in milliseconds."""
    for number in range(image.n_frames):
        image.seek(number)
        image.load()
        last = _shown(Fraction(image.info.get("duration", 0)) / 1000)
        yield np.asarray(image.convert("RGBA")), last


def _brands(head: bytes) -> bytes:
    """Return the brands of an ISO base media file."""
    return head[8 : max(int.from_bytes(head[:4], "big"), 16)]


def _of_avif(path: str | os.PathLike[str], max_pixels: int | None) -> Clip:
    """Return the properties of an AVIF sequence, which holds a still image too."""
    with open_video(path, pixel_limit(max_pixels).pixels) as container:
        tracks = [one for one in container.streams.video if one.time_base != 1 or one.frames > 1]
        if not tracks:
            return probe(path, max_pixels=max_pixels)
        color, *others = [one.index for one in tracks]
    alpha = others[0] if others and b"auxv" in _movie(path) else None
    stated = _stated(path, "AVIF", max_pixels) or Animation(format="AVIF")
    clip = probe(path, color, max_pixels)
    stated = replace(stated, plays=_avif_plays(path))
    if alpha is not None:
        name = clip.form.name.replace("yuv", "yuva").replace("gbr", "gbra")
        form = pixel_format(name) if "a" in name else replace(clip.form, alpha=True)
        clip = replace(clip, form=replace(form, alpha=True))
        stated = replace(stated, alpha=alpha, decoder="avif")
    return _with(clip, stated)


def _avif_plays(path: str | os.PathLike[str]) -> int:
    """Return how often an AVIF sequence is played: the length of its track over that of its edit.

    Without an edit list, browsers play it forever.
    """
    try:
        movie = _movie(path)
        track, edit = movie.index(b"tkhd") + 4, movie.index(b"elst") + 4
        if not movie[edit + 3] & 1:  # the edit is not repeated
            return 1
        long = struct.Struct(">Q"), struct.Struct(">I")
        form = long[0] if movie[track] else long[1]
        (whole,) = form.unpack_from(movie, track + (28 if movie[track] else 20))
        form = long[0] if movie[edit] else long[1]
        (once,) = form.unpack_from(movie, edit + 8)
    except (OSError, ValueError, IndexError, struct.error):
        return 0
    return 0 if not once or whole >= (1 << 8 * form.size) - 1 else max(round(whole / once), 1)


def _movie(path: str | os.PathLike[str]) -> bytes:
    """Return the ``moov`` box of a file.

    Raises:
        ValueError: there is none.
    """
    with open(path, "rb") as file:  # noqa: PTH123
        while len(head := file.read(16)) >= 8:
            size, kind = struct.unpack_from(">I4s", head)
            if size == 1 and len(head) == 16:
                (size,) = struct.unpack_from(">Q", head, 8)
            if size < 8:
                break
            if kind == b"moov":
                return head[8:] + file.read(size - len(head))
            file.seek(size - len(head), os.SEEK_CUR)
    raise ValueError


def animated(clip: Clip) -> Iterator[SourceFrame]:
    """Yield the frames of an animation that has a ``decoder``.

    Raises:
        VideoError: the file is damaged.
    """
    if clip.animation is not None and clip.animation.decoder == "avif":
        yield from _with_alpha(clip, clip.animation)
        return
    pts = 0
    if clip.animation is not None and clip.animation.decoder == "gif":
        for frame, image in _stream(clip, clip.stream):
            last = _shown(frame.duration * (frame.time_base or _MILLISECOND))
            yield SourceFrame(pts, last, image)
            pts += last
        return
    with _webp(clip.path) as image:
        for pixels, duration in _webp_frames(image, clip.path):
            code = cv2.COLOR_RGBA2BGRA if clip.form.alpha else cv2.COLOR_RGBA2BGR
            yield SourceFrame(pts, duration, np.asarray(cv2.cvtColor(pixels, code)))
            pts += duration


def _with_alpha(clip: Clip, animation: Animation) -> Iterator[SourceFrame]:
    """Yield the frames of an AVIF sequence with their transparency, which is a second stream."""
    colors = _stream(clip, clip.stream)
    alphas = _stream(clip, animation.alpha)
    last = clip.first - 1
    for frame, image in colors:
        _, alpha = next(alphas, (None, None))
        if alpha is None:
            at = f"{float((last + 1 - clip.first) * clip.time_base):.3f}"
            raise VideoError(f"{clip.path}: its transparency ends early, after {at} seconds")
        if image.dtype != alpha.dtype:
            alpha = alpha.astype(np.uint16) * np.uint16(257) if alpha.dtype == np.uint8 else alpha
            image = image.astype(np.uint16) * np.uint16(257) if image.dtype == np.uint8 else image
        pts = last + 1 if frame.pts is None else frame.pts
        last = pts
        yield SourceFrame(pts, frame.duration, np.dstack([image, alpha[..., 0]]))


def _stream(clip: Clip, index: int | None) -> Iterator[tuple[Any, Image]]:
    """Yield the frames of a stream of a file, and as BGR."""
    converter, limit = Converter(), pixel_limit(clip.max_pixels).pixels
    with open_video(clip.path, limit) as container:
        stream: Any = container.streams[index or 0]
        stream.codec_context.options = limiting(limit)
        try:
            frames: Iterator[Any] = container.decode(stream)
            for frame in frames:
                form = pixel_format(frame.format.name)
                yield frame, converter.to_array(frame, form, color_of(frame, form))
        except pyav().error.FFmpegError as error:
            raise VideoError(f"{clip.path} is damaged: {error}") from error

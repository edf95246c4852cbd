"""Writers of GIF, APNG and WebP, which take restored frames one at a time."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from resharp.errors import OutputError
from resharp.images import Metadata
from resharp.images.color_signal import ColorSignal, describe, icc_profile, to_srgb
from resharp.images.containers import png
from resharp.images.formats import choose
from resharp.images.transfer import fit
from resharp.opencv import cv2
from resharp.optional import require
from resharp.types import Image
from resharp.video.clip import Clip
from resharp.video.color import Converter
from resharp.video.encoding import VideoEncoder
from resharp.video.gif_palette import GifColors
from resharp.video.pyav import open_file, open_video, pyav
from resharp.video.resume import Segment

WEBP_QUALITY = 90
"""Quality of the colors of WebP; transparency is lossless, and so are frames that become smaller
without loss, such as drawings."""
_PNG_HEAD = 33
"""Bytes of the signature and IHDR."""
_PNG_SHAPE = 21
"""Bytes of pHYs, which FFmpeg always writes next."""
Scheduled = list[tuple[int, int]]
"""Number of each frame to write, and its duration in units of the format."""


class AnimationFrames:
    """The frames of finished segments, upright, with the times at which they are shown.

    Args:
        clip: the input.
        encoder: encoder settings of the segments.
        segments: all segments, in order.
        folder: folder of the segments.
        schedule: which frames are shown, and how long.
        unit: seconds per unit of these durations.

    Raises:
        OutputError: a segment is damaged.
    """

    def __init__(
        self,
        clip: Clip,
        encoder: VideoEncoder,
        segments: Sequence[Segment],
        folder: Path,
        schedule: Scheduled,
        unit: Fraction,
    ) -> None:
        self._segments, self._folder = segments, folder
        self.encoder, self._matrix = encoder, clip.matrix
        self.schedule, self.unit = schedule, unit
        self.size = upright_size(clip, encoder.width, encoder.height)
        """Width and height in pixels."""
        self.colors = clip.colors
        """What the result must state about its colors."""
        self._stated, self.plays = Metadata(icc=clip.icc), 0
        """How often the result is played; 0: forever."""
        self._moves = clip.animation is not None
        if clip.animation is not None:
            self._stated, self.plays = clip.animation.metadata, clip.animation.plays
        self._convert: ColorSignal | None = None
        """Colors to convert to sRGB; None if they stay as they are."""
        self.alpha = self.partial = False
        """Whether any pixel is transparent, and whether any is so in part."""
        for image in self._all() if encoder.form.alpha else ():
            alpha, most = image[..., 3], np.iinfo(image.dtype).max
            self.alpha = self.alpha or bool(alpha.min() < most)
            self.partial = self.partial or bool(((alpha > 0) & (alpha < most)).any())

    def metadata(self, name: str) -> tuple[Metadata, list[str]]:
        """Return what the input states, as a format can hold it, and notes about what it cannot.

        Colors are not part of it, but for the ICC profile.

        Args:
            name: name of the format in :mod:`resharp.images`; ``gif`` has XMP and texts only.
        """
        width, height = self.size
        stated, density = self._stated, self._stated.density
        if density is not None and not density.inches:  # the shape of the pixels, which is known
            density = None
        stated = replace(stated, icc=self.colors.icc, color=None, density=density, gain_map=None)
        if name == "gif":  # PNG holds them as they are too
            name, stated = "png", Metadata(xmp=stated.xmp, text=stated.text)
        pixels = np.broadcast_to(np.uint8(0), (height, width, 3))
        _, kept, notes = fit(pixels, stated, choose(name))
        return kept, notes

    def _all(self) -> Iterator[Image]:
        converter, encoder = Converter(), self.encoder
        for segment in self._segments:
            count = 0
            with open_video(self._folder / str(segment.file)) as container:
                for frame in container.decode(container.streams.video[0]):
                    count += 1
                    image = converter.to_array(frame, encoder.form, encoder.color)
                    yield _upright(image, self._matrix)
            if count != len(segment.times):
                raise OutputError(
                    f"segment {segment.file} holds {count} frames instead of "
                    f"{len(segment.times)}: remove {self._folder} and run it again"
                )

    def still(self, name: str) -> list[str]:
        """Return a note if a format makes a still image of an animation of one frame."""
        if not self._moves or len(self.schedule) > 1:
            return []
        return [f"a single frame becomes a still {name}: its duration and loop count are left out"]

    def make_srgb(self, name: str) -> tuple[str, ...]:
        """Convert colors to sRGB if an untagged image would show them wrong; return a note then.

        Args:
            name: name of the format, for the note.
        """
        self._convert = self.colors.color
        if self._convert is None:
            return ()
        return (f"the colors are converted to sRGB: {name} cannot hold {describe(self._convert)}",)

    def images(self, depth: int = 8) -> Iterator[Image]:
        """Yield the scheduled frames as BGR, or BGRA if any pixel of the animation is transparent.

        Args:
            depth: bits per component; frames with more are rounded.
        """
        wanted = iter(self.schedule)
        following = next(wanted, None)
        for number, image in enumerate(self._all()):
            while following is not None and following[0] == number:
                shown = image if self.alpha else image[..., :3]
                if self._convert is not None:
                    shown = to_srgb(np.ascontiguousarray(shown), self._convert)
                yield _reduced(shown, depth)
                following = next(wanted, None)


def upright_size(clip: Clip, width: int, height: int) -> tuple[int, int]:
    """Return the width and height of frames when they are turned as the input says."""
    swapped = clip.matrix is not None and _turns(clip.matrix)[0]
    return (height, width) if swapped else (width, height)


def _turns(matrix: Sequence[int]) -> tuple[bool, bool, bool]:
    """Return whether a display matrix swaps the axes, and then mirrors columns and rows."""
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    if abs(b) > abs(a):
        return True, c < 0, b < 0
    return False, a < 0, d < 0


def _upright(image: Image, matrix: Sequence[int] | None) -> Image:
    if matrix is None:
        return image
    swap, columns, rows = _turns(matrix)
    image = image.swapaxes(0, 1) if swap else image
    return image[:: -1 if rows else 1, :: -1 if columns else 1]


def _reduced(image: Image, depth: int) -> Image:
    if image.dtype == np.uint8 or depth > 8:
        return np.ascontiguousarray(image)
    return ((image.astype(np.uint32) * 255 + 32_767) // 65_535).astype(np.uint8)


def _write_gif(part: Path, frames: AnimationFrames) -> tuple[str, ...]:
    quantizer, plays = GifColors(), frames.plays
    notes = [*frames.make_srgb("GIF")]
    made = (
        pyav().VideoFrame.from_ndarray(quantizer.indexed(image), format="pal8")
        for image in frames.images()
    )
    loop = -1 if plays == 1 else max(plays - 1, 0)
    options = {"loop": str(loop), "final_delay": str(frames.schedule[-1][1])}
    _encode(part, frames, made, "gif", {"pix_fmt": "pal8"}, options)
    stated, lost = frames.metadata("gif")
    _insert_in_gif(part, stated)
    notes += lost
    if not quantizer.exact:
        notes.append("colors are reduced to 255 per frame, the most that GIF holds, and dithered")
    if frames.partial:
        notes.append("partial transparency becomes full or none: GIF cannot hold it")
    return tuple(notes)


def _insert_in_gif(part: Path, stated: Metadata) -> None:
    """Add comments and XMP, after the header and the number of repetitions."""
    blocks = b""
    for keyword, text in stated.text:
        data = (text if keyword == "Comment" else f"{keyword}: {text}").encode()
        pieces = [data[at : at + 255] for at in range(0, len(data), 255)]
        blocks += b"!\xfe" + b"".join(bytes([len(one)]) + one for one in pieces) + b"\0"
    if stated.xmp is not None:  # raw, followed by a trailer that ends it for any reader
        trailer = b"\x01" + bytes(range(255, -1, -1)) + b"\0"
        blocks += b"!\xff\x0bXMP DataXMP" + stated.xmp + trailer
    with part.open("rb") as file:
        head = file.read(13 + 3 * 256 + 19)
    at = 13 + (3 * (2 << (head[10] & 7)) if head[10] & 0x80 else 0)
    _insert(part, at + (19 if head[at : at + 14] == b"!\xff\x0bNETSCAPE2.0" else 0), blocks)


def _insert(part: Path, at: int, data: bytes, drop: int = 0) -> None:
    """Insert bytes into a file, in place of the next ``drop`` ones."""
    if not data:
        return
    copy = part.with_name(f"{part.name}.copy")
    try:
        with part.open("rb") as source, copy.open("wb") as target:
            target.write(source.read(at) + data)
            source.seek(drop, os.SEEK_CUR)
            shutil.copyfileobj(source, target, 1 << 20)
        copy.replace(part)
    finally:
        copy.unlink(missing_ok=True)


def _write_apng(part: Path, frames: AnimationFrames) -> tuple[str, ...]:
    deep, (stated, notes) = frames.encoder.form.depth > 8, frames.metadata("png")
    stated = replace(stated, color=frames.colors.color)
    name = "rgba64be" if frames.alpha and deep else "rgb48be" if deep else "rgb24"
    name = "rgba" if frames.alpha and not deep else name
    code = cv2.COLOR_BGRA2RGBA if frames.alpha else cv2.COLOR_BGR2RGB

    def made() -> Iterator[Any]:
        for image in frames.images(16):
            yield pyav().VideoFrame.from_ndarray(cv2.cvtColor(image, code), format=name)

    last = frames.schedule[-1][1] * frames.unit
    options = {"plays": str(frames.plays), "final_delay": str(last)}
    settings = {"pix_fmt": name, "sample_aspect_ratio": frames.encoder.aspect or Fraction(1)}
    _encode(part, frames, made(), "apng", settings, options)
    _insert_in_png(part, stated)
    return (*notes, *frames.still("APNG"))


def _insert_in_png(part: Path, stated: Metadata) -> None:
    """Add metadata after the header."""
    with part.open("rb") as file:
        head, shape = file.read(_PNG_HEAD), file.read(_PNG_SHAPE)
    doubled = stated.density is not None and shape[4:8] == b"pHYs"
    chunks = png.embed(head, stated)[_PNG_HEAD:]
    if stated.icc is not None:
        chunks += png.chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(stated.icc))
    if stated.exif is not None:
        chunks += png.chunk(b"eXIf", stated.exif)
    _insert(part, _PNG_HEAD, chunks, _PNG_SHAPE if doubled else 0)


def _encode(
    part: Path,
    frames: AnimationFrames,
    made: Iterator[Any],
    name: str,
    settings: dict[str, Any],
    options: dict[str, str],
) -> None:
    """Encode frames with FFmpeg, whose muxers need to be told how long the last one is shown.

    Args:
        part: file to write.
        frames: what is written.
        made: its frames as FFmpeg's.
        name: FFmpeg's name of the encoder, and of the format.
        settings: attributes of the encoder.
        options: options of the muxer.
    """
    quick = {"pred": "mixed"} if name == "apng" else {}
    with open_file(str(part), "w", format=name, container_options=options) as out:
        stream = out.add_stream(name, rate=25, options=quick)
        context = stream.codec_context
        context.width, context.height = frames.size
        for setting, value in settings.items():
            setattr(context, setting, value)
        stream.time_base = context.time_base = frames.unit
        time = 0
        for frame, (_, duration) in zip(made, frames.schedule, strict=True):
            frame.pts, frame.time_base = time, frames.unit
            time += duration
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


class _Rest:
    """All frames but the first, as an image of Pillow that moves; it holds one at a time."""

    def __init__(self, images: Iterator[Any], count: int) -> None:
        self.n_frames, self._images, self._image = count, images, None

    def seek(self, number: int) -> None:
        self._image = next(self._images)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._image, name)


def _write_webp(part: Path, frames: AnimationFrames) -> tuple[str, ...]:
    pil = require("PIL.Image", feature="Animated WebP", extra="video", package="pillow")
    stated, notes = frames.metadata("webp")
    signal, icc = frames.colors.color, stated.icc
    if signal is not None:
        if signal.is_hdr:
            notes += frames.make_srgb("WebP")
        else:
            icc = icc_profile(signal)
    code = cv2.COLOR_BGRA2RGBA if frames.alpha else cv2.COLOR_BGR2RGB
    images = (pil.fromarray(cv2.cvtColor(image, code)) for image in frames.images())
    first = next(images)
    count = len(frames.schedule) - 1
    first.save(
        part,
        format="WEBP",
        save_all=True,
        append_images=[_Rest(images, count)] if count else [],
        duration=[duration for _, duration in frames.schedule],
        loop=frames.plays,
        quality=WEBP_QUALITY,
        allow_mixed=True,
        method=4,
        kmin=9,
        kmax=17,
        icc_profile=icc or b"",
        exif=stated.exif or b"",
        xmp=stated.xmp or b"",
    )
    if frames.alpha:
        _state_transparency(part)
    return (*notes, *frames.still("WebP"))


def _state_transparency(part: Path) -> None:
    """Set the flag of a WebP that says that it has transparency.

    The encoder forgets it if each frame is an opaque rectangle of a transparent canvas.
    """
    with part.open("r+b") as file:
        head = file.read(21)
        if head[12:16] == b"VP8X":
            file.seek(20)
            file.write(bytes([head[20] | 0x10]))


WRITERS: dict[str, Callable[[Path, AnimationFrames], tuple[str, ...]]] = {
    "gif": _write_gif,
    "webp": _write_webp,
    "apng": _write_apng,
}
"""Writers by :attr:`MuxPlan.format`; they return notes for the user."""

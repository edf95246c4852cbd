"""Decode image files to upright pixels and metadata, and encode them again.

OpenCV decodes and encodes the pixels. The parsers in ``containers`` provide what OpenCV does not:
whether the file is complete, how many images it holds, their orientation, and the metadata in the
same form for every format.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from resharp.checks import check_int
from resharp.errors import ImageError, OutputError
from resharp.fsutil import write_whole
from resharp.images import exif, formats, limits, transfer
from resharp.images.containers import avif, bmp, gif, jpeg, png, tiff, webp
from resharp.images.containers.info import (
    ContainerInfo,
    DamagedContainerError,
    TruncatedError,
    UnsupportedError,
)
from resharp.images.header import HEAD, Header, damaged, detect, header, parsing
from resharp.images.ifd import MalformedError
from resharp.images.picture import Density, Metadata, Picture, Pixels
from resharp.opencv import cv2

logger = logging.getLogger(__name__)
TRUNCATED_HINT = ", or use `allow_truncated` to restore the readable part."
_WALKERS: dict[str, Callable[[bytes], ContainerInfo]] = {
    "png": png.inspect,
    "jpeg": jpeg.inspect,
    "webp": webp.inspect,
    "tiff": tiff.inspect,
    "avif": avif.inspect,
    "gif": gif.inspect,
    "bmp": bmp.inspect,
}


def read(
    path: str | os.PathLike[str], *, max_pixels: int | None = None, allow_truncated: bool = False
) -> Picture:
    """Read one image: complete, upright, with the depth, alpha and metadata of its file.

    The format is detected from the content, not from the suffix.

    Args:
        path: the file.
        max_pixels: most pixels that an image may have; None is ``RESHARP_MAX_PIXELS``, or else a
            number that depends on the memory, and refuses suspiciously small files of large images.
        allow_truncated: read the rest of a file whose end is missing. The first note in
            ``metadata.lost`` says what is missing.

    Raises:
        OptionError: ``max_pixels`` is not a positive integer.
        ImageError: the file cannot be read, is not an image, is damaged or truncated, holds
            several images, has too many pixels, or is a variant that OpenCV would read
            incorrectly.
    """
    data = limits.load(path, max_pixels=max_pixels)
    return decode(data, str(path), max_pixels=max_pixels, allow_truncated=allow_truncated)


def decode(
    data: bytes,
    name: str = "the image",
    *,
    max_pixels: int | None = None,
    allow_truncated: bool = False,
) -> Picture:
    """Decode the bytes of one image file, as :func:`read` does.

    Args:
        data: contents of the file.
        name: how error messages refer to the file.
        max_pixels: as for :func:`read`.
        allow_truncated: as for :func:`read`.

    Raises:
        OptionError: ``max_pixels`` is not a positive integer.
        ImageError: the data is not one intact image of a supported format, or it has too many
            pixels.
    """
    form = detect(data[:HEAD], name)
    found = header(data, name)
    limits.check_header(found, name, max_pixels, whole=False)
    try:
        try:
            return _picture(data, found, form, name)
        except TruncatedError as exc:
            if not allow_truncated:
                text = str(damaged(name, form, exc)).removesuffix(".")
                raise ImageError(f"{text}{TRUNCATED_HINT}") from None
            return _partial_picture(data, form, name)
    except (DamagedContainerError, MalformedError) as exc:
        raise damaged(name, form, exc) from None
    except UnsupportedError as exc:
        raise ImageError(
            f"{name} is {form.label} with {exc}, which cannot be read without changing it. "
            f"{exc.advice}"
        ) from None


def _picture(data: bytes, found: Header, form: formats.Format, name: str) -> Picture:
    facts = _inspect(form.name, data)
    if found.least > found.size:
        raise TruncatedError(limits.overstated(found))
    _check_single(facts, form, name)
    packed = facts.decodable or data
    pixels = _decoded(packed, form, name, facts.check)
    if facts.verify:
        facts.verify(packed, pixels)
    for step in facts.finish:
        pixels = step(pixels)
    return _upright(pixels, facts, form, name)


def _partial_picture(data: bytes, form: formats.Format, name: str) -> Picture:
    """Decode the readable part of a truncated file."""
    from resharp.images import truncated

    with parsing(len(data)):
        part = truncated.completed(form.name, data)
    facts = _inspect(form.name, part.data)
    _check_single(facts, form, name)
    pixels = _decoded(facts.decodable or part.data, form, name)
    pixels, note = part.finish(pixels, lambda other: _decoded(other, form, name))
    for step in facts.finish:
        pixels = step(pixels)
    metadata = replace(facts.metadata, lost=(note, *facts.metadata.lost))
    return _upright(pixels, replace(facts, metadata=metadata), form, name)


def _check_single(facts: ContainerInfo, form: formats.Format, name: str) -> None:
    if facts.frames > 1:
        kind, advice = _several(form.name)
        raise ImageError(
            f"{name} holds {facts.frames} {kind} of one {form.label} file, but only one could be "
            f"kept. {advice}"
        )


def metadata_in(data: bytes) -> tuple[Metadata, int]:
    """Return what an image file with any number of images states; they are not decoded.

    So there is no limit on their pixels.

    Returns:
        The metadata as it is in the file, and how the images lie as an EXIF orientation of 1 to 8.

    Raises:
        ImageError: the data is not a complete file of a supported format.
    """
    form = detect(data[:HEAD], "the file")
    try:
        facts = _inspect(form.name, data)
    except (DamagedContainerError, UnsupportedError) as exc:
        raise ImageError(f"the {form.label} file is damaged: {exc}") from None
    block = facts.metadata.exif
    try:
        turn = facts.orientation or (exif.orientation(block) if block else 1)
    except MalformedError:  # of the EXIF block, which is dropped
        turn = 1
    return facts.metadata, turn


def _several(form: str) -> tuple[str, str]:
    """Return what several images in a file of a format are, and what to do with them."""
    if form in ("gif", "png", "webp", "avif"):
        return "frames", "Restore it with 'resharp video', which writes GIF, APNG, WebP or a video."
    return "images", "Split it into single images."


def _decoded(
    data: bytes | bytearray,
    form: formats.Format,
    name: str,
    check: Callable[[Any], bytes | bytearray] | None = None,
) -> Pixels:
    """Check and decode with OpenCV, and convert to the dtypes and shapes of this package."""
    try:
        checked = check(data) if check else data
        pixels = cv2.imdecode(np.frombuffer(checked, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as exc:
        raise ImageError(f"{name} cannot be decoded as {form.label}: {exc.err or exc}") from exc
    if pixels is None:
        raise ImageError(
            f"{name} is {form.label}, but its image data cannot be decoded: it is damaged, "
            "truncated or a rare variant. Copy it again, or save it as PNG."
        )
    if pixels.dtype == np.float64:
        pixels = pixels.astype(np.float32)
    if pixels.dtype not in (np.uint8, np.uint16, np.float32):
        raise ImageError(f"{name} has {pixels.dtype} samples. Convert them to 8 or 16 bits.")
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels


def _upright(pixels: Pixels, facts: ContainerInfo, form: formats.Format, name: str) -> Picture:
    """Apply the orientation of the container, or else of EXIF, and reset it in the metadata."""
    metadata, lost = facts.metadata, list(facts.metadata.lost)
    turn, density = facts.orientation or 1, metadata.density
    block = metadata.exif
    if block:
        try:
            turn = facts.orientation or exif.orientation(block)
            block = exif.upright(block, turn)
            if density is None and (dots := exif.density(block)):
                density = Density(*dots)
        except MalformedError as exc:
            lost.append(f"the EXIF data is left out: it is damaged ({exc})")
            logger.warning("%s: the EXIF data is left out: it is damaged (%s)", name, exc)
            block = None
    gain_map = metadata.gain_map
    if gain_map and turn != 1:
        gain_map = _turned_gain_map(gain_map, turn, pixels.shape[0] * pixels.shape[1])
        if gain_map is None:
            lost.append("the gain map is left out: it is damaged")
    if metadata.density:
        density = metadata.density.turned(turn)
    packet = metadata.xmp
    pixels = turned(pixels, turn)
    if packet:
        from resharp.images import xmp

        packet = xmp.corrected(packet, *pixels.shape[:2])
    metadata = replace(
        metadata,
        xmp=packet,
        exif=block,
        density=density,
        gain_map=gain_map,
        lost=tuple(dict.fromkeys(lost)),
    )
    return Picture(pixels=pixels, metadata=metadata, format=form.name)


def _turned_gain_map(data: bytes, turn: int, most: int) -> bytes | None:
    """Return a gain map, turned as its image was; None if it is too large or damaged."""
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        if header(data).pixels > most:
            return None
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if pixels is None:
            return None
        parameters = _parameters(formats.choose("jpeg"), None)
        ok, packed = cv2.imencode(".jpg", turned(pixels, turn), parameters)
        return jpeg.with_segments_of(packed.tobytes(), data) if ok else None
    except (cv2.error, DamagedContainerError, ImageError):
        return None


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """Turn pixels [h,w] or [h,w,c] with an EXIF orientation of 1 to 8 upright."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def write(
    path: str | os.PathLike[str],
    pixels: Pixels,
    metadata: Metadata | None = None,
    *,
    format: str | None = None,  # the name that users expect
    quality: int | None = None,
) -> tuple[str, ...]:
    """Write an image atomically.

    Args:
        path: file to write.
        pixels: upright; [h,w], [h,w,3] BGR or [h,w,4] BGRA; uint8, uint16 or float32 in 0..1.
        metadata: as returned by :func:`read`; its orientation and size are set to match ``pixels``.
        format: name or suffix of a format, which overrides the suffix of ``path``.
        quality: 1 to 100 for JPEG, WebP and AVIF; other formats ignore it.

    Returns:
        One note for each thing that the format cannot store.

    Raises:
        OptionError: ``format`` or ``quality`` is invalid.
        ImageError: ``pixels`` is not an image.
        OutputError: encoding or writing failed.
    """
    target = Path(path)
    data, notes = encode(
        pixels, metadata, format=target.suffix if format is None else format, quality=quality
    )
    write_whole(target, data)
    for note in notes:
        logger.info("%s: %s", target, note)
    return notes


def encode(
    pixels: Pixels,
    metadata: Metadata | None = None,
    *,
    format: str,
    quality: int | None = None,
) -> tuple[bytes, tuple[str, ...]]:
    """Encode an image in memory, with the arguments and errors of :func:`write`.

    Returns:
        The bytes of the file, and one note for each thing that the format cannot store.
    """
    form = formats.choose(format)
    parameters = _parameters(form, quality)
    pixels = formats.checked(pixels)
    height, width = pixels.shape[:2]
    formats.check_size(form, height, width, 1 if pixels.ndim == 2 else pixels.shape[2])
    pixels, kept, notes = transfer.fit(pixels, metadata or Metadata(), form)
    fitted, lost = formats.fit_pixels(pixels, form)
    if form.name == "avif" and fitted.dtype == np.uint16:
        parameters += [cv2.IMWRITE_AVIF_DEPTH, formats.AVIF_DEPTH]
    data = _encoded(fitted, kept, form, parameters, notes)
    found = (*(metadata.lost if metadata else ()), *lost, *notes, *_missing(data, kept, form))
    return data, tuple(dict.fromkeys(found))


def _parameters(form: formats.Format, quality: int | None) -> list[int]:
    value = form.quality if quality is None else check_int("quality", quality, 1, 100)
    if form.quality is None or value is None:
        return []
    if form.name == "jpeg":
        # The network outputs color at full resolution; 4:2:0 would discard three quarters of it.
        sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        return [cv2.IMWRITE_JPEG_QUALITY, value, *sampling]
    return [cv2.IMWRITE_WEBP_QUALITY if form.name == "webp" else cv2.IMWRITE_AVIF_QUALITY, value]


def _encoded(
    pixels: Pixels,
    metadata: Metadata,
    form: formats.Format,
    parameters: Sequence[int],
    notes: list[str],
) -> bytes:
    blocks = {cv2.IMAGE_METADATA_EXIF: metadata.exif, cv2.IMAGE_METADATA_ICCP: metadata.icc}
    if form.name in ("jpeg", "tiff", "bmp"):
        blocks = {}  # embedded below: OpenCV gets JPEG wrong and cannot do TIFF
    elif form.name != "png":  # XMP in PNG is embedded below: OpenCV gets it wrong
        blocks[cv2.IMAGE_METADATA_XMP] = metadata.xmp
    kinds = [kind for kind, block in blocks.items() if block]
    arrays = [np.frombuffer(block, np.uint8) for block in blocks.values() if block]
    try:
        ok, packed = cv2.imencodeWithMetadata(form.suffixes[0], pixels, kinds, arrays, parameters)
    except (cv2.error, MemoryError) as exc:
        raise OutputError(f"the {form.label} encoder failed: {exc}") from exc
    if not ok:
        size = f"{pixels.shape[1]} x {pixels.shape[0]} {pixels.dtype}"
        raise OutputError(f"the {form.label} encoder refused an image of {size}. Try PNG.")
    data = packed.tobytes()
    if form.name == "tiff":
        return tiff.embed(data, metadata, 1 if pixels.ndim == 2 else pixels.shape[2], notes)
    embed = {"jpeg": jpeg.embed, "png": png.embed, "bmp": bmp.embed, "avif": avif.embed}
    return embed[form.name](data, metadata) if form.name in embed else data


def _missing(data: bytes, wanted: Metadata, form: formats.Format) -> list[str]:
    """Return notes on what is missing from the file, since encoders drop blocks silently."""
    found = _inspect(form.name, data).metadata
    kinds = [kind for kind in transfer.WORDS if getattr(wanted, kind) and not getattr(found, kind)]
    if form.name == "tiff":  # their tags were noted one by one
        kinds = [kind for kind in kinds if kind not in ("exif", "text")]
    fault = f"too large for {form.label}, or refused by its encoder"
    return [
        f"{transfer.WORDS[kind]} {'are' if kind == 'text' else 'is'} left out: {fault}"
        for kind in kinds
    ]


def _inspect(name: str, data: bytes) -> ContainerInfo:
    """Parse the container; DamagedContainerError if it is truncated or inconsistent."""
    walker = _WALKERS.get(name)
    with parsing(len(data)):
        return walker(data) if walker else ContainerInfo()

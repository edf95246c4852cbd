"""From pixels and metadata to a whole file, or to no file and an OutputError."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from resharp.errors import OptionError, OutputError
from resharp.fsutil import write_whole
from resharp.images import exif, formats
from resharp.images import tiff_tags as graft
from resharp.images.containers import inspect, jpeg, png, tiff
from resharp.images.convert import AVIF_DEPTH, checked, fit_metadata, fit_pixels
from resharp.images.picture import Metadata, Pixels
from resharp.images.tiff_ifd import MalformedError

_log = logging.getLogger(__name__)


def write(
    path: str | os.PathLike[str],
    pixels: Pixels,
    metadata: Metadata | None = None,
    *,
    format: str | None = None,  # noqa: A002  # the word that every user looks for
    quality: int | None = None,
) -> tuple[str, ...]:
    """Write a picture whole or not at all; return a note for each thing the format cannot hold.

    pixels: upright; [h,w], [h,w,3] BGR or [h,w,4] BGRA; uint8, uint16 or float32 in 0..1. metadata:
    as `read` returns it; orientation and size in it are set to those of `pixels`. format: a name or
    suffix that overrules the one of `path`. quality: 1..100 for JPEG, WebP and AVIF; others ignore
    it. Raises OptionError (format, quality), ImageError (pixels) or OutputError (encoder, disk).
    """
    target = Path(path)
    data, notes = encode(
        pixels, metadata, format=target.suffix if format is None else format, quality=quality
    )
    write_whole(target, data)
    for note in notes:
        _log.info("%s: %s", target, note)
    return notes


def encode(
    pixels: Pixels,
    metadata: Metadata | None = None,
    *,
    format: str,  # noqa: A002
    quality: int | None = None,
) -> tuple[bytes, tuple[str, ...]]:
    """As `write`, into memory: the bytes of the file and the notes."""
    form = formats.choose(format)
    parameters = _parameters(form, quality)
    pixels = checked(pixels)
    height, width = pixels.shape[:2]
    if max(height, width) > form.max_side:
        raise OutputError(
            f"{form.label} holds at most {form.max_side} pixels a side and the picture is "
            f"{width} x {height}. Write TIFF, or a smaller picture."
        )
    kept, notes = fit_metadata(metadata or Metadata(), form, gray=pixels.ndim == 2)
    fitted, lost = fit_pixels(pixels, form)
    kept, complaint = _corrected(kept, height, width)
    notes += complaint
    if form.name == "avif" and fitted.dtype == np.uint16:
        parameters += [cv2.IMWRITE_AVIF_DEPTH, AVIF_DEPTH]
    data = _encoded(fitted, kept, form, parameters)
    return data, (*lost, *notes, *_missing(data, kept, form))


def _parameters(form: formats.Format, quality: int | None) -> list[int]:
    if quality is not None and not 1 <= quality <= 100:
        raise OptionError(f"A quality of {quality} makes no sense. Give 1 to 100.")
    value = quality or form.quality
    if form.quality is None or value is None:
        return []
    if form.name == "jpeg":
        # A network computes colour at full resolution; 4:2:0 would throw three quarters away.
        sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        return [cv2.IMWRITE_JPEG_QUALITY, value, *sampling]
    return [cv2.IMWRITE_WEBP_QUALITY if form.name == "webp" else cv2.IMWRITE_AVIF_QUALITY, value]


def _corrected(metadata: Metadata, height: int, width: int) -> tuple[Metadata, list[str]]:
    """Metadata that tells the truth about the pixels: their size, and that they are upright."""
    block, packet = metadata.exif, metadata.xmp
    notes = []
    if block:
        try:
            block = exif.resized(exif.upright(exif.payload(block)), height, width)
        except MalformedError as exc:
            notes.append(f"The EXIF block was dropped, for it is malformed: {exc}.")
            block = None
    packet = exif.upright_xmp(packet) if packet else None
    return Metadata(exif=block, icc=metadata.icc, xmp=packet), notes


def _encoded(
    pixels: Pixels, metadata: Metadata, form: formats.Format, parameters: Sequence[int]
) -> bytes:
    blocks = {cv2.IMAGE_METADATA_EXIF: metadata.exif, cv2.IMAGE_METADATA_ICCP: metadata.icc}
    if form.name in ("jpeg", "tiff"):
        blocks = {}  # embedded below: OpenCV gets the one wrong and cannot do the other
    elif form.name != "png":  # XMP in PNG: below, for the same reason
        blocks[cv2.IMAGE_METADATA_XMP] = metadata.xmp
    kinds = [kind for kind, block in blocks.items() if block]
    arrays = [np.frombuffer(block, np.uint8) for block in blocks.values() if block]
    try:
        ok, packed = cv2.imencodeWithMetadata(form.suffixes[0], pixels, kinds, arrays, parameters)
    except (cv2.error, MemoryError) as exc:
        raise OutputError(f"The {form.label} encoder failed: {exc}") from exc
    if not ok:
        size = f"{pixels.shape[1]} x {pixels.shape[0]} {pixels.dtype}"
        raise OutputError(f"The {form.label} encoder refused a picture of {size}. Try PNG.")
    data = packed.tobytes()
    if form.name == "jpeg":
        return jpeg.embed(data, metadata)
    if form.name == "png" and metadata.xmp:
        return png.embed_xmp(data, metadata.xmp)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    return tiff.embed(data, metadata, channels) if form.name == "tiff" else data


def _missing(data: bytes, wanted: Metadata, form: formats.Format) -> list[str]:
    """Notes on blocks that are not in the file; read back, for encoders drop them silently."""
    found = inspect(form.name, data).metadata
    pairs = {"EXIF": (wanted.exif, found.exif), "XMP": (wanted.xmp, found.xmp)}
    pairs["ICC"] = (wanted.icc, found.icc)
    if form.name == "tiff":
        # Tag by tag: a block that has only an orientation leaves nothing, and loses nothing.
        del pairs["EXIF"]
        if wanted.exif and graft.left_behind(wanted.exif):
            return ["TIFF cannot take over the maker notes of the EXIF block."]
    return [
        f"The {kind} block of {len(want)} bytes did not fit into {form.label}."
        for kind, (want, have) in pairs.items()
        if want and not have
    ]

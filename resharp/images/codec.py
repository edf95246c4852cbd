"""From the bytes of a picture file to upright pixels and metadata, and from these to such bytes.

OpenCV decides what the pixels are. The walkers of `containers` say what OpenCV does not: whether
the file is whole, how many pictures it holds, which way up they are, and the metadata in every
format alike.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from resharp.errors import ImageError, OptionError, OutputError
from resharp.fsutil import write_whole
from resharp.images import exif, formats, tiff_tags
from resharp.images.containers import avif, gif, jpeg, png, tiff, webp
from resharp.images.containers.info import ContainerInfo, DamagedContainerError, UnsupportedError
from resharp.images.picture import Metadata, Picture, Pixels
from resharp.images.tiff_ifd import MalformedError

logger = logging.getLogger(__name__)
_HEAD = 256
_PIXEL_LIMIT = "OPENCV_IO_MAX_IMAGE_PIXELS"
_WALKERS: dict[str, Callable[[bytes], ContainerInfo]] = {
    "png": png.inspect,
    "jpeg": jpeg.inspect,
    "webp": webp.inspect,
    "tiff": tiff.inspect,
    "avif": avif.inspect,
    "gif": gif.inspect,
}


def read(path: str | os.PathLike[str]) -> Picture:
    """Read one picture: whole, upright, with the depth, alpha and metadata that its file has.

    The content decides the format, not the suffix. Raises ImageError for what is no picture, is
    damaged or cut short, holds several pictures, or is a variant that would be read wrongly.
    """
    return decode(load(path), str(path))


def load(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a picture file, for `decode`; what begins as no picture is not read to its end.

    Raises ImageError as `read` does.
    """
    source = Path(path)
    try:
        with source.open("rb") as file:
            head = file.read(_HEAD)
            _detect(head, str(source))
            return head + file.read()
    except IsADirectoryError:
        raise ImageError(f"{source} is a folder. Name the pictures in it instead.") from None
    except FileNotFoundError:
        raise ImageError(f"{source} does not exist. Check the name and the folder.") from None
    except PermissionError as exc:
        if source.is_dir():  # what Windows says of a folder
            raise ImageError(f"{source} is a folder. Name the pictures in it instead.") from None
        raise ImageError(f"{source} may not be read: {exc.strerror}. Change its rights.") from exc
    except (OSError, ValueError) as exc:
        if isinstance(exc, ImageError):
            raise
        raise ImageError(f"{source} cannot be read: {exc}. Check the disk or the name.") from exc


def decode(data: bytes, name: str = "The picture") -> Picture:
    """As `read`, for the bytes of a file; `name` is what error messages call it."""
    form = _detect(data[:_HEAD], name)
    try:
        facts = _inspect(form.name, data)
    except DamagedContainerError as exc:
        raise ImageError(
            f"{name} is a damaged {form.label} file: {exc}. Copy or download it again."
        ) from None
    except UnsupportedError as exc:
        raise ImageError(
            f"{name} is a {form.label} file with {exc}, which cannot be read here without "
            "changing it. Convert it to gray, RGB or RGBA of 8 or 16 bits."
        ) from None
    if facts.frames > 1:
        raise ImageError(
            f"{name} holds {facts.frames} pictures (frames or pages of one {form.label} file), and "
            "only one could be kept. Split it into single pictures, or make a video of it."
        )
    pixels = _decoded(facts.decodable or data, form, name)
    for step in facts.finish:
        pixels = step(pixels)
    return _upright(pixels, facts, form, name)


def _detect(head: bytes, name: str) -> formats.Format:
    if not head:
        raise ImageError(f"{name} is empty (0 bytes). Copy or download it again.")
    found = formats.detect(head)
    readable = {form.name: form for form in formats.available()}
    if found in readable:
        return readable[found]
    what = f"{found.upper()}, which this build lacks" if found else formats.describe(head[:64])
    labels = ", ".join(form.label for form in readable.values())
    raise ImageError(f"{name} is no picture that can be read here: it is {what}. Use {labels}.")


def _decoded(data: bytes, form: formats.Format, name: str) -> Pixels:
    """OpenCV's pixels, with the dtypes and shapes of this package."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as exc:
        if "CV_IO_MAX_IMAGE" in str(exc):
            raise ImageError(
                f"{name} claims more pixels than are read by default, which a hostile file does "
                f"too. If you trust it, set {_PIXEL_LIMIT} to a higher number and try again."
            ) from exc
        raise ImageError(f"{name} cannot be decoded as {form.label}: {exc.err or exc}") from exc
    if pixels is None:
        raise ImageError(
            f"{name} is {form.label}, but its picture data cannot be decoded: it is damaged, cut "
            "short or of a rare variant. Copy it again, or save it anew as PNG."
        )
    if pixels.dtype == np.float64:
        pixels = pixels.astype(np.float32)
    if pixels.dtype not in (np.uint8, np.uint16, np.float32):
        raise ImageError(f"{name} has {pixels.dtype} samples. Convert it to 8 or 16 bits.")
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels


def _upright(pixels: Pixels, facts: ContainerInfo, form: formats.Format, name: str) -> Picture:
    """Turn the pixels as the container or else the EXIF block says, and say so in the metadata."""
    block, icc, xmp = facts.metadata.exif, facts.metadata.icc, facts.metadata.xmp
    turn = facts.orientation or 1
    if block:
        try:
            turn = facts.orientation or exif.orientation(block)
            block = exif.upright(block)
        except MalformedError as exc:
            logger.warning("%s: its EXIF block is malformed and was dropped: %s.", name, exc)
            block = None
    metadata = Metadata(exif=block, icc=icc, xmp=exif.upright_xmp(xmp) if xmp else None)
    return Picture(pixels=turned(pixels, turn), metadata=metadata, format=form.name)


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """Pixels [h,w] or [h,w,c] stored with an EXIF orientation of 1 to 8, as they are to be seen."""
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
    format: str | None = None,  # the word that every user looks for
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
        logger.info("%s: %s", target, note)
    return notes


def encode(
    pixels: Pixels,
    metadata: Metadata | None = None,
    *,
    format: str,
    quality: int | None = None,
) -> tuple[bytes, tuple[str, ...]]:
    """As `write`, into memory: the bytes of the file and the notes."""
    form = formats.choose(format)
    parameters = _parameters(form, quality)
    pixels = formats.checked(pixels)
    height, width = pixels.shape[:2]
    if max(height, width) > form.max_side:
        raise OutputError(
            f"{form.label} holds at most {form.max_side} pixels a side and the picture is "
            f"{width} x {height}. Write TIFF, or a smaller picture."
        )
    kept, notes = formats.fit_metadata(metadata or Metadata(), form, gray=pixels.ndim == 2)
    fitted, lost = formats.fit_pixels(pixels, form)
    kept, complaint = _corrected(kept, height, width)
    notes += complaint
    if form.name == "avif" and fitted.dtype == np.uint16:
        parameters += [cv2.IMWRITE_AVIF_DEPTH, formats.AVIF_DEPTH]
    data = _encoded(fitted, kept, form, parameters)
    return data, (*lost, *notes, *_missing(data, kept, form))


def _parameters(form: formats.Format, quality: int | None) -> list[int]:
    if quality is not None and not 1 <= quality <= 100:
        raise OptionError(f"A quality of {quality} makes no sense. Give 1 to 100.")
    value = quality or form.quality
    if form.quality is None or value is None:
        return []
    if form.name == "jpeg":
        # A network computes color at full resolution; 4:2:0 would throw three quarters away.
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
    found = _inspect(form.name, data).metadata
    pairs = {"EXIF": (wanted.exif, found.exif), "XMP": (wanted.xmp, found.xmp)}
    pairs["ICC"] = (wanted.icc, found.icc)
    if form.name == "tiff":
        # Tag by tag: a block that has only an orientation leaves nothing, and loses nothing.
        del pairs["EXIF"]
        if wanted.exif and tiff_tags.left_behind(wanted.exif):
            return ["TIFF cannot take over the maker notes of the EXIF block."]
    return [
        f"The {kind} block of {len(want)} bytes did not fit into {form.label}."
        for kind, (want, have) in pairs.items()
        if want and not have
    ]


def _inspect(name: str, data: bytes) -> ContainerInfo:
    """Walk a file of a format; DamagedContainerError if it is cut short or contradicts itself."""
    walker = _WALKERS.get(name)
    return walker(data) if walker else ContainerInfo()

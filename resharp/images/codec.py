"""Decode image files to upright pixels and metadata, and encode them again.

OpenCV decodes the pixels. The parsers in ``containers`` provide what OpenCV does not: whether the
file is complete, how many images it holds, their orientation, and the metadata in the same form for
every format.
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
    """Read one image: complete, upright, with the depth, alpha and metadata of its file.

    The format is detected from the content, not from the suffix.

    Raises:
        ImageError: the file cannot be read, is not an image, is damaged or truncated, holds
            several images, or is a variant that OpenCV would read incorrectly.
    """
    return decode(load(path), str(path))


def load(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of an image file for :func:`decode`; reading stops early for other files.

    Raises:
        ImageError: the file cannot be read, or does not start like a supported image.
    """
    source = Path(path)
    try:
        with source.open("rb") as file:
            head = file.read(_HEAD)
            _detect(head, str(source))
            return head + file.read()
    except IsADirectoryError:
        raise ImageError(f"{source} is a folder. Name the images in it instead.") from None
    except FileNotFoundError:
        raise ImageError(f"{source} does not exist. Check the path.") from None
    except PermissionError as exc:
        if source.is_dir():  # Windows reports folders this way
            raise ImageError(f"{source} is a folder. Name the images in it instead.") from None
        raise ImageError(
            f"{source} cannot be read: {exc.strerror}. Change its permissions."
        ) from exc
    except (OSError, ValueError) as exc:
        if isinstance(exc, ImageError):
            raise
        raise ImageError(f"{source} cannot be read: {exc}. Check the disk or the path.") from exc


def decode(data: bytes, name: str = "the image") -> Picture:
    """Decode the bytes of one image file, as :func:`read` does.

    Args:
        data: contents of the file.
        name: how error messages refer to the file.

    Raises:
        ImageError: the data is not one intact image of a supported format.
    """
    form = _detect(data[:_HEAD], name)
    try:
        facts = _inspect(form.name, data)
    except DamagedContainerError as exc:
        raise ImageError(
            f"{name} is a damaged {form.label} file: {exc}. Copy or download it again."
        ) from None
    except UnsupportedError as exc:
        raise ImageError(
            f"{name} is a {form.label} file with {exc}, which cannot be read without changing it. "
            "Convert it to gray, RGB or RGBA with 8 or 16 bits."
        ) from None
    if facts.frames > 1:
        raise ImageError(
            f"{name} holds {facts.frames} images (frames or pages of one {form.label} file), but "
            "only one could be kept. Split it into single images, or convert it to a video."
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
    what = f"{found.upper()}, unsupported by this OpenCV" if found else formats.describe(head[:64])
    labels = ", ".join(form.label for form in readable.values())
    raise ImageError(f"{name} is not a supported image: it is {what}. Use {labels}.")


def _decoded(data: bytes, form: formats.Format, name: str) -> Pixels:
    """Decode with OpenCV and convert to the dtypes and shapes of this package."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as exc:
        if "CV_IO_MAX_IMAGE" in str(exc):
            raise ImageError(
                f"{name} claims more pixels than the default limit, which guards against hostile "
                f"files. If you trust it, set {_PIXEL_LIMIT} to a higher number and try again."
            ) from exc
        raise ImageError(f"{name} cannot be decoded as {form.label}: {exc.err or exc}") from exc
    if pixels is None:
        raise ImageError(
            f"{name} is a {form.label} file, but its image data cannot be decoded: it is damaged, "
            "truncated or a rare variant. Copy it again, or save it as PNG."
        )
    if pixels.dtype == np.float64:
        pixels = pixels.astype(np.float32)
    if pixels.dtype not in (np.uint8, np.uint16, np.float32):
        raise ImageError(f"{name} has {pixels.dtype} samples. Convert them to 8 or 16 bits.")
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels


def _upright(pixels: Pixels, facts: ContainerInfo, form: formats.Format, name: str) -> Picture:
    """Apply the orientation of the container, or else of EXIF, and reset it in the metadata."""
    block, icc, xmp = facts.metadata.exif, facts.metadata.icc, facts.metadata.xmp
    turn = facts.orientation or 1
    if block:
        try:
            turn = facts.orientation or exif.orientation(block)
            block = exif.upright(block)
        except MalformedError as exc:
            logger.warning("%s: the EXIF block is malformed and was dropped: %s.", name, exc)
            block = None
    metadata = Metadata(exif=block, icc=icc, xmp=exif.upright_xmp(xmp) if xmp else None)
    return Picture(pixels=turned(pixels, turn), metadata=metadata, format=form.name)


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
    if max(height, width) > form.max_side:
        raise OutputError(
            f"{form.label} holds at most {form.max_side} pixels per side, but the image is "
            f"{width} x {height}. Write TIFF, or a smaller image."
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
        raise OptionError(f"`quality` must be between 1 and 100, got {quality}")
    value = quality or form.quality
    if form.quality is None or value is None:
        return []
    if form.name == "jpeg":
        # The network outputs color at full resolution; 4:2:0 would discard three quarters of it.
        sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        return [cv2.IMWRITE_JPEG_QUALITY, value, *sampling]
    return [cv2.IMWRITE_WEBP_QUALITY if form.name == "webp" else cv2.IMWRITE_AVIF_QUALITY, value]


def _corrected(metadata: Metadata, height: int, width: int) -> tuple[Metadata, list[str]]:
    """Return metadata that matches the pixels: their size, and the upright orientation."""
    block, packet = metadata.exif, metadata.xmp
    notes = []
    if block:
        try:
            block = exif.resized(exif.upright(exif.payload(block)), height, width)
        except MalformedError as exc:
            notes.append(f"The EXIF block is malformed and was dropped: {exc}.")
            block = None
    packet = exif.upright_xmp(packet) if packet else None
    return Metadata(exif=block, icc=metadata.icc, xmp=packet), notes


def _encoded(
    pixels: Pixels, metadata: Metadata, form: formats.Format, parameters: Sequence[int]
) -> bytes:
    blocks = {cv2.IMAGE_METADATA_EXIF: metadata.exif, cv2.IMAGE_METADATA_ICCP: metadata.icc}
    if form.name in ("jpeg", "tiff"):
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
    if form.name == "jpeg":
        return jpeg.embed(data, metadata)
    if form.name == "png" and metadata.xmp:
        return png.embed_xmp(data, metadata.xmp)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    return tiff.embed(data, metadata, channels) if form.name == "tiff" else data


def _missing(data: bytes, wanted: Metadata, form: formats.Format) -> list[str]:
    """Return notes on blocks missing from the file, since encoders drop them silently."""
    found = _inspect(form.name, data).metadata
    pairs = {"EXIF": (wanted.exif, found.exif), "XMP": (wanted.xmp, found.xmp)}
    pairs["ICC"] = (wanted.icc, found.icc)
    if form.name == "tiff":
        # By tag: a block with only an orientation leaves nothing in the file, and loses nothing.
        del pairs["EXIF"]
        if wanted.exif and tiff_tags.left_behind(wanted.exif):
            return ["TIFF cannot store the maker notes of the EXIF block."]
    return [
        f"The {kind} block of {len(want)} bytes did not fit into {form.label}."
        for kind, (want, have) in pairs.items()
        if want and not have
    ]


def _inspect(name: str, data: bytes) -> ContainerInfo:
    """Parse the container; DamagedContainerError if it is truncated or inconsistent."""
    walker = _WALKERS.get(name)
    return walker(data) if walker else ContainerInfo()

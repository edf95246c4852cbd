"""TIFF: the variants that OpenCV reads correctly, and the tags that it does not read or write.

OpenCV applies some orientations and not others, multiplies colors by a straight alpha in 8 bits but
not in 16, and writes neither metadata nor the tag that defines the fourth channel. So the decoder
gets a copy with neutral tags, and the rest is done here. Tags: TIFF 6.0, XMP part 3.
"""

from __future__ import annotations

import struct

import numpy as np

from resharp.images import tiff_ifd as ifd
from resharp.images import tiff_tags
from resharp.images.containers.info import ContainerInfo, DamagedContainerError, UnsupportedError
from resharp.images.exif import ORIENTATION
from resharp.images.picture import Metadata, Pixels

_SUBFILE, _BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR = 254, 258, 262, 277, 284
_EXTRA, _SAMPLE_FORMAT, _XMP, _ICC = 338, 339, 700, 34675
_BLACK_IS_ZERO, _RGB, _INKS = 1, 2, 5
_PHOTOMETRICS = (0, _BLACK_IS_ZERO, _RGB, 3, _INKS, 6)  # 0 white is zero, 3 palette, 6 YCbCr
_ASSOCIATED, _UNASSOCIATED = 1, 2
_KINDS = {1: "unsigned", 2: "signed", 3: "float"}


def inspect(data: bytes) -> ContainerInfo:
    """Count the pages, refuse variants that OpenCV misreads, collect ICC, XMP and EXIF."""
    try:
        form = ifd.layout(data)
        page = ifd.directory(data, form, form.first)
        frames = 1 + _further_pages(data, form, page.following)
    except ifd.MalformedError as exc:
        raise DamagedContainerError(f"its directory cannot be read: {exc}") from None
    tags = {
        tag: ifd.integers(data, form, page.entries.get(tag))
        for tag in (_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _EXTRA, _SAMPLE_FORMAT, ORIENTATION)
    }
    _refuse_misread(tags)
    inks = tags[_PHOTOMETRIC][:1] == (_INKS,)
    blocks = {
        tag: data[entry.value : entry.value + entry.size]
        for tag in (_XMP, _ICC)
        if (entry := page.entries.get(tag)) is not None
    }
    premultiplied = tags[_EXTRA][:1] == (_ASSOCIATED,)
    return ContainerInfo(
        metadata=Metadata(
            exif=tiff_tags.from_tiff(data),
            icc=None if inks else blocks.get(_ICC),
            xmp=blocks.get(_XMP),
        ),
        frames=frames,
        orientation=next((o for o in tags[ORIENTATION][:1] if 1 <= o <= 8), 1),
        decodable=_neutral(data, form, page),
        finish=(_without_alpha,) if inks else (_straight,) if premultiplied else (),
    )


def _further_pages(data: bytes, form: ifd.IfdLayout, at: int) -> int:
    """Count the pages after the first, without previews (subfile type 1) and masks (4)."""
    pages = 0
    seen: set[int] = set()
    while at and at not in seen and len(seen) < 65_536:
        seen.add(at)
        page = ifd.directory(data, form, at)
        kind = ifd.integers(data, form, page.entries.get(_SUBFILE))
        pages += not (kind and kind[0] & 5)
        at = page.following
    return pages


def _refuse_misread(tags: dict[int, tuple[int, ...]]) -> None:
    """Refuse variants outside the measured list; docs/design/files.md has the table."""
    bits = max(tags[_BITS], default=1)
    kind = _KINDS.get(max(tags[_SAMPLE_FORMAT], default=1), "other")
    samples = next(iter(tags[_SAMPLES]), 1)
    photometric = next(iter(tags[_PHOTOMETRIC]), _BLACK_IS_ZERO)
    sound = {"unsigned": bits <= 16, "float": bits in (32, 64)}
    if not sound.get(kind, False):
        raise UnsupportedError(f"{bits}-bit {kind} samples")
    if samples not in (1, 3, 4):
        raise UnsupportedError(f"{samples} channels")
    if samples == 4 and photometric not in (_RGB, _INKS):
        raise UnsupportedError("4 channels that are neither RGB with alpha nor CMYK")
    if photometric not in (_PHOTOMETRICS if bits <= 8 else (_BLACK_IS_ZERO, _RGB)):
        raise UnsupportedError(f"{bits} bits and photometric interpretation {photometric}")
    if bits > 8 and samples > 1 and tags[_PLANAR][:1] == (2,):
        raise UnsupportedError(f"{bits} bits with one plane per channel")


def _neutral(data: bytes, form: ifd.IfdLayout, page: ifd.Directory) -> bytes | None:
    """Return a copy with orientation 1 and an alpha that libtiff keeps; None if not needed."""
    wanted = {ORIENTATION: 1, _EXTRA: _ASSOCIATED}
    changes = {
        tag: value
        for tag, value in wanted.items()
        if tag in page.entries and ifd.integers(data, form, page.entries[tag]) != (value,)
    }
    if not changes:
        return None
    copy = bytearray(data)
    for tag, value in changes.items():
        ifd.put(copy, form, page.entries[tag], value)
    return bytes(copy)


def _without_alpha(pixels: Pixels) -> Pixels:
    """Drop the constant alpha of 255 that OpenCV adds to CMYK."""
    return pixels[..., :3]


def _straight(pixels: Pixels) -> Pixels:
    """Divide the colors by the alpha that they were multiplied by."""
    if pixels.ndim != 3 or pixels.shape[2] != 4:
        return pixels
    top = np.float32(1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max)
    out = pixels.copy()
    for at in range(0, len(pixels), 256):
        rows = pixels[at : at + 256].astype(np.float32)
        color = rows[..., :3] * (top / np.maximum(rows[..., 3:], top / 65_536))
        if pixels.dtype.kind != "f":
            color = np.minimum(np.rint(color), top)
        out[at : at + 256, :, :3] = color
    return out


def embed(data: bytes, metadata: Metadata, channels: int) -> bytes:
    """Add ICC, XMP, EXIF and the meaning of the alpha channel to a TIFF written by OpenCV.

    A new directory is appended and the header points to it; no other byte moves.
    """
    form = ifd.layout(data)
    page = ifd.directory(data, form, form.first)
    out = bytearray(data)
    tags = {tag: bytes(out[e.at : e.at + 12]) for tag, e in page.entries.items()}
    added: tiff_tags.Tags = {}
    if channels == 4:
        added[_EXTRA] = (ifd.SHORT, 1, struct.pack(form.order + "H", _UNASSOCIATED))
    if metadata.icc:
        added[_ICC] = (ifd.UNDEFINED, len(metadata.icc), metadata.icc)
    if metadata.xmp:
        added[_XMP] = (ifd.BYTE, len(metadata.xmp), metadata.xmp)
    if metadata.exif:
        added |= tiff_tags.for_tiff(metadata.exif, form.order, skip=tags.keys())
    if not added:
        return data
    for tag, value in added.items():
        tags[tag] = tiff_tags.place(out, form.order, tag, value)
    out[4:8] = struct.pack(form.order + "I", tiff_tags.append_directory(out, form.order, tags))
    return bytes(out)

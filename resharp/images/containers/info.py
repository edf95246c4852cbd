"""Result and errors shared by all container parsers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from resharp.images.picture import Metadata, Pixels

CMYK = "CMYK is converted to RGB without its color profile: colors are approximate"
CREDENTIALS = "the content credentials (C2PA) are removed: they describe the old pixels"


DEFLATE = 1032
"""Most bytes that one byte of deflate data can become: 258 by two codes of one bit each."""


_PARTS, _PART = 1 << 16, 256
"""Parts (chunks, segments) that any file may have, and bytes for each further one."""


class DamagedContainerError(Exception):
    """An incomplete or inconsistent file; the message completes a sentence about it."""


class TruncatedError(DamagedContainerError):
    """A file of which only the end is missing, so that a part of the image can be read."""


class UnsupportedError(Exception):
    """A variant that OpenCV would read incorrectly; the message names the variant."""

    def __init__(
        self, what: str, advice: str = "Convert it to gray, RGB or RGBA with 8 or 16 bits."
    ) -> None:
        super().__init__(what)
        self.advice = advice


@dataclass(frozen=True, kw_only=True)
class Size:
    """Size of an image as its header states it."""

    width: int
    """Width in pixels as stored, before any rotation."""
    height: int
    bits: int
    """Bits per pixel as stored, before any compression."""
    depth: int = 8
    """Bits per sample."""
    channels: int = 3
    """Channels of the decoded image."""
    least: int = 0
    """Fewest bytes in which the format can store such an image; 0 if there is no bound."""


def lzw_bytes(count: int) -> int:
    """Return the fewest bytes of LZW codes that ``count`` values of 8 bits or fewer can have.

    A code is at most one value longer than any before it, until the table of 4096 is full.
    """
    bits = code = 0
    while count > 0 and code < 4096:
        code += 1
        count -= code
        bits += max(code.bit_length(), 3)
    return (bits + 12 * max(-(-count // 4096), 0)) // 8


@dataclass(frozen=True, kw_only=True)
class ContainerInfo:
    """Facts about an image that its container states."""

    metadata: Metadata = field(default_factory=Metadata)
    frames: int = 1
    """Number of images in the file: animation frames or pages, not counting previews."""

    orientation: int | None = None
    """EXIF orientation, 1 to 8, if the container itself states it; None: the EXIF block decides."""

    check: Callable[[Any], bytes | bytearray] | None = None
    """Checks the image data in the bytes for OpenCV, and returns these or others with the same
    pixels; raises DamagedContainerError."""

    verify: Callable[[Any, Pixels], None] | None = None
    """Compares the bytes for OpenCV with the pixels that it made of them; raises
    DamagedContainerError."""

    decodable: bytes | bytearray | None = None
    """Bytes to pass to OpenCV if it would misread the original ones."""

    finish: tuple[Callable[[Pixels], Pixels], ...] = ()
    """Steps still to be applied to the decoded pixels, in order."""


def plain(text: bytes, codec: str | None = None) -> str:
    """Decode a text, from UTF-8, marked UTF-16 or Latin-1; other containers cannot hold zeros."""
    marked = text[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        found = text.decode(codec or ("utf-16" if marked else "utf-8-sig"))
    except UnicodeDecodeError:
        found = text.decode("latin-1")
    return found.rstrip("\0").replace("\0", " ")


def named(name: bytes) -> str:
    """Return the name of a block as text that is safe to print."""
    return "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in name.strip(b" "))


def check_count(count: int, size: int, what: str) -> None:
    """Refuse a file of so many bytes with more parts than any program writes.

    Parts without content could keep a parser busy for hours.

    Raises:
        DamagedContainerError: there are too many.
    """
    if count > _PARTS + size // _PART:
        raise DamagedContainerError(f"it has more than {count - 1} {what}")


def behind(data: bytes, at: int) -> list[str]:
    """Return a sentence about what follows the end of a file's format, if it is more than zeros."""
    size = len(data) - at if at < len(data) and any(data[at:]) else 0
    return [f"{size} bytes after the end of the image are left out"] if size else []


def left_out(what: str, names: list[bytes]) -> list[str]:
    """Return a sentence about blocks that are not kept, if there are any."""
    listed = ", ".join(dict.fromkeys(named(name) for name in names))
    return [f"data that resharp cannot keep is left out: {what} {listed}"] if names else []

"""EXIF blocks: the tags that change with the pixels, edited in place, and tags that are added.

All other bytes stay as they are, including maker notes with their private offsets. A block is a
TIFF structure (CIPA DC-008, sections 4.5 and 4.6). Every position is checked, so a damaged or
hostile block can only cause a MalformedError.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction

from resharp.images import ifd
from resharp.images.ifd import MalformedError

_SIDES = ((0xA002, 0xA003), (0x100, 0x101), (0x1001, 0x1002))
"""Tags of width and height: of EXIF, TIFF and DCF."""
ORIENTATION, _RESOLUTION, _UNIT, _THUMBNAIL = 0x112, (0x11A, 0x11B), 0x128, (0x201, 0x202)
_EXIF, _GPS, _INTEROP, _COMMENT, _COMPRESSED_BITS = 0x8769, 0x8825, 0xA005, 0x9286, 0x9102
_SUBJECT, _FOCAL = (0x9214, 0xA214), (0xA20E, 0xA20F)


def payload(block: bytes) -> bytes:
    """Return the block without the ``Exif`` prefix of JPEG, which some writers add elsewhere."""
    return block[6:] if block.startswith(b"Exif\0") else block


def orientation(block: bytes) -> int:
    """Return the orientation, 1 to 8; 1 if the tag is absent or invalid."""
    value = _Editor(block).number(ORIENTATION)
    return value if 1 <= value <= 8 else 1


def density(block: bytes) -> tuple[float, float] | None:
    """Return the horizontal and vertical resolution in dots per inch; None if not stated so."""
    edit = _Editor(block)
    unit = {0: 1.0, 2: 1.0, 3: 2.54}.get(edit.number(_UNIT))
    (x, x_per), (y, y_per) = ((*edit.numbers(tag), 0, 0)[:2] for tag in _RESOLUTION)
    return (x / x_per * unit, y / y_per * unit) if unit and x * x_per * y * y_per else None


def comments(block: bytes) -> bool:
    """Return whether the block has a UserComment that is not blank."""
    edit = _Editor(block)
    page = edit.page(_COMMENT)
    return page is not None and bool((page.raw(_COMMENT) or b"")[8:].strip(b"\0 "))


def extended(
    block: bytes | None, text: str | None = None, density: tuple[float, float] | None = None
) -> bytes:
    """Return the block, or a new one, with a UserComment, a resolution in dots per inch, or both.

    A new one is big-endian, because readers take a comment in Unicode for UTF-16-BE in any block.

    Raises:
        MalformedError: a part of the block is missing, in whose place the addition would be.
    """
    if block is not None and not _Editor(block).whole:
        raise MalformedError("it points behind its end")
    order: ifd.Order = ">" if block is None else ifd.Page(block).order
    tags: ifd.Tags = {}
    for tag, dots in zip(_RESOLUTION, density or (), strict=False):
        ratio = Fraction(min(max(dots, 0.001), 4e6)).limit_denominator(1000)
        tags[tag] = ifd.RATIONAL, 1, struct.pack(order + "II", ratio.numerator, ratio.denominator)
        tags[_UNIT] = ifd.SHORT, 1, struct.pack(order + "H", 2)
    if text is not None:
        code, name = ("ascii", b"ASCII\0\0\0") if text.isascii() else ("utf-16-be", b"UNICODE\0")
        comment = name + text.encode(code, "replace")
        tags[_EXIF] = {_COMMENT: (ifd.UNDEFINED, len(comment), comment)}
    return ifd.block(order, tags) if block is None else ifd.extended(block, tags)


def upright(block: bytes, turn: int | None = None) -> bytes:
    """Return the block for pixels that were turned upright, with orientation 1.

    If they were turned, width and height, resolutions and the place of the subject are turned too,
    and the thumbnail is removed.

    Args:
        block: begins with a TIFF header.
        turn: orientation that was applied, 1 to 8, if the file states it outside EXIF.
    """
    edit, turn = _Editor(block), turn or orientation(block)
    edit.put(ORIENTATION, 1)
    for one, other in (*_SIDES, _RESOLUTION, _FOCAL) if turn >= 5 else ():
        edit.swap(one, other)

    def turned(values: tuple[int, ...], width: int, height: int) -> list[int]:
        x, y, *extent = values if turn < 5 else (values[1], values[0], *values[:1:-1])
        y = height - 1 - y if turn in (3, 4, 7, 8) else y
        return [width - 1 - x if turn in (2, 3, 6, 7) else x, y, *extent]

    if turn != 1:
        edit.move_subject(turned)
        edit.remove_thumbnail()
    return bytes(edit.data)


def resized(block: bytes, height: int, width: int) -> bytes:
    """Return the block for pixels that were restored to another size.

    The dimensions that it states are set. The place of the subject and the resolution on the focal
    plane, both in pixels, are scaled; they are removed if the old size is not stated. Also removed
    are the thumbnail and the compressed bits per pixel.
    """
    edit, new = _Editor(block), (width, height)
    old = edit.size()
    edit.move_subject(
        lambda values, *old: [v * new[at % 2] // old[at % 2] for at, v in enumerate(values)]
    )
    for axis, tag in enumerate(_FOCAL if old != new else ()):
        count, per = (*edit.numbers(tag), 0, 0)[:2]
        ratio = Fraction(count * new[axis], per * old[axis]) if old and per else Fraction()
        ratio = ratio.limit_denominator(10_000)
        edit.put(tag, *((ratio.numerator, ratio.denominator) if ratio else ()))
    for tags in _SIDES:
        for tag, value in zip(tags, new, strict=True):
            edit.put(tag, value)
    edit.put(_COMPRESSED_BITS)
    edit.remove_thumbnail()
    return bytes(edit.data)


class _Editor:
    """A block that is changed in place. Each tag is taken from the first directory that has it."""

    def __init__(self, block: bytes) -> None:
        self.data = bytearray(block)
        self.scan()

    def scan(self) -> None:
        """Find all directories; those inside the first one may be broken (``whole`` is False)."""
        data = bytes(self.data)
        self.pages = [ifd.Page(data)]
        if self.pages[0].big:
            raise MalformedError("it is a BigTIFF")
        self.whole = True
        for pointer in (_EXIF, _GPS, _INTEROP):
            try:
                self.pages += [ifd.Page(data, at) for at in self.numbers(pointer)[:1] if at]
            except MalformedError:
                self.whole = False
        self.whole &= not any(page.damaged for page in self.pages)

    def page(self, tag: int) -> ifd.Page | None:
        """Return the first directory that has a tag."""
        return next((page for page in self.pages if tag in page.entries), None)

    def numbers(self, tag: int) -> tuple[int, ...]:
        """Return the integers of a tag, two for a ratio; none if it is absent or no number."""
        page = self.page(tag)
        found = page.integers(tag) if page else ()
        return found if len(found) <= 8 else ()

    def number(self, tag: int) -> int:
        """Return the integer of a tag that has one; otherwise 0."""
        found = self.numbers(tag)
        return found[0] if len(found) == 1 else 0

    def size(self) -> tuple[int, int] | None:
        """Return the width and height that the block states."""
        sizes = ((self.number(one), self.number(other)) for one, other in _SIDES[:2])
        return next((size for size in sizes if all(size)), None)

    def put(self, tag: int, *values: int) -> None:
        """Set the numbers of a tag that is there; remove it if there are none or they misfit."""
        page = self.page(tag)
        if page and not (values and page.put(self.data, tag, *values)):
            at, place, stop = page.start, page.entries[tag], min(page.stop + 4, len(self.data))
            self.data[place:stop] = self.data[place + 12 : stop] + bytes(12)
            struct.pack_into(page.order + "H", self.data, at, (page.stop - at - 2) // 12 - 1)
            self.scan()

    def swap(self, one: int, other: int) -> None:
        """Exchange the values of two tags if both are there."""
        pages = self.page(one), self.page(other)
        if pages[0] and pages[1]:
            places = pages[0].entries[one], pages[1].entries[other]
            a, b = (slice(at + 2, at + 12) for at in places)
            self.data[a], self.data[b] = self.data[b], self.data[a]
            self.scan()

    def move_subject(self, move: Callable[..., list[int]]) -> None:
        """Set the subject's place to ``move(values, width, height)``; values: x, y, extent."""
        size = self.size()
        for tag in _SUBJECT:
            values = self.numbers(tag)
            self.put(tag, *(move(values, *size) if size and len(values) > 1 else ()))

    def remove_thumbnail(self) -> None:
        """Detach the second directory; clear its JPEG unless that overlaps what stays."""
        used = [(0, 8), *((page.start, page.stop) for page in self.pages)]
        for page in self.pages:
            used += [(at, at + len(page.values[tag][2])) for tag, at in page.positions.items()]
        at = self.pages[0].stop
        # Some cameras omit the pointer to a second directory, so something else may be there.
        if at + 4 > len(self.data) or any(start < at + 4 and at < stop for start, stop in used):
            return
        self.data[at : at + 4] = bytes(4)
        with suppress(MalformedError):
            self.pages = [ifd.Page(bytes(self.data), self.pages[0].following)]
            start, length = (self.number(tag) for tag in _THUMBNAIL)
            stop = min(start + length, len(self.data))
            if self.data[start : start + 2] != b"\xff\xd8":
                return
            if not any(self.data[stop:]) and all(end <= start for _, end in used):
                del self.data[start:]
            elif not any(begin < stop and start < end for begin, end in used):
                self.data[start:stop] = bytes(stop - start)

"""XMP packets: what they state about the file around the pixels, kept true when that changes.

Edits are cut into the packet at the positions that expat reports, and all other bytes stay as they
are. Namespaces decide, not prefixes; a property may be an attribute or an element (ISO 16684-1,
7.9.2). UTF-16, which image files should not contain, becomes UTF-8 when it is edited.

The functions raise MalformedError for a packet that is not well-formed, declares a document type
(XMP has none, and entities can be hostile), or is absurdly large or deep.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from xml.parsers import expat

from resharp.images.ifd import MalformedError

_MOST_BYTES, _MOST_PROPERTIES, _MOST_LEVELS = 1 << 24, 20_000, 200

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_TIFF, _EXIF = "http://ns.adobe.com/tiff/1.0/", "http://ns.adobe.com/exif/1.0/"
_XMP, _NOTE = "http://ns.adobe.com/xap/1.0/", "http://ns.adobe.com/xmp/note/"
_PANORAMA = "http://ns.google.com/photos/1.0/panorama/"
_CAMERAS = ("http://ns.google.com/photos/1.0/camera/", "http://ns.oplus.com/photos/1.0/camera/")
_CONTAINER = "http://ns.google.com/photos/1.0/container/"
_ITEM = "http://ns.google.com/photos/1.0/container/item/"
_REGIONS = "http://www.metadataworkinggroup.com/schemas/regions/"
_DIMENSIONS = "http://ns.adobe.com/xap/1.0/sType/Dimensions#"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_GAIN_MAPS = ("http://ns.adobe.com/hdr-gain-map/1.0/", "http://ns.apple.com/HDRGainMap/1.0/")
_KNOWN = {_TIFF, _EXIF, _XMP, _NOTE, _PANORAMA, *_CAMERAS, _CONTAINER, _ITEM, _REGIONS, _DIMENSIONS}
_KNOWN |= {_IPTC, *_GAIN_MAPS}

# By axis, horizontal first.
_SIDES = (
    ((_EXIF, "PixelXDimension"), (_TIFF, "ImageWidth")),
    ((_EXIF, "PixelYDimension"), (_TIFF, "ImageLength")),
)
_CROPPED = ("CroppedAreaImageWidthPixels", "CroppedAreaImageHeightPixels")
_FULL = ("FullPanoWidthPixels", "FullPanoHeightPixels")
_INTERIOR = "LargestValidInteriorRect"
_PANORAMA_SIDES = (
    {_CROPPED[0], _FULL[0], "CroppedAreaLeftPixels", _INTERIOR + "Left", _INTERIOR + "Width"},
    {_CROPPED[1], _FULL[1], "CroppedAreaTopPixels", _INTERIOR + "Top", _INTERIOR + "Height"},
)
_BOUNDARY_SIDES = ({"rbX", "rbW", "rbRx"}, {"rbY", "rbH"})
_FOCAL = ("FocalPlaneXResolution", "FocalPlaneYResolution")
_UNTRUE = {
    (_XMP, "Thumbnails"),
    (_EXIF, "CompressedBitsPerPixel"),
    (_EXIF, "SubjectArea"),
    (_EXIF, "SubjectLocation"),
}
_MOTION = ("MotionPhoto", "MicroVideo", "OLivePhoto", "VideoLength")

_NAME = re.compile(rb"<[^\s/>]+")
_ATTRIBUTE = re.compile(rb"\s+([^\s=]+)\s*=\s*(\"[^\"]*\"|'[^']*')")
_TAG_END = re.compile(rb"\s*(/?)>")


@dataclass(slots=True)
class _Property:
    """An attribute or element of a known namespace, or an ``rdf:li`` inside one."""

    name: tuple[str, str]
    parent: _Property | None
    start: int
    stop: int = 0
    inner: tuple[int, int] | None = None
    """Where its value is; None for an empty element."""

    def within(self, name: tuple[str, str]) -> _Property | None:
        """Return the closest ancestor of a name."""
        above = self.parent
        while above is not None and above.name != name:
            above = above.parent
        return above


class _Packet:
    """A packet with its properties, and the edits to make."""

    def __init__(self, packet: bytes) -> None:
        if len(packet) > _MOST_BYTES:
            raise MalformedError(f"it is {len(packet)} bytes long")
        self.original = packet
        self.data = _utf8(packet)
        self.properties: list[_Property] = []
        self.edits: dict[tuple[int, int], bytes] = {}
        self.open: list[tuple[_Property | None, _Property | None, int]] = []
        """By level: the closest property, the element's own, and where its start tag ends."""
        self.parser = expat.ParserCreate("UTF-8", " ")
        self.parser.ordered_attributes = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.StartDoctypeDeclHandler = _refuse
        try:
            self.parser.Parse(self.data.rstrip(b"\0"), True)
        except expat.ExpatError as exc:
            raise MalformedError(str(exc)) from None

    def _start(self, name: str, attributes: list[str]) -> None:
        if len(self.open) >= _MOST_LEVELS or len(self.properties) >= _MOST_PROPERTIES:
            raise MalformedError("it is nested too deeply or has too many properties")
        above = self.open[-1][0] if self.open else None
        own, stop = None, 0
        key = _split(name)
        if key[0] in _KNOWN or (above is not None and key == (_RDF, "li")):
            own = _Property(key, above, self.parser.CurrentByteIndex)
            self.properties.append(own)
        if own is not None or any(_split(each)[0] in _KNOWN for each in attributes[::2]):
            stop = self._attributes(attributes[::2], own or above)
        self.open.append((own or above, own, stop))

    def _attributes(self, names: list[str], parent: _Property | None) -> int:
        """Record the attributes of known namespaces; return where the start tag ends."""
        left = iter(names)
        tag = _NAME.match(self.data, self.parser.CurrentByteIndex)
        at = tag.end() if tag else len(self.data)
        while match := _ATTRIBUTE.match(self.data, at):
            at = match.end()
            if match[1] != b"xmlns" and not match[1].startswith(b"xmlns:"):
                key = _split(next(left, ""))
                if key[0] in _KNOWN:
                    inner = (match.start(2) + 1, at - 1)
                    self.properties.append(_Property(key, parent, match.start(), at, inner))
        end = _TAG_END.match(self.data, at)
        if end is None or next(left, None) is not None:
            raise MalformedError(f"its tag at {at} cannot be followed")
        return end.end()

    def _end(self, name: str) -> None:
        _, own, stop = self.open.pop()
        if own is not None:
            own.stop, at = stop, self.parser.CurrentByteIndex
            if self.data[stop - 2 : stop] != b"/>":
                own.inner = (stop, at)
                own.stop = self.data.index(b">", at) + 1

    def named(self, *names: tuple[str, str]) -> Iterator[_Property]:
        return (found for name in names for found in self.properties if found.name == name)

    def text(self, found: _Property) -> bytes:
        return self.data[slice(*found.inner)].strip() if found.inner else b""

    def number(self, *names: tuple[str, str]) -> int:
        """Return the first positive integer among properties of these names; otherwise 0."""
        texts = (self.text(found) for found in self.named(*names))
        return next((int(t) for t in texts if t.isdigit() and len(t) < 10 and int(t)), 0)

    def put(self, found: _Property, value: str | int) -> None:
        if found.inner:
            self.edits[found.inner] = str(value).encode()

    def remove(self, found: _Property) -> None:
        self.edits[found.start, found.stop] = b""

    def scale(self, found: _Property, ratio: Fraction | None) -> None:
        """Multiply an integer, a decimal or a ratio; remove anything else."""
        text = self.text(found)
        if ratio is None:
            self.remove(found)
        elif re.fullmatch(rb"-?\d{1,9}", text):
            self.put(found, round(int(text) * ratio))
        elif re.fullmatch(rb"-?\d{1,9}\.\d{1,9}", text):
            self.put(found, f"{float(Fraction(text.decode()) * ratio):.10g}")
        elif re.fullmatch(rb"\d{1,10}/0*[1-9]\d{0,9}", text):
            scaled = (Fraction(text.decode()) * ratio).limit_denominator(10_000)
            self.put(found, f"{scaled.numerator}/{scaled.denominator}")
        else:
            self.remove(found)

    def remove_items(self, unwanted: Callable[[bytes], bool]) -> None:
        """Remove items from container directories by meaning, and what lists only the image."""
        listed: dict[int, list[tuple[_Property, bytes]]] = {}
        for found in self.named((_ITEM, "Semantic")):
            if (item := found.within((_RDF, "li"))) and item.parent:
                listed.setdefault(item.parent.start, []).append((item, self.text(found)))
        for directory in self.named((_CONTAINER, "Directory")):
            items = listed.get(directory.start, [])
            dropped = [item for item, meaning in items if unwanted(meaning)]
            for item in dropped:
                self.remove(item)
            if dropped and all(meaning == b"Primary" or unwanted(meaning) for _, meaning in items):
                self.remove(directory)

    def edited(self) -> bytes:
        """Return the packet with the edits; an edit inside another is not needed."""
        parts, at = [], 0
        for (start, stop), text in sorted(self.edits.items(), key=lambda e: (e[0][0], -e[0][1])):
            if start >= at:
                parts += [self.data[at:start], text]
                at = stop
        return b"".join((*parts, self.data[at:])) if parts else self.original


def corrected(packet: bytes, height: int, width: int) -> bytes:
    """Return the packet for upright pixels of a new size.

    Orientation and stated dimensions are set. What is measured in pixels is scaled by the ratio to
    the old dimensions, if the packet states them: panoramas, image regions, the resolution on the
    focal plane. Removed are thumbnails, compressed bits per pixel, the place of the subject, and
    what cannot be scaled.

    Returns:
        The packet; unchanged if it is malformed.
    """
    try:
        edit = _Packet(packet)
    except MalformedError:
        return packet
    old = [edit.number(*names) for names in _SIDES]
    if edit.number((_TIFF, "Orientation")) in range(5, 9):
        old.reverse()
    for found in edit.named((_TIFF, "Orientation")):
        edit.put(found, 1)
    for found in edit.named(*_UNTRUE):
        edit.remove(found)
    units = {
        found.parent.start: edit.text(found)
        for found in edit.named((_DIMENSIONS, "unit"), (_IPTC, "rbUnit"))
        if found.parent
    }
    for axis, new in enumerate((width, height)):
        ratio = Fraction(new, old[axis]) if old[axis] else None
        for found in edit.named(*_SIDES[axis]):
            edit.put(found, new)
        for found in edit.named((_EXIF, _FOCAL[axis])):
            edit.scale(found, ratio)
        for found in edit.named((_DIMENSIONS, "wh"[axis])):
            whole = found.within((_REGIONS, "AppliedToDimensions"))
            if whole and units.get(whole.start, b"pixel") == b"pixel":
                edit.put(found, new)
        for found in edit.named(*((_IPTC, side) for side in _BOUNDARY_SIDES[axis])):
            whole = found.within((_IPTC, "RegionBoundary"))
            if whole and units.get(whole.start) == b"pixel":
                edit.scale(found, ratio)
        shown = edit.number((_PANORAMA, _CROPPED[axis])) or old[axis]
        shown = shown or edit.number((_PANORAMA, _FULL[axis]))
        for found in edit.named(*((_PANORAMA, side) for side in _PANORAMA_SIDES[axis])):
            edit.scale(found, Fraction(new, shown) if shown else None)
    return edit.edited()


def announces_gain_map(packet: bytes) -> bool:
    """Return whether the packet says that the file has a gain map; if in doubt, it does."""
    try:
        edit = _Packet(packet)
    except MalformedError:
        return any(space.encode() in packet for space in _GAIN_MAPS)
    meanings = edit.named((_ITEM, "Semantic"))
    return any(_is_gain_map(found) for found in edit.properties) or any(
        edit.text(found) == b"GainMap" for found in meanings
    )


def without_gain_map(packet: bytes) -> bytes:
    """Return the packet without the announcement of a gain map.

    Raises:
        MalformedError: it cannot be edited, so it should be dropped.
    """
    edit = _Packet(packet)
    for found in edit.properties:
        if _is_gain_map(found):
            edit.remove(found)
    edit.remove_items(lambda meaning: meaning == b"GainMap")
    return edit.edited()


def with_gain_map_length(packet: bytes, length: int) -> bytes:
    """Return the packet with the size, in bytes, of the gain map's JPEG, if it states one.

    Raises:
        MalformedError: it cannot be edited, so it should be dropped.
    """
    edit = _Packet(packet)
    items = {
        item.start
        for found in edit.named((_ITEM, "Semantic"))
        if edit.text(found) == b"GainMap" and (item := found.within((_RDF, "li")))
    }
    for found in edit.named((_ITEM, "Length")):
        item = found.within((_RDF, "li"))
        if item and item.start in items:
            edit.put(found, length)
    return edit.edited()


def without_motion(packet: bytes) -> bytes:
    """Return the packet without the announcement of a motion photo's video.

    In a container directory, only the image itself and its gain map are left: other items would
    follow the image in its file, too.

    Raises:
        MalformedError: it cannot be edited, so it should be dropped.
    """
    edit = _Packet(packet)
    for found in edit.properties:
        if found.name[0] in _CAMERAS and found.name[1].startswith(_MOTION):
            edit.remove(found)
    edit.remove_items(lambda meaning: meaning not in (b"Primary", b"GainMap"))
    return edit.edited()


def without_extension(packet: bytes) -> bytes:
    """Return the packet without the reference to an extended one.

    Raises:
        MalformedError: it cannot be edited, so it should be dropped.
    """
    edit = _Packet(packet)
    for found in edit.named((_NOTE, "HasExtendedXMP")):
        edit.remove(found)
    return edit.edited()


def _is_gain_map(found: _Property) -> bool:
    return found.name[0] in _GAIN_MAPS or found.name[1].startswith("HasGainMap")


def _split(name: str) -> tuple[str, str]:
    """Return the namespace and the local name."""
    space, _, local = name.rpartition(" ")
    return space, local


def _refuse(*_: object) -> None:
    raise MalformedError("it declares a document type")


def _utf8(packet: bytes) -> bytes:
    marks = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"<\0": "utf-16-le", b"\0<": "utf-16-be"}
    try:
        code = marks.get(packet[:2])
        return packet.decode(code).encode() if code else packet
    except UnicodeError:
        raise MalformedError("it is not UTF-16, though it begins like that") from None

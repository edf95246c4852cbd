"""Image files made by hand, and parsers that share no line with the package, for its tests.

The literals were made with Pillow 13, which is not a dependency.
"""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# 24 x 16, quarters red, green / blue, white, stored turned (irot) and mirrored (imir).
_AVIF_HEAD = (
    "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUEAAAFTbWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAA"
    "AAAAAAAAAAAAAAAOcGl0bQAAAAAAAQAAACxpbG9jAAAAAEQAAAIAAQAAAAEAAAGHAAAANQACAAAAAQAAAXsAAAAMAAAA"
    "VGlpbmYAAAAAAAIAAAAaaW5mZQIAAAAAAQAAYXYwMUNvbG9yAAAAACxpbmZlAgAAAAACAABtaW1lWE1QAGFwcGxpY2F0"
    "aW9uL3JkZit4bWwAAAAAGmlyZWYAAAAAAAAADmNkc2MAAgABAAEAAAB+aXBycAAAAF1pcGNvAAAAFGlzcGUAAAAAAAAA"
    "GAAAABAAAAAQcGl4aQAAAAADCAgIAAAADGF2MUOBIAAAAAAAE2NvbHJuY2x4AAEADQAGgAAAAAlpcm90AwAAAAlpbWly"
    "AAAAABlpcG1hAAAAAAAAAAEAAQYBAoMEhYYAAABJbWRhdDx4OnhtcG1ldGEvPhIACgg4EO/tICGg0jInRICQ0qAQQQfI"
    "ABDkjwcYcBIB5JNWgPPF8tY2YZ/tB3suDPkbqWyA"
)
AVIF_ORIENTED_7 = base64.b64decode(_AVIF_HEAD)

# The same quarters at 16 x 16 in four inks.
JPEG_CMYK = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwAQCwwODAoQDg0OEhEQExgoGhgWFhgxIyUdKDozPTw5Mzg3QEhcTkBEV0U3OFBt"
    "UVdfYmdoZz5NcXlwZHhcZWdj/8AAFAgAEAAQBEMRAE0RAFkRAEsRAP/EABcAAQEBAQAAAAAAAAAAAAAAAAcABgj/xAAY"
    "EAACAwAAAAAAAAAAAAAAAAAAAQIycf/aAA4EQwBNAFkASwAAPwDfyq8MBGy0PxAAGVno/RqsIijZaAMbLToAh+jVYP0a"
    "rCI//9k="
)


def quarters(height: int = 16, width: int = 24) -> Array:
    """Red, green / blue, white, as BGR."""
    image = np.empty((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (0, 0, 255)
    image[: height // 2, width // 2 :] = (0, 255, 0)
    image[height // 2 :, : width // 2] = (255, 0, 0)
    image[height // 2 :, width // 2 :] = 255
    return image


def noise(*shape: int, dtype: str = "uint8") -> Array:
    random = np.random.default_rng(sum(shape))
    if dtype == "float32":
        return random.random(shape, np.float32)
    return random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def photo(height: int = 120, width: int = 160) -> Array:
    """Smooth enough for a lossy format, and not flat."""
    small = noise(height // 8, width // 8, 3)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(suffix: str, pixels: Array, *parameters: int) -> bytes:
    ok, data = cv2.imencode(suffix, pixels, list(parameters))
    assert ok
    return data.tobytes()


def exif(order: str = "<", orientation: int = 6, size: tuple[int, int] = (10, 20)) -> bytes:
    """An EXIF block: make, orientation, pixel dimensions as SHORTs, and a thumbnail directory."""
    byte_order = b"II" if order == "<" else b"MM"
    first = struct.pack(order + "HHI4s", 0x10F, 2, 4, b"Ann\0")
    first += struct.pack(order + "HHIH2x", 0x112, 3, 1, orientation)
    first += struct.pack(order + "HHII", 0x8769, 4, 1, 56)
    inner = struct.pack(order + "HHIH2x", 0xA002, 3, 1, size[1])
    inner += struct.pack(order + "HHIH2x", 0xA003, 3, 1, size[0])
    thumbnail = struct.pack(order + "HHIH2x", 0x103, 3, 1, 6)
    return (
        byte_order
        + struct.pack(order + "HI", 42, 8)
        + (struct.pack(order + "H", 3) + first + struct.pack(order + "I", 86) + b"\0\0\0\0\0\0")
        + (struct.pack(order + "H", 2) + inner + bytes(4))
        + (struct.pack(order + "H", 1) + thumbnail + bytes(4))
    )


def icc(space: bytes = b"RGB ", extra: int = 0) -> bytes:
    """A profile with a sound header and one private tag of `extra` bytes."""
    size = 144 + extra
    head = struct.pack(">I4sI4s4s4s", size, b"none", 0x04200000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s4sIII8sI", 2026, 1, 1, 0, 0, 0, b"acsp", b"none", 0, 0, 0, b"", 0)
    head += struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)  # the D50 white point
    tag = struct.pack(">I4sII", 1, b"priv", 144, extra)
    return head + bytes(128 - len(head)) + tag + noise(extra).tobytes()


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description tiff:Orientation="6"/><rdf:Description>'
    b"<tiff:Orientation>8</tiff:Orientation></rdf:Description></rdf:RDF></x:xmpmeta>"
)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def make_png(kind: int, depth: int, rows: list[bytes], width: int, *extra: bytes) -> bytes:
    """A PNG from packed rows; kind is the color type, extra are whole chunks before IDAT."""
    head = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [png_chunk(b"IHDR", head), *extra, png_chunk(b"IDAT", body), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def with_png_chunk(data: bytes, name: bytes, body: bytes) -> bytes:
    """Put a chunk behind IHDR."""
    return data[:33] + png_chunk(name, body) + data[33:]


def with_segment(data: bytes, marker: int, body: bytes) -> bytes:
    """Put a segment at the beginning of a JPEG."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]


def make_tiff(pixels: Array, pages: int = 1, **changes: int | bytes) -> bytes:
    """An uncompressed TIFF in RGB order as given; changes are tags by name, bytes for blobs."""
    codes = {"orientation": 274, "extra": 338, "photometric": 262, "planar": 284, "format": 339}
    codes |= {"subfile": 254, "icc": 34675, "xmp": 700, "description": 270}
    height, width = pixels.shape[:2]
    samples = 1 if pixels.ndim == 2 else pixels.shape[2]
    tags: dict[int, int | bytes] = {
        256: width, 257: height, 259: 1, 262: 1 if samples < 3 else 2,
        277: samples, 278: height, 279: pixels.nbytes,
    }  # fmt: skip
    tags[258] = struct.pack("<H", pixels.itemsize * 8) * samples
    tags[339] = 3 if pixels.dtype.kind == "f" else 1
    tags |= {codes[name]: value for name, value in changes.items()}
    out = b"II*\0" + struct.pack("<I", 8)
    for page in range(pages):
        kind = {254: tags.get(254, 0) if page else 0}
        entries, blobs = b"", b""
        names = sorted({*tags, 254, 273})
        after = len(out) + 2 + 12 * len(names) + 4
        for name in names:
            value = {**tags, **kind, 273: 0}[name]
            if name == 273:
                entries += b"STRIP_OFFSET"
                continue
            if isinstance(value, int):
                entries += struct.pack("<HHII", name, 4, 1, value)
                continue
            count = len(value) // 2 if name == 258 else len(value)
            kind_code = 3 if name == 258 else 2 if name == 270 else 7
            if len(value) <= 4:
                entries += struct.pack("<HHI4s", name, kind_code, count, value)
            else:
                entries += struct.pack("<HHII", name, kind_code, count, after + len(blobs))
                blobs += value + bytes(len(value) % 2)
        strip = struct.pack("<HHII", 273, 4, 1, after + len(blobs))
        body = blobs + pixels.tobytes() + bytes(pixels.nbytes % 2)
        following = after + len(body) if page + 1 < pages else 0
        out += struct.pack("<H", len(names)) + entries.replace(b"STRIP_OFFSET", strip)
        out += struct.pack("<I", following) + body
    return out


def png_blocks(data: bytes) -> dict[str, bytes]:
    """EXIF, ICC and XMP of a PNG, by its chunks."""
    found: dict[str, bytes] = {}
    at = 8
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + size]
        if name == b"eXIf":
            found["exif"] = body
        elif name == b"iCCP":
            found["icc"] = zlib.decompress(body[body.index(b"\0") + 2 :])
        elif name == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0\0\0\0\0"):
            found["xmp"] = body[22:].rstrip(b"\0")
        at += 12 + size
    return found


def jpeg_segments(data: bytes) -> list[tuple[int, bytes]]:
    """Marker and body of all segments before the first scan."""
    found = []
    at = 2
    while data[at + 1] != 0xDA:
        size = struct.unpack_from(">H", data, at + 2)[0]
        found.append((data[at + 1], data[at + 4 : at + 2 + size]))
        at += 2 + size
    return found


def jpeg_blocks(data: bytes) -> dict[str, bytes]:
    """EXIF, ICC and XMP of a JPEG, by its segments."""
    found: dict[str, bytes] = {}
    for marker, body in jpeg_segments(data):
        if marker == 0xE1 and body[:6] == b"Exif\0\0":
            found["exif"] = body[6:]
        elif marker == 0xE1 and body[:29] == b"http://ns.adobe.com/xap/1.0/\0":
            found["xmp"] = body[29:]
        elif marker == 0xE2 and body[:12] == b"ICC_PROFILE\0":
            assert body[12] == found.get("count", b"\0")[0] + 1
            found["count"] = body[12:13]
            found["icc"] = found.get("icc", b"") + body[14:]
    found.pop("count", None)
    return found


def webp_blocks(data: bytes) -> dict[str, bytes]:
    """EXIF, ICC and XMP of a WebP, by its chunks."""
    names = {b"EXIF": "exif", b"ICCP": "icc", b"XMP ": "xmp"}
    found = {}
    at = 12
    while at < len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        if name in names:
            found[names[name]] = data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    return found


def tiff_tags(data: bytes, at: int | None = None) -> dict[int, bytes]:
    """Tag to value bytes of one directory of a classic TIFF structure, the first by default."""
    order = "<" if data[:2] == b"II" else ">"
    if at is None:
        (at,) = struct.unpack_from(order + "I", data, 4)
    assert at is not None
    found = {}
    for index in range(struct.unpack_from(order + "H", data, at)[0]):
        field = at + 2 + 12 * index
        tag, kind, count = struct.unpack_from(order + "HHI", data, field)
        size = count * {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}[kind]
        start = field + 8 if size <= 4 else struct.unpack_from(order + "I", data, field + 8)[0]
        found[tag] = data[start : start + size]
    return found


def test_the_hand_made_samples_are_sound() -> None:
    """OpenCV reads them, and the parsers find what was put in."""
    pixels = noise(5, 7, 3)
    rows = [row.tobytes() for row in pixels]
    png = with_png_chunk(make_png(2, 8, rows, 7), b"eXIf", exif())
    for data in (png, make_tiff(pixels)):
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_BGR)
        assert decoded is not None
        if data is png:  # the orientation of 6 is obeyed
            decoded = np.rot90(decoded)
        np.testing.assert_array_equal(decoded[..., ::-1], pixels)
    assert png_blocks(png) == {"exif": exif()}
    assert tiff_tags(exif(">"), 56)[0xA003] == b"\0\x0a"
    assert len(icc(extra=9)) == struct.unpack(">I", icc(extra=9)[:4])[0] == 153

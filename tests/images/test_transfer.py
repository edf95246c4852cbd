"""The table of what is kept, cell by cell: every kind, from every format that holds it, into every
format. The files are made, and the results are read, by other programs or by hand."""

from __future__ import annotations

import io
import itertools
import re
import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, MpoImagePlugin, PngImagePlugin, TiffImagePlugin

from resharp.errors import ImageError
from resharp.images import decode, encode
from resharp.images.formats import FORMATS, Format, available
from resharp.images.transfer import KINDS, way
from tests.images import test_samples as samples
from tests.images.test_samples import png_chunk, with_png_chunk, with_segment

tifffile = pytest.importorskip("tifffile")

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    b'syntax-ns#"><rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" dc:creator="Ann"/>'
    b"</rdf:RDF></x:xmpmeta>"
)
RECORD = b"\x1c\x02\x50\x00\x03Ann\x1c\x02\x78\x00\x06A hill"
RESOURCES = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(RECORD)) + RECORD
MAKER, TEXT = b"Ann\0maker", "A hill at noon"
THUMBNAIL = b"\xff\xd8\xff\xe0thumbnail of the old image\xff\xd9"
PILLOW = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP", "tiff": "TIFF", "bmp": "BMP"}
PILLOW |= {"avif": "AVIF", "gif": "GIF"}


def made(form: str, mode: str = "RGB", **options: Any) -> bytes:
    """A small file by Pillow."""
    pixels = cv2.cvtColor(samples.photo(16, 24), cv2.COLOR_BGR2RGB)
    image = Image.fromarray(pixels).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    out = io.BytesIO()
    image.save(out, PILLOW[form], **options)
    return out.getvalue()


def exif(thumbnail: bytes = b"") -> bytes:
    """Make, a directory with a maker note, and perhaps a thumbnail; little-endian."""
    inner = 8 + 2 + 2 * 12 + 4 + 4
    thumb = inner + 2 + 12 + 4 + 10
    block = struct.pack("<2sHIH", b"II", 42, 8, 2) + struct.pack("<HHI4s", 0x10F, 2, 4, b"Ann\0")
    block += struct.pack("<HHII", 0x8769, 4, 1, inner)
    block += struct.pack("<I", thumb if thumbnail else 0) + bytes(4)
    block += struct.pack("<HHHIII", 1, 0x927C, 7, len(MAKER), inner + 18, 0) + MAKER + b"\0"
    if thumbnail:
        block += struct.pack("<HHHII", 2, 0x201, 4, 1, thumb + 30)
        block += struct.pack("<HHIII", 0x202, 4, 1, len(thumbnail), 0) + thumbnail
    return block


def with_exif(form: str, thumbnail: bytes = b"") -> bytes:
    block = exif(thumbnail)
    if form == "png":
        return with_png_chunk(made("png"), b"eXIf", block)
    if form == "jpeg":
        return with_segment(made("jpeg"), 0xE1, b"Exif\0\0" + block)
    if form == "tiff":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[0x10F], tags[0x8769] = "Ann", {0x927C: MAKER}
        return made("tiff", tiffinfo=tags) + thumbnail  # which nothing points to
    return made(form, exif=block)


def with_gif_block(name: bytes, body: bytes) -> bytes:
    data = made("gif")
    at = 13 + (3 << ((data[10] & 7) + 1))
    return data[:at] + b"!\xff\x0b" + name + body + data[at:]


def with_xmp(form: str) -> bytes:
    if form == "png":
        return with_png_chunk(made("png"), b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + XMP)
    if form == "gif":
        trailer = b"\1" + bytes(range(255, -1, -1)) + b"\0"
        return with_gif_block(b"XMP DataXMP", XMP + trailer)
    return made(form, tiffinfo={700: XMP}) if form == "tiff" else made(form, xmp=XMP)


def with_icc(form: str) -> bytes:
    profile = samples.icc()
    if form == "gif":
        return with_gif_block(b"ICCRGBG1012", bytes((len(profile),)) + profile + b"\0")
    if form == "bmp":
        opaque = np.dstack([samples.photo(16, 24), np.full((16, 24), 255, np.uint8)])
        data = bytearray(samples.encoded(".bmp", opaque))
        data[70:74] = b"DEBM"
        data[126:134] = struct.pack("<II", len(data) - 14, len(profile))
        return bytes(data) + profile
    return made(form, icc_profile=profile)


def with_photoshop(form: str) -> bytes:
    if form == "jpeg":
        return with_segment(made("jpeg"), 0xED, b"Photoshop 3.0\0" + RESOURCES)
    if form == "tiff":
        return made("tiff", tiffinfo={33723: RECORD})
    profile = b"\niptc\n%8d\n%s\n" % (len(RESOURCES), RESOURCES.hex().encode())
    body = b"Raw profile type iptc\0\0" + zlib.compress(profile)
    return with_png_chunk(made("png"), b"zTXt", body)


def with_text(form: str) -> bytes:
    if form == "png":
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", TEXT)
        return made("png", pnginfo=info)
    return made("tiff", description=TEXT) if form == "tiff" else made(form, comment=TEXT)


def with_density(form: str) -> bytes:
    if form == "gif":  # it has an aspect ratio only
        data = bytearray(made("gif"))
        data[12] = 17
        return bytes(data)
    return made(form, dpi=(300, 300))


def with_color(form: str) -> bytes:
    if form == "png":
        return with_png_chunk(made("png"), b"cICP", b"\x0c\x0d\0\1")
    data = samples.encoded(".avif", samples.photo(16, 24))
    return data.replace(b"nclx\0\1\0\x0d", b"nclx\0\x0c\0\x0d")


GAIN_MAP = made("jpeg", "L", quality=50)


def with_gain_map(form: str) -> bytes:
    if form == "avif":  # another item of the type
        alpha = np.dstack([samples.photo(16, 24), np.full((16, 24), 200, np.uint8)])
        data = samples.encoded(".avif", alpha)
        at = data.rindex(b"av01", 0, data.index(b"iref"))
        return data[:at] + b"tmap" + data[at + 4 :]
    announced = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
        b'syntax-ns#"><rdf:Description xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" '
        b'xmlns:c="http://ns.google.com/photos/1.0/container/" '
        b'xmlns:i="http://ns.google.com/photos/1.0/container/item/" hdrgm:Version="1.0">'
        b'<c:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><c:Item i:Semantic="Primary" '
        b'i:Mime="image/jpeg"/></rdf:li><rdf:li rdf:parseType="Resource"><c:Item '
        b'i:Semantic="GainMap" i:Mime="image/jpeg" i:Length="%d"/></rdf:li></rdf:Seq></c:Directory>'
        b"</rdf:Description></rdf:RDF></x:xmpmeta>" % len(GAIN_MAP)
    )
    return made("jpeg", xmp=announced) + GAIN_MAP


def with_alpha(form: str) -> bytes:
    if form == "gif":
        image = Image.new("P", (24, 16))
        image.putpalette([0, 0, 0, 255, 0, 0])
        image.putpixel((3, 3), 1)
        out = io.BytesIO()
        image.save(out, "GIF", transparency=0)
        return out.getvalue()
    if form == "bmp":  # Pillow does not mark the fourth byte as alpha
        alpha = np.linspace(0, 255, 24 * 16).reshape(16, 24).astype(np.uint8)
        return samples.encoded(".bmp", np.dstack([samples.photo(16, 24), alpha]))
    return made(form, "RGBA")


def deep(form: str) -> bytes:
    pixels = samples.photo(16, 24).astype(np.uint16) * 257 + 3
    if form == "avif":
        return samples.encoded(".avif", pixels >> 4, cv2.IMWRITE_AVIF_DEPTH, 12)
    return samples.encoded(f".{form}", pixels)


def several(form: str) -> bytes:
    if form == "jpeg":
        frames = [Image.new("RGB", (24, 16), color) for color in ("red", "green", "blue")]
        out = io.BytesIO()
        frames[0].save(out, "MPO", save_all=True, append_images=frames[1:])
        return out.getvalue()
    images = [Image.new("RGB", (24, 16), (9 * n, 99, 0)) for n in range(3)]
    return made(form, save_all=True, append_images=images)


SOURCES: dict[str, Callable[[str], bytes]] = {
    "exif": with_exif,
    "maker_notes": with_exif,
    "icc": with_icc,
    "xmp": with_xmp,
    "photoshop": with_photoshop,
    "text": with_text,
    "density": with_density,
    "color": with_color,
    "gain_map": with_gain_map,
    "own": lambda _: with_png_chunk(made("png"), b"vpAg", b"anything"),
    "alpha": with_alpha,
    "deep": deep,
    "float": lambda _: samples.encoded(".tiff", samples.photo(16, 24).astype(np.float32) / 255),
    "thumbnail": partial(with_exif, thumbnail=THUMBNAIL),
    "frames": several,
}


def chunks(data: bytes) -> dict[bytes, bytes]:
    """Chunks of a PNG, the last of each name."""
    found, at = {}, 8
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        found[name] = data[at + 8 : at + 8 + size]
        at += 12 + size
    return found


def tag(data: bytes, number: int) -> Any:
    """A tag of the first directory of EXIF or TIFF, by Pillow."""
    with Image.open(io.BytesIO(data)) as image:
        return image.getexif().get(number)


def info(data: bytes) -> dict[Any, Any]:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return dict(image.info) | {"frames": getattr(image, "n_frames", 1), "mode": image.mode}


def pages(data: bytes) -> Any:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return list(file.pages)


def found_text(data: bytes, form: Format) -> bool:
    if form.name == "png" and TEXT in str(getattr(Image.open(io.BytesIO(data)), "text", "")):
        return True
    if form.name == "jpeg" and info(data).get("comment") == TEXT.encode():
        return True
    with Image.open(io.BytesIO(data)) as image:
        tags = image.getexif()
        comment = tags.get_ifd(0x8769).get(0x9286, b"")
    return tags.get(270) == TEXT or comment == b"ASCII\0\0\0" + TEXT.encode()


def found_density(data: bytes, form: Format) -> bool:
    found = info(data)
    if "aspect" in found:  # GIF's 17 + 15 of 64
        return bool(found["aspect"] == (64, 32))
    if found.get("jfif_density", (1, 1)) != (1, 1) and found["jfif_unit"] == 0:
        return bool(found["jfif_density"] == (64, 32))
    x, y = (float(tag(data, number) or 0) for number in (282, 283))
    if tag(data, 296) == 1:
        return x == 2 * y
    return np.allclose(found.get("dpi", (x, y)), 300, atol=0.01)


def found_color(data: bytes, form: Format) -> bool:
    if form.name == "png":
        return chunks(data).get(b"cICP") == b"\x0c\x0d\0\1"
    if form.name == "avif":
        return b"nclx\0\x0c\0\x0d" in data
    profile = ImageCms.getOpenProfile(io.BytesIO(info(data)["icc_profile"])).profile
    # The red of Display P3, adapted to D50.
    assert profile.red_primary is not None
    return np.allclose(profile.red_primary[1][:2], (0.6807, 0.3191), atol=0.003)


def found_photoshop(data: bytes, form: Format) -> bool:
    if form.name == "jpeg":
        return bool(info(data)["photoshop"][0x0404] == RECORD)
    if form.name == "tiff":
        return bool(pages(data)[0].tags[33723].value == RECORD)
    body = chunks(data)[b"zTXt"]
    keyword, _, packed = body.partition(b"\0")
    lines = zlib.decompress(packed[1:]).split(maxsplit=2)
    whole = bytes.fromhex(lines[2].decode())
    return keyword == b"Raw profile type iptc" and int(lines[1]) == len(whole) and RECORD in whole


def found_gain_map(data: bytes, form: Format) -> bool:
    packet = info(data)["xmp"]
    with MpoImagePlugin.MpoImageFile(io.BytesIO(data)) as image:
        assert image.n_frames == 2
        image.seek(1)
        image.load()
        sound = image.size == (24, 16) and data.endswith(GAIN_MAP)
    return sound and b'i:Length="%d"' % len(GAIN_MAP) in packet and b"hdrgm:Version" in packet


FOUND: dict[str, Callable[[bytes, Format], bool]] = {
    "exif": lambda data, _: tag(data, 0x10F) == "Ann",
    "maker_notes": lambda data, _: (
        Image.open(io.BytesIO(data)).getexif().get_ifd(0x8769).get(0x927C) == MAKER
    ),
    "icc": lambda data, _: info(data).get("icc_profile") == samples.icc(),
    "xmp": lambda data, _: b'dc:creator="Ann"' in (tag(data, 700) or info(data).get("xmp") or b""),
    "photoshop": found_photoshop,
    "text": found_text,
    "density": found_density,
    "color": found_color,
    "gain_map": found_gain_map,
    "own": lambda data, _: chunks(data).get(b"vpAg") == b"anything",
    "alpha": lambda data, _: (
        info(data)["mode"] == "RGBA"
        and int(np.asarray(Image.open(io.BytesIO(data)))[..., 3].min()) < 20
    ),
    "deep": lambda data, form: (
        pages(data)[0].dtype == np.uint16 if form.name == "tiff" else chunks(data)[b"IHDR"][8] == 16
    ),
    "float": lambda data, _: pages(data)[0].dtype == np.float32,
}
WORDS = {
    "exif": "EXIF|TIFF tags", "maker_notes": "[Mm]aker notes|EXIF", "icc": "ICC", "xmp": "XMP",
    "photoshop": "IPTC|Photoshop", "own": "vpAg", "text": "comments|EXIF",
    "density": "resolution|aspect ratio|EXIF",
    "color": "to sRGB: \\w+ cannot hold Display P3", "gain_map": "gain map",
    "alpha": "blended onto white", "deep": "(8|12) bits", "float": "(8|12|16) bits",
}  # fmt: skip
CELLS = [
    (kind, source, form)
    for kind, source, form in itertools.product(KINDS, FORMATS, FORMATS)
    if kind in source.holds and form.writes and {source, form} <= set(available())
]


def expected(kind: str, source: str, form: Format) -> str:
    """The table, with the exceptions of its footnotes."""
    only_ratio = (kind, source) == ("density", "gif") and form.name in ("webp", "avif", "bmp")
    if (kind, source) in (("maker_notes", "tiff"), ("gain_map", "avif")) or only_ratio:
        return "note"
    return way(kind, form)


@pytest.mark.parametrize(
    ("kind", "source", "form"),
    [pytest.param(*cell, id=f"{cell[0]}-{cell[1].name}-{cell[2].name}") for cell in CELLS],
)
def test_every_cell_of_the_table(kind: str, source: Format, form: Format) -> None:
    data, how = SOURCES[kind](source.name), expected(kind, source.name, form)
    if how == "refused" and source.name != "jpeg":
        with pytest.raises(ImageError, match=r"holds [34] (images|frames|pages)"):
            decode(data)
        return
    picture = decode(data)
    large = picture.pixels.repeat(2, 0).repeat(2, 1)
    result, notes = encode(large, picture.metadata, format=form.name)
    if how == "refused":  # the first image of a JPEG is the image
        assert (
            "2 further images are left out: resharp keeps the first image of a JPEG file" in notes
        )
    elif how == "removed":
        assert b"thumbnail" not in result
    elif how in ("yes", "exif", "icc"):
        assert FOUND[kind](result, form)
        others = [note for note in notes if not re.search("[Mm]aker notes", note)]
        assert not [note for note in others if "bits" not in note or kind == "deep"]
        assert kind != "maker_notes" or not notes
    else:
        assert re.search(WORDS[kind], " ".join(notes)), notes


def test_the_table_has_no_empty_row() -> None:
    assert {kind for kind, *_ in CELLS} == set(KINDS) == set(SOURCES)
    assert png_chunk(b"vpAg", b"")[4:8] == b"vpAg"

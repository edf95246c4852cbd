"""Metadata of real files: what a table of kinds does not show."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from resharp.errors import ImageError
from resharp.images import Density, Metadata, decode, encode, read
from tests.images import test_samples as samples
from tests.images.test_samples import Array, make_png, png_chunk, with_png_chunk, with_segment
from tests.images.test_transfer import GAIN_MAP, MAKER, XMP, chunks, info, made, tag, with_gain_map
from tests.shared import SHARED

CASES = SHARED.parent / "cases"
OUTPUTS = ("png", "jpeg", "webp", "tiff", "bmp", "avif")
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason=f"no folder {CASES.name}")


def rgba(data: bytes) -> Array:
    """Pixels by Pillow, RGBA."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGBA"))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_transparent_gray_value_becomes_alpha(depth: int) -> None:
    values = (np.arange(32).reshape(4, 8) * 17 % (1 << depth)).astype(np.uint8)
    values[1, 1] = (1 << depth) - 1
    bits = np.unpackbits(values[..., None], axis=-1)[..., -depth:].reshape(4, -1)
    rows = [row.tobytes() for row in np.packbits(bits, axis=-1)]
    key = (1 << depth) - 1
    data = make_png(0, depth, rows, 8, png_chunk(b"tRNS", struct.pack(">H", key)))
    pixels = decode(data).pixels
    np.testing.assert_array_equal(pixels[..., 3], np.where(values == key, 0, 255))
    np.testing.assert_array_equal(pixels[..., 0], values * (255 // key))
    if depth in (1, 8):  # Pillow compares 2 and 4 bits with 8
        np.testing.assert_array_equal(pixels[..., [2, 1, 0, 3]], rgba(data))


def test_a_transparent_gray_value_of_16_bits() -> None:
    values = np.array([[0, 51_400, 51_401, 65_535]], np.uint16)
    key = png_chunk(b"tRNS", struct.pack(">H", 51_400))
    pixels = decode(make_png(0, 16, [values.astype(">u2").tobytes()], 4, key)).pixels
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels[0, :, 3], [65_535, 0, 65_535, 65_535])
    np.testing.assert_array_equal(pixels[0, :, 1], values[0])


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_color_becomes_alpha(depth: int) -> None:
    code = ">u2" if depth == 16 else ">u1"
    values = np.array([[[10, 200, 30], [10, 200, 31]]], code)
    key = png_chunk(b"tRNS", struct.pack(">HHH", 10, 200, 30))
    pixels = decode(make_png(2, depth, [values.tobytes()], 2, key)).pixels
    top = (1 << depth) - 1
    np.testing.assert_array_equal(pixels, [[[30, 200, 10, 0], [31, 200, 10, top]]])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("premultiplied", [False, True])
def test_gray_tiff_with_alpha(dtype: str, premultiplied: bool) -> None:
    pixels = samples.noise(5, 7, 2, dtype=dtype)
    if premultiplied:
        pixels[..., 1] = 1 if dtype == "float32" else np.iinfo(dtype).max
    data = samples.make_tiff(pixels, extra=1 if premultiplied else 2, orientation=3)
    found = decode(data).pixels
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, pixels[::-1, ::-1][..., [0, 0, 0, 1]])


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("predictor", [1, 2])
def test_compressed_gray_tiff_with_alpha(compression: str, predictor: int) -> None:
    pixels = cv2.GaussianBlur(samples.noise(40, 50, 2), (5, 5), 2)
    out = io.BytesIO()
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if predictor == 2 and compression != "raw":
        tags[317] = 2
    Image.fromarray(pixels, "LA").save(out, "TIFF", compression=compression, tiffinfo=tags)
    np.testing.assert_array_equal(decode(out.getvalue()).pixels, pixels[..., [0, 0, 0, 1]])


def test_cmyk_tiff_says_that_its_colors_are_approximate() -> None:
    picture = decode(made("tiff", "CMYK", icc_profile=samples.icc(b"CMYK")))
    assert picture.pixels.shape == (16, 24, 3)
    assert picture.metadata.icc is None
    assert "CMYK" in picture.metadata.lost[0]


def test_text_outside_ascii_and_rationals_pass_through_tiff_as_they_are() -> None:
    """Pillow alone would write question marks."""
    words = "Höhe 山".encode() + b"\0"
    first = struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 270, 2, len(words), 26, 0) + words
    for target in ("tiff", "png", "jpeg", "webp"):
        once = decode(encode(samples.photo(), Metadata(exif=first), format="tiff")[0])
        data, notes = encode(once.pixels, once.metadata, format=target)
        assert notes == ()
        assert words in data


def test_exif_of_either_byte_order_goes_into_tiff_with_its_directories() -> None:
    tags = Image.Exif()
    tags[271], tags[18246], tags[0x8825] = "Ann", 5, {2: (48.0, 12.0, 30.5)}
    tags[0x8769] = {0x9003: "2026:01:02 03:04:05", 0x8827: 400}
    for order in ("II", "MM"):
        tags.endian = "<" if order == "II" else ">"
        block = tags.tobytes()[6:]
        assert block[:2] == order.encode()
        data, notes = encode(samples.photo(), Metadata(exif=block), format="tiff")
        assert notes == ()
        with Image.open(io.BytesIO(data)) as image:
            found = image.getexif()
            assert (found[271], found[18246]) == ("Ann", 5)
            assert found.get_ifd(0x8769)[0x8827] == 400
            assert found.get_ifd(0x8769)[0x9003] == "2026:01:02 03:04:05"
            assert [float(n) for n in found.get_ifd(0x8825)[2]] == [48, 12, 30.5]


def test_directories_that_point_to_themselves_or_overlap_are_harmless() -> None:
    pointers = b"".join(struct.pack("<HHII", tag, 4, 1, 8) for tag in (0x8769, 0x8825, 0xA005))
    circle = struct.pack("<2sHIH", b"II", 42, 8, 3) + pointers + bytes(4)
    assert decode(encode(samples.photo(), Metadata(exif=circle), format="tiff")[0])
    total = 500
    entries = b"".join(struct.pack("<HHII", tag, 1, 6_000, 0) for tag in range(1, total))
    inner = struct.pack("<H", total - 1) + entries + bytes(4)
    bomb = struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 0x8769, 4, 1, 26, 0) + inner
    data = encode(samples.photo(), Metadata(exif=bomb), format="tiff")[0]
    assert len(data) < 200_000


def test_a_bigtiff_gives_its_descriptive_tags() -> None:
    out = io.BytesIO()
    tags: dict[int, Any] = {270: "A hill", 282: 300.0, 283: 300.0, 296: 2}
    Image.fromarray(samples.photo(16, 24)).save(out, "TIFF", big_tiff=True, tiffinfo=tags)
    assert out.getvalue()[2] == 43
    picture = decode(out.getvalue())
    assert picture.metadata.density == Density(300, 300)
    data, notes = encode(picture.pixels, picture.metadata, format="jpeg")
    assert notes == ()
    assert tag(data, 270) == "A hill"


def test_tags_that_point_outside_are_noted() -> None:
    block = struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 270, 2, 99, 5000, 0)
    notes = encode(samples.photo(), Metadata(exif=block), format="tiff")[1]
    assert notes == ("some EXIF tags are left out: they are damaged",)


def test_unknown_tags_of_a_tiff_are_named() -> None:
    picture = decode(made("tiff", tiffinfo={33550: (1.0, 1.0, 0.0), 317: 1}))
    note = "tags that resharp does not know are left out: TIFF tags 33550"
    assert picture.metadata.lost == (note,)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (made("png", dpi=(300, 150)), Density(300, 150)),
        (with_png_chunk(made("png"), b"pHYs", struct.pack(">IIB", 3, 2, 0)), Density(3, 2, False)),
        (with_png_chunk(made("png"), b"pHYs", struct.pack(">IIB", 2, 2, 0)), None),
        (made("jpeg").replace(b"\1\1\0\0\1\0\1", b"\1\1\2\0\x76\0\x76"), Density(299.72, 299.72)),
        (made("jpeg").replace(b"\1\1\0\0\1\0\1", b"\1\1\0\0\2\0\1"), Density(2, 1, False)),
        (made("tiff", tiffinfo={282: 100.0, 283: 100.0, 296: 3}), Density(254, 254)),
        (made("tiff", tiffinfo={282: 2.0, 283: 1.0, 296: 1}), Density(2, 1, False)),
        (made("bmp", dpi=(96, 72)), Density(96, 72)),
    ],
)
def test_resolution_in_every_unit(data: bytes, expected: Density | None) -> None:
    found = decode(data).metadata.density
    assert found == (expected and pytest.approx(expected))


def test_resolution_is_kept_and_turned_with_the_image() -> None:
    tags = Image.Exif()
    tags[0x112] = 6
    data = made("png", dpi=(300, 150), exif=tags)
    picture = decode(data)
    assert picture.pixels.shape == (24, 16, 3)
    for target in ("png", "jpeg", "bmp", "tiff"):
        result, notes = encode(picture.pixels, picture.metadata, format=target)
        assert notes == (
            ("the EXIF data is left out: BMP cannot hold it",) if target == "bmp" else ()
        )
        assert np.allclose(info(result)["dpi"], (150, 300), atol=0.02)


def test_resolution_of_exif_alone_is_written_where_others_look() -> None:
    tags = Image.Exif()
    tags[282], tags[283], tags[296] = 240.0, 240.0, 2
    picture = decode(made("webp", exif=tags))
    assert info(encode(picture.pixels, picture.metadata, format="jpeg")[0])["dpi"] == (240, 240)


GENERATED = (("parameters", "a cat, Steps: 20"), ("workflow", '{"text": "山"}'))


def test_texts_of_several_keywords() -> None:
    metadata = Metadata(text=GENERATED)
    png = encode(samples.photo(), metadata, format="png")[0]
    with Image.open(io.BytesIO(png)) as image:
        assert dict(image.text) == dict(GENERATED)  # type: ignore[attr-defined]
    jpeg, notes = encode(samples.photo(), metadata, format="jpeg")
    assert notes == ()
    assert info(jpeg)["comment"] == '{"text": "山"}'.encode()
    assert comment_of(jpeg) == b"ASCII\0\0\0a cat, Steps: 20"  # where AUTOMATIC1111 looks
    lines = 'parameters: a cat, Steps: 20\nworkflow: {"text": "山"}'
    webp, notes = encode(samples.photo(), metadata, format="webp")
    assert notes == ()
    assert comment_of(webp) == b"UNICODE\0" + lines.encode("utf-16-be")
    assert decode(encode(samples.photo(), metadata, format="tiff")[0]).metadata.exif


def comment_of(data: bytes) -> bytes | None:
    """The user comment of EXIF, by Pillow."""
    with Image.open(io.BytesIO(data)) as image:
        found: bytes | None = image.getexif().get_ifd(0x8769).get(0x9286)
    return found


@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize("comment", [None, b"ASCII\0\0\0" + bytes(8)])
@pytest.mark.parametrize("target", ["webp", "avif", "tiff", "jpeg"])
def test_texts_and_resolution_go_next_to_an_exif_block(
    order: str, comment: bytes | None, target: str
) -> None:
    tags = Image.Exif()
    tags.endian = "<" if order == "II" else ">"
    tags[270], tags[0x8825] = "Mine", {1: "N"}
    tags[0x8769] = {0x927C: MAKER, **({0x9286: comment} if comment else {})}
    block = tags.tobytes()[6:]
    metadata = Metadata(exif=block, text=GENERATED[:1], density=Density(300, 150))
    data, notes = encode(samples.photo(), metadata, format=target)
    assert [note for note in notes if "maker notes" not in note] == []
    assert comment_of(data) == b"ASCII\0\0\0a cat, Steps: 20"
    with Image.open(io.BytesIO(data)) as image:
        found = image.getexif()
        assert found[270] == "Mine"
        assert found.get_ifd(0x8825)[1] == "N"
        assert target == "tiff" or found.get_ifd(0x8769)[0x927C] == MAKER
        if target == "jpeg":
            assert image.info["dpi"] == (300, 150)
        else:
            assert (found[282], found[283], found[296]) == (300, 150, 2)
    if target in ("webp", "avif"):
        assert block[8:] in data  # nothing moved


def test_texts_that_find_no_place_are_noted() -> None:
    tags = Image.Exif()
    tags[270], tags[0x8769] = "Mine", {0x9286: b"ASCII\0\0\0Mine too"}
    metadata = Metadata(exif=tags.tobytes()[6:], text=GENERATED)
    for target, word in (("tiff", "comment"), ("webp", "comment in EXIF"), ("bmp", "comments")):
        notes = encode(samples.photo(), metadata, format=target)[1]
        assert any("comments and texts" in note and word in note for note in notes)
    huge = Metadata(text=(("workflow", "x" * 70_000),))
    data, notes = encode(samples.photo(), huge, format="jpeg")
    assert notes == (
        "comments and texts are left out: too large for JPEG, or refused by its encoder",
    )
    assert decode(data).metadata.text == ()
    assert encode(samples.photo(), huge, format="png")[1] == ()


def test_several_comments_of_a_jpeg_stay_several() -> None:
    data = with_segment(with_segment(made("jpeg"), 0xFE, b"two"), 0xFE, "ä".encode("latin-1"))
    picture = decode(data)
    assert picture.metadata.text == (("Comment", "ä"), ("Comment", "two"))
    again = decode(encode(picture.pixels, picture.metadata, format="jpeg")[0])
    assert again.metadata.text == picture.metadata.text


def test_compressed_and_translated_texts_of_a_png() -> None:
    data = with_png_chunk(made("png"), b"zTXt", b"Title\0\0" + zlib.compress(b"caf\xe9"))
    body = b"Note\0\1\0de\0Notiz\0" + zlib.compress("Grüße".encode())
    metadata = decode(with_png_chunk(data, b"iTXt", body)).metadata
    assert metadata.text == (("Note", "Grüße"), ("Title", "café"))
    assert metadata.lost == ("the language of the text 'Note' is left out",)
    damaged = with_png_chunk(made("png"), b"zTXt", b"Title\0\0" + zlib.compress(b"caf")[:-3])
    assert "damaged" in decode(damaged).metadata.lost[0]


@pytest.mark.parametrize("prefix", [b"Exif\0\0", b""])
def test_exif_and_xmp_as_texts_of_a_png(prefix: bytes) -> None:
    """As ImageMagick wrote them before there was eXIf."""
    block = prefix + samples.exif(orientation=1)
    text = b"\nexif\n%8d\n%s\n" % (len(block), block.hex().encode())
    found = decode(with_png_chunk(made("png"), b"tEXt", b"Raw profile type exif\0" + text))
    assert found.metadata.exif == samples.exif(orientation=1)
    assert found.metadata.text == ()


def test_photoshop_resources_of_the_old_pixels_are_removed() -> None:
    def block(number: int, body: bytes, name: bytes = b"") -> bytes:
        label = bytes((len(name),)) + name
        label += bytes(len(label) % 2)
        head = b"8BIM" + struct.pack(">H", number) + label + struct.pack(">I", len(body))
        return head + body + bytes(len(body) % 2)

    path, thumbnail = block(0x07D0, b"path", b"odd"), block(0x040C, b"thumbnail")
    data = with_segment(made("jpeg"), 0xED, b"Photoshop 3.0\0" + path + thumbnail)
    picture = decode(data)
    assert picture.metadata.photoshop == path
    for target in ("jpeg", "png", "tiff"):
        result, notes = encode(picture.pixels, picture.metadata, format=target)
        assert notes == ()
        assert decode(result).metadata.photoshop == path
    notes = encode(picture.pixels, picture.metadata, format="webp")[1]
    assert notes == ("the Photoshop data is left out: WebP cannot hold it",)
    large = Metadata(photoshop=block(0x0404, bytes(100_000)))
    data, notes = encode(samples.photo(), large, format="jpeg")
    assert notes == ()
    parts = [body[14:] for marker, body in samples.jpeg_segments(data) if marker == 0xED]
    assert len(parts) == 2
    assert b"".join(parts) == large.photoshop


def test_avif_with_transparency_and_xmp() -> None:
    """OpenCV 5.0 alone cannot read it."""
    data = made("avif", "RGBA", xmp=XMP)
    picture = decode(data)
    assert picture.metadata.xmp == XMP
    np.testing.assert_array_equal(picture.pixels[..., 3], rgba(data)[..., 3])


def test_what_is_behind_a_jpeg_is_named() -> None:
    plain = made("jpeg")
    for tail, word in (
        (b"\0\0\0\x18ftypmp42" + bytes(50), "video of the motion photo"),
        (b"anything", "8 bytes after the end"),
        (plain, "1 further image is left out"),
    ):
        lost = decode(plain + tail).metadata.lost
        assert len(lost) == 1
        assert word in lost[0]
    assert decode(plain + bytes(4000)).metadata.lost == ()


def test_blocks_of_the_old_pixels_and_of_other_programs_are_named() -> None:
    jpeg = with_segment(made("jpeg"), 0xEB, b"JP\0\1" + bytes(20))
    jpeg = with_segment(jpeg, 0xE4, b"Camera\0stuff")
    jpeg = with_segment(jpeg, 0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(40))
    said = " ".join(decode(jpeg).metadata.lost)
    assert "C2PA" in said
    assert "APP4 Camera" in said
    assert "extended part of the XMP data" in said
    png = with_png_chunk(with_png_chunk(made("png"), b"caBX", b"jumb"), b"bKGD", bytes(6))
    said = " ".join(decode(png).metadata.lost)
    assert "C2PA" in said
    assert "data that resharp cannot keep is left out: PNG chunks bKGD" in said
    webp = made("webp")
    size = struct.pack("<I", len(webp) - 8 + 12)
    lost = decode(webp[:4] + size + webp[8:] + b"ABCD\4\0\0\0data").metadata.lost
    assert lost == ("data that resharp cannot keep is left out: WebP chunks ABCD",)


@pytest.mark.parametrize("turn", [1, 3, 6])
def test_a_gain_map_is_turned_with_its_image(turn: int) -> None:
    exif = Image.Exif()
    exif[0x112] = turn
    packet = decode(with_gain_map("jpeg")).metadata.xmp
    bright = np.zeros((16, 24), np.uint8)
    bright[:8, :12] = 255
    iso = b"urn:iso:std:iso:ts:21496:-1\0x"
    gain_map = with_segment(samples.encoded(".jpg", bright), 0xE2, iso)
    picture = decode(made("jpeg", exif=exif, xmp=packet) + gain_map)
    assert picture.metadata.gain_map is not None
    assert (picture.metadata.gain_map == gain_map) is (turn == 1)
    data, notes = encode(picture.pixels, picture.metadata, format="jpeg")
    assert notes == ()
    found = data[data.rindex(b"\xff\xd8\xff") :]
    assert iso in found
    assert b'i:Length="%d"' % len(found) in data
    seen = np.asarray(Image.open(io.BytesIO(found)))
    assert seen.shape == picture.pixels.shape[:2]
    corner = {1: seen[4, 4], 3: seen[-4, -4], 6: seen[4, -4]}[turn]
    assert corner > 250
    assert seen.mean() == pytest.approx(64, abs=6)


def test_a_result_announces_no_gain_map_that_it_lacks() -> None:
    picture = decode(with_gain_map("jpeg"))
    assert picture.metadata.gain_map == GAIN_MAP
    for target in OUTPUTS:
        data, notes = encode(picture.pixels, picture.metadata, format=target)
        announced = b"hdrgm:Version" in data or b"GainMap" in data
        assert announced is (target == "jpeg")
        assert any("gain map" in note for note in notes) is (target != "jpeg")
    stale = decode(with_gain_map("jpeg")[: -len(GAIN_MAP)])
    assert b"GainMap" not in encode(stale.pixels, stale.metadata, format="jpeg")[0]


def test_colors_without_a_profile_mean_the_same_in_every_format() -> None:
    """Adobe RGB of gAMA and cHRM, seen through LittleCMS."""
    xy = (31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
    data = with_png_chunk(made("png"), b"cHRM", struct.pack(">8I", *xy))
    data = with_png_chunk(data, b"gAMA", struct.pack(">I", 45_455))
    picture = decode(data)
    green = np.full((8, 8, 3), (60, 180, 60), np.uint8)
    seen = {}
    for target in ("jpeg", "webp", "tiff", "bmp"):
        result = encode(green, picture.metadata, format=target, quality=None)[0]
        profile = info(result).get("icc_profile")
        assert bool(profile) is (target != "bmp")
        shown: Image.Image | None = Image.open(io.BytesIO(result))
        if profile and shown:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            shown = ImageCms.profileToProfile(shown, source, ImageCms.createProfile("sRGB"))
        assert shown is not None
        seen[target] = np.asarray(shown)[4, 4].astype(int)
    assert np.abs(seen["bmp"] - green[0, 0]).max() > 20
    for target in ("jpeg", "webp", "tiff"):
        assert np.abs(seen[target] - seen["bmp"]).max() <= 4, seen


@pytest.mark.parametrize("target", ["jpeg", "webp", "tiff", "bmp"])
def test_hdr_is_converted_where_it_cannot_be_stated(target: str) -> None:
    pixels = np.full((16, 16, 3), 38_000, np.uint16)  # about 203 cd/m2, diffuse white
    picture = decode(with_png_chunk(samples.encoded(".png", pixels), b"cICP", b"\x09\x10\0\1"))
    data, notes = encode(picture.pixels, picture.metadata, format=target)
    assert any("cannot hold BT.2020 PQ" in note for note in notes)
    assert "icc_profile" not in info(data)
    shown = decode(data).pixels
    assert shown.mean() > 0.9 * (65_535 if shown.dtype == np.uint16 else 255)
    kept = encode(picture.pixels, picture.metadata, format="png")[0]
    np.testing.assert_array_equal(decode(kept).pixels, pixels)


def test_unknown_colors_are_noted() -> None:
    picture = decode(with_png_chunk(made("png"), b"cICP", bytes((99, 99, 0, 1))))
    notes = encode(picture.pixels, picture.metadata, format="jpeg")[1]
    assert len(notes) == 1
    assert notes[0].startswith("the colors are taken for sRGB: ")


def test_previews_and_masks_of_mpf_do_not_end_a_run() -> None:
    """Pillow warns about damaged MPF indexes; ours is sound."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert info(encode(*_parts(with_gain_map("jpeg")), format="jpeg")[0])["mode"] == "RGB"


def _parts(data: bytes) -> tuple[Array, Metadata]:
    picture = decode(data)
    return picture.pixels, picture.metadata


SEEN: dict[str, Callable[[Any], Any]] = {
    "colour/cicp.png": lambda m: m.color.cicp == (9, 16),
    "colour/gama.png": lambda m: m.color.gamma and m.color.chromaticities,
    "colour/linear.png": lambda m: m.color.gamma == 1,
    "colour/p3.avif": lambda m: m.color.cicp == (12, 13),
    "colour/pq.avif": lambda m: m.color.cicp == (9, 16),
    "density/p.png": lambda m: m.density == (300, 300, True),
    "density/j.jpg": lambda m: m.density == (300, 300, True),
    "density/t.tif": lambda m: m.density == (300, 300, True),
    "density/b.bmp": lambda m: m.density == (300, 300, True),
    "gainmap/uhdr.jpg": lambda m: len(m.gain_map) == 426,
    "text/sd.png": lambda m: [k for k, _ in m.text] == ["parameters", "workflow", "Copyright"],
    "text/iptc.jpg": lambda m: b"Anna" in m.photoshop and m.text[0][1] == "scanned 2021",
    "text/t.tif": lambda m: b"Anna" in m.photoshop and m.density == (600, 600, True),
}


@needs_cases
@pytest.mark.parametrize("name", SEEN)
def test_cases_of_the_field(name: str) -> None:
    picture = read(CASES / name)
    assert SEEN[name](picture.metadata)
    assert picture.metadata.lost == ()
    same, notes = encode(picture.pixels, picture.metadata, format=picture.format)
    assert not [note for note in notes if not re.search("rounded to 12 bits", note)]
    again = decode(same).metadata
    assert SEEN[name](again)
    for target in OUTPUTS:
        data, notes = encode(picture.pixels, picture.metadata, format=target)
        kept = decode(data).metadata
        carried = any((kept.exif, kept.icc, kept.color, kept.text, kept.photoshop, kept.density))
        assert carried or kept.gain_map or notes


@needs_cases
@pytest.mark.parametrize("name", ["gray8.png", "gray16.png", "gray1key.png", "rgb8.png"])
def test_transparency_of_the_field(name: str) -> None:
    data = (CASES / "trns" / name).read_bytes()
    found = decode(data).pixels
    assert found.shape[2] == 4
    clear = found[..., 3] == 0
    assert 0 < clear.mean() < 1
    body = chunks(data)
    if body[b"IHDR"][9] == 2:
        np.testing.assert_array_equal(clear, rgba(data)[..., 3] == 0)


def test_hand_made_helpers() -> None:
    assert tag(made("tiff", description="Mine"), 270) == "Mine"
    assert XMP.startswith(b"<x:xmpmeta")
    with pytest.raises(ImageError):
        decode(made("png")[:-20])

"""What files hold in unusual places or forms: kept, or noted."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from resharp.errors import ImageError
from resharp.images import Metadata, decode, encode
from resharp.images.containers.info import CREDENTIALS
from tests.images import test_samples as samples
from tests.images.test_samples import png_chunk, with_png_chunk, with_segment
from tests.images.test_transfer import XMP, exif, info, made

tifffile = pytest.importorskip("tifffile")

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("codec", ["utf-16", "utf-8", "utf-8-sig"])
@pytest.mark.parametrize("form", ["jpeg", "gif"])
def test_marked_comments_are_decoded(codec: str, form: str) -> None:
    data = made(form, comment="Höhe 山".encode(codec))
    picture = decode(data)
    assert picture.metadata.text == (("Comment", "Höhe 山"),)
    result = encode(picture.pixels, picture.metadata, format="jpeg")[0]
    assert info(result)["comment"] == "Höhe 山".encode()


def test_big_endian_comments_are_decoded() -> None:
    data = with_segment(made("jpeg"), 0xFE, b"\xfe\xff" + "Höhe".encode("utf-16-be"))
    assert decode(data).metadata.text == (("Comment", "Höhe"),)


@pytest.mark.parametrize(
    ("kind", "block"),
    [("icc", SRGB), ("icm", SRGB), ("xmp", XMP), ("xmp", XMP[XMP.index(b"<rdf") : -12])],
)
def test_raw_profiles_of_old_writers_are_no_texts(kind: str, block: bytes) -> None:
    profile = b"\n%s\n%8d\n%s\n" % (kind.encode(), len(block), block.hex().encode())
    body = b"Raw profile type " + kind.encode() + b"\0\0" + zlib.compress(profile)
    picture = decode(with_png_chunk(made("png"), b"zTXt", body))
    assert picture.metadata.text == ()
    result = info(encode(picture.pixels, picture.metadata, format="jpeg")[0])
    assert result["xmp" if kind == "xmp" else "icc_profile"] == block


@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "bmp", "gif"])
def test_what_follows_the_image_is_noted(form: str) -> None:
    data = made(form)
    assert decode(data + bytes(9)).metadata.lost == ()
    note = "11 bytes after the end of the image are left out"
    assert decode(data + b"PK\3\4another").metadata.lost == (note,)


def test_boxes_behind_an_avif_are_noted() -> None:
    video = struct.pack(">I4s", 16, b"mpvd") + b"anything"
    credentials = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
    data = made("avif") + video + struct.pack(">I4s", 28, b"uuid") + credentials + b"c2pa"
    note = "data that resharp cannot keep is left out: AVIF boxes mpvd"
    assert decode(data).metadata.lost == (CREDENTIALS, note)


@pytest.mark.parametrize("name", [b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"])
def test_a_second_segment_of_a_kind_is_noted(name: bytes) -> None:
    block = exif() if name.startswith(b"Exif") else XMP
    data = with_segment(with_segment(made("jpeg"), 0xE1, name + block), 0xE1, name + block)
    assert "a second APP1" in decode(data).metadata.lost[0]


def test_exif_in_several_segments_is_joined() -> None:
    """As exiftool and Pillow do."""
    tags = Image.Exif()
    tags[271], tags[0x8769] = "Ann", {0x9286: b"ASCII\0\0\0" + b"x" * 90_000}
    block = tags.tobytes()[6:]
    data = with_segment(made("jpeg"), 0xE1, b"Exif\0\0" + block[60_000:])
    picture = decode(with_segment(data, 0xE1, b"Exif\0\0" + block[:60_000]))
    assert picture.metadata.exif == block
    notes = encode(picture.pixels, picture.metadata, format="jpeg")[1]
    assert notes == ("the EXIF data is left out: too large for JPEG, or refused by its encoder",)


def test_an_image_inside_a_preview_is_counted() -> None:
    """As in raw files: the first directory is a preview, and the image is inside it."""
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as file:
        file.write(samples.noise(10, 10), subfiletype=1, subifds=1)
        file.write(samples.noise(40, 40), subfiletype=0)
    with pytest.raises(ImageError, match="2 images"):
        decode(out.getvalue())
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as file:
        file.write(samples.noise(40, 40), subifds=1)
        file.write(samples.noise(20, 20), subfiletype=1)
    assert decode(out.getvalue()).pixels.shape == (40, 40)


@pytest.mark.parametrize(("space", "noted"), [(b"KNIL", True), (bytes(4), True), (b"BGRs", False)])
def test_colors_of_a_bmp_are_noted(space: bytes, noted: bool) -> None:
    data = bytearray(samples.encoded(".bmp", samples.noise(4, 6, 4)))
    data[70:78] = space + b"\1\2\3\4"
    note = "the color calibration is left out: resharp cannot keep that of a BMP"
    assert decode(bytes(data)).metadata.lost == ((note,) if noted else ())


def test_code_points_win_over_a_profile_in_avif() -> None:
    data = with_png_chunk(made("png", icc_profile=SRGB), b"cICP", b"\x09\x10\0\1")
    picture = decode(data)
    result, notes = encode(picture.pixels, picture.metadata, format="avif")
    assert notes == ("the ICC profile is left out: the color tags (cICP) have precedence",)
    assert "icc_profile" not in info(result)
    assert b"nclx\0\x09\0\x10" in result


@pytest.mark.parametrize(("transfer", "kept"), [(16, True), (18, True), (13, False)])
def test_pq_and_hlg_next_to_a_profile_in_avif(transfer: int, kept: bool) -> None:
    data = made("avif", icc_profile=SRGB)
    assert data.count(b"nclx\0\2\0\2") == 1
    picture = decode(data.replace(b"nclx\0\2\0\2", b"nclx\0\x09\0" + bytes((transfer,))))
    result = encode(picture.pixels, picture.metadata, format="avif")[0]
    assert (b"nclx\0\x09\0" + bytes((transfer,)) in result) == kept
    assert ("icc_profile" in info(result)) != kept


@pytest.mark.parametrize("limited", [False, True])
def test_gray_avif_of_either_range(limited: bool) -> None:
    """OpenCV leaves 16..235 as it is."""
    gray = cv2.resize(np.array([[0, 255]], np.uint8), (24, 16))
    out = io.BytesIO()
    scale = "limited" if limited else "full"
    Image.fromarray(gray).save(out, "AVIF", range=scale, subsampling="4:0:0", quality=100)
    pixels = decode(out.getvalue()).pixels
    assert pixels.shape == gray.shape
    assert np.abs(pixels.astype(int) - gray).max() <= 2


@pytest.mark.parametrize("depth", [10, 12])
def test_deep_gray_avif_of_limited_range(depth: int) -> None:
    top = 1 << (depth - 8)
    gray = np.linspace(16 * top, 235 * top, 24).astype(np.uint16)[None].repeat(16, 0)
    data = samples.encoded(
        ".avif", gray, cv2.IMWRITE_AVIF_DEPTH, depth, cv2.IMWRITE_AVIF_QUALITY, 100
    )
    at = data.index(b"colrnclx") + 14
    assert data[at] == 0x80
    pixels = decode(data[:at] + b"\0" + data[at + 1 :]).pixels
    assert np.abs(pixels - np.linspace(0, 65_535, 24)).max() < 65_535 / 219


def test_gray_avif_with_transparency_is_refused_by_name() -> None:
    image = Image.linear_gradient("L").resize((24, 16)).convert("LA")
    image.putalpha(image.getchannel("L"))
    out = io.BytesIO()
    image.save(out, "AVIF", subsampling="4:0:0")
    with pytest.raises(ImageError, match="is AVIF with gray and transparency"):
        decode(out.getvalue())


def test_png_metadata_beyond_the_decoder_s_limit() -> None:
    """libpng gives up at chunks of 8 MB."""
    profile = samples.icc(extra=9_000_000)
    compressed = b"icc\0\0" + zlib.compress(profile, 0)
    chunks = (png_chunk(b"iCCP", compressed), png_chunk(b"PLTE", bytes(range(6))))
    data = samples.make_png(3, 8, [b"\0\1"], 2, *chunks, png_chunk(b"tRNS", b"\7"))
    picture = decode(data)
    np.testing.assert_array_equal(picture.pixels, [[[2, 1, 0, 7], [5, 4, 3, 255]]])
    assert picture.metadata.icc == profile
    result, notes = encode(picture.pixels, picture.metadata, format="png")
    assert notes == ()
    assert decode(result).metadata.icc == profile


def test_a_malformed_exif_directory_takes_no_text() -> None:
    block = struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 0x8769, 4, 1, 5000, 0)
    metadata = Metadata(exif=block, text=(("Title", "A hill"),))
    notes = encode(samples.photo(), metadata, format="webp")[1]
    assert len(notes) == 1
    assert "EXIF data is damaged" in notes[0]

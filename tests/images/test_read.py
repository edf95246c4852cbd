"""Reading: depth, alpha, orientation and metadata as the file has them."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resharp.errors import ImageError
from resharp.images import decode, encode, read, suffixes, writable
from tests.images import test_samples as samples
from tests.images.test_samples import Array, encoded, make_png, make_tiff, noise

HAVE_AVIF = ".avif" in suffixes()

# How each EXIF orientation is to be seen, in other words than those of the package.
SEEN: dict[int, Callable[[Array], Array]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.fliplr(np.rot90(a, -1)),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.fliplr(np.rot90(a, 1)),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp"])
@pytest.mark.parametrize("shape", [(9, 13), (9, 13, 3), (9, 13, 4)])
def test_lossless_files_come_back_equal(suffix: str, shape: tuple[int, ...]) -> None:
    pixels = noise(*shape)
    if len(shape) == 3 and shape[2] == 4:
        pixels[..., 3] |= 1  # WebP discards colors that are fully transparent
    picture = decode(encoded(suffix, pixels))
    expected = pixels
    if suffix == ".webp" and pixels.ndim == 2:
        expected = np.dstack([pixels] * 3)
    np.testing.assert_array_equal(picture.pixels, expected)
    assert picture.pixels.flags.c_contiguous


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("shape", [(9, 13), (9, 13, 3), (9, 13, 4)])
def test_16_bits_stay_16_bits(suffix: str, shape: tuple[int, ...]) -> None:
    pixels = noise(*shape, dtype="uint16")
    picture = decode(encoded(suffix, pixels))
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.pixels.dtype == np.uint16


@pytest.mark.parametrize("shape", [(9, 13), (9, 13, 3)])
def test_float_stays_float(shape: tuple[int, ...]) -> None:
    pixels = noise(*shape, dtype="float32") * 3
    picture = decode(encoded(".tif", pixels))
    np.testing.assert_array_equal(picture.pixels, pixels)
    double = decode(encoded(".tif", pixels.astype(np.float64)))
    np.testing.assert_array_equal(double.pixels, pixels)
    assert double.pixels.dtype == np.float32


@pytest.mark.parametrize("name", ["photo.jpg", "사진 ñandú 🌄.png", "no suffix", "it lies.jpg"])
def test_names_do_not_matter(tmp_path: Path, name: str) -> None:
    pixels = noise(8, 8, 3)
    path = tmp_path / name
    path.write_bytes(encoded(".png", pixels))
    for given_path in (path, str(path)):
        picture = read(given_path)
        np.testing.assert_array_equal(picture.pixels, pixels)
        assert picture.format == "png"


def test_small_png_kinds() -> None:
    one_bit = decode(make_png(0, 1, [b"\xa0", b"\x40"], 3))
    np.testing.assert_array_equal(one_bit.pixels, [[255, 0, 255], [0, 255, 0]])
    colors = samples.png_chunk(b"PLTE", bytes((10, 20, 30, 40, 50, 60)))
    palette = decode(make_png(3, 8, [b"\0\1"], 2, colors))
    np.testing.assert_array_equal(palette.pixels, [[[30, 20, 10], [60, 50, 40]]])
    clear = samples.png_chunk(b"tRNS", b"\x05")
    palette = decode(make_png(3, 8, [b"\0\1"], 2, colors, clear))
    np.testing.assert_array_equal(palette.pixels, [[[30, 20, 10, 5], [60, 50, 40, 255]]])
    gray_alpha = decode(make_png(4, 8, [bytes((7, 100, 9, 200))], 2))
    np.testing.assert_array_equal(gray_alpha.pixels, [[[7, 7, 7, 100], [9, 9, 9, 200]]])
    deep = decode(make_png(4, 16, [struct.pack(">4H", 700, 1000, 900, 60_000)], 2))
    np.testing.assert_array_equal(deep.pixels, [[[700] * 3 + [1000], [900] * 3 + [60_000]]])


def test_cmyk_jpeg_has_the_right_colors_and_says_that_they_are_approximate() -> None:
    data = samples.with_segment(
        samples.JPEG_CMYK, 0xE2, b"ICC_PROFILE\0\1\1" + samples.icc(b"CMYK")
    )
    picture = decode(data)
    assert np.abs(picture.pixels.astype(int) - samples.quarters(16, 16)).max() < 20
    assert picture.metadata.icc is None
    note = "CMYK is converted to RGB without its color profile: colors are approximate"
    assert picture.metadata.lost == (note,)
    assert encode(picture.pixels, picture.metadata, format="png")[1] == (note,)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_orientation_is_obeyed_and_reset(orientation: int, order: str) -> None:
    pixels = noise(5, 8, 3)
    block = samples.exif(order, orientation)
    expected = SEEN[orientation](pixels)
    png = samples.with_png_chunk(encoded(".png", pixels), b"eXIf", block)
    _, webp = cv2.imencodeWithMetadata(
        ".webp", pixels, [cv2.IMAGE_METADATA_EXIF], [np.frombuffer(block, np.uint8)]
    )
    for picture in (decode(png), decode(webp.tobytes())):
        np.testing.assert_array_equal(picture.pixels, expected)
        kept = picture.metadata.exif
        assert kept is not None
        assert samples.tiff_tags(kept)[0x112] == struct.pack(order + "H", 1)
        changed = sum(a != b for a, b in zip(kept, block, strict=True))
        # The tag and the turned thumbnail, and from 5 on the exchanged width and height.
        assert changed == (0 if orientation == 1 else 2 if orientation < 5 else 4)
    smooth = samples.photo()
    jpeg = samples.with_segment(encoded(".jpg", smooth), 0xE1, b"Exif\0\0" + block)
    seen = decode(jpeg).pixels.astype(int)
    assert np.abs(seen - SEEN[orientation](smooth)).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_tiff_orientation_is_obeyed_once(orientation: int, dtype: str) -> None:
    pixels = noise(5, 8, 3, dtype=dtype)
    picture = decode(make_tiff(pixels, orientation=orientation))
    np.testing.assert_array_equal(picture.pixels[..., ::-1], SEEN[orientation](pixels))


@pytest.mark.skipif(not HAVE_AVIF, reason="this OpenCV build has no AVIF")
def test_avif_is_turned_by_its_container_and_gives_up_its_metadata() -> None:
    picture = decode(samples.AVIF_ORIENTED_7)
    expected = SEEN[7](samples.quarters())
    assert picture.pixels.shape == expected.shape
    assert np.abs(picture.pixels.astype(int) - expected).mean() < 10
    assert picture.metadata.xmp == b"<x:xmpmeta/>"
    assert picture.metadata.exif is None


@pytest.mark.skipif(not HAVE_AVIF, reason="this OpenCV build has no AVIF")
@pytest.mark.parametrize("depth", [10, 12])
def test_deep_avif_reaches_white(depth: int) -> None:
    ramp = np.linspace(0, 1, 64) ** 2
    native = np.rint(np.tile(ramp, (64, 1)) * ((1 << depth) - 1)).astype(np.uint16)
    data = encoded(".avif", native, cv2.IMWRITE_AVIF_DEPTH, depth, cv2.IMWRITE_AVIF_QUALITY, 100)
    pixels = decode(data).pixels
    assert pixels.dtype == np.uint16
    assert pixels.max() == 65_535
    assert np.abs(pixels / 65_535 - ramp).max() < 0.01


def test_xmp_orientation_is_reset_too() -> None:
    body = b"http://ns.adobe.com/xap/1.0/\0" + samples.XMP
    picture = decode(samples.with_segment(encoded(".jpg", samples.photo()), 0xE1, body))
    assert picture.metadata.xmp is not None
    assert b'tiff:Orientation="1"' in picture.metadata.xmp
    assert b"<tiff:Orientation>1<" in picture.metadata.xmp
    assert len(picture.metadata.xmp) == len(samples.XMP)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_exif_block_crashes_or_harms_the_pixels(data: st.DataObject) -> None:
    block = bytearray(samples.exif(data.draw(st.sampled_from("<>"))))
    for _ in range(data.draw(st.integers(1, 6))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    broken = bytes(block[: data.draw(st.integers(0, len(block)))])
    pixels = noise(4, 6)
    picture = decode(samples.with_png_chunk(encoded(".png", pixels), b"eXIf", broken))
    assert sorted(picture.pixels.ravel()) == sorted(pixels.ravel())


def test_a_malformed_exif_block_is_dropped_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = samples.with_png_chunk(encoded(".png", noise(4, 6)), b"eXIf", samples.exif()[:30])
    with caplog.at_level(logging.WARNING):
        assert decode(data, "holiday.png").metadata.exif is None
    assert "holiday.png" in caplog.text
    assert "damaged" in caplog.text


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_tiff_alpha_is_straight_whatever_the_file_has(dtype: str) -> None:
    top = np.iinfo(dtype).max
    straight = noise(6, 9, 4, dtype=dtype)
    straight[..., 3] = np.maximum(straight[..., 3], top // 4)
    picture = decode(make_tiff(straight, extra=2))
    np.testing.assert_array_equal(picture.pixels[..., [2, 1, 0, 3]], straight)
    multiplied = straight.copy()
    share = straight[..., 3:] / top
    multiplied[..., :3] = np.rint(straight[..., :3] * share)
    divided = decode(make_tiff(multiplied, extra=1)).pixels[..., [2, 1, 0, 3]]
    assert np.abs(divided.astype(int) - straight).max() <= 3


def test_tiff_metadata_and_description() -> None:
    data = make_tiff(noise(4, 4, 3), icc=samples.icc(), xmp=samples.XMP, description=b"A hill\0")
    metadata = decode(data).metadata
    assert metadata.icc == samples.icc()
    assert metadata.xmp is not None
    assert metadata.exif is not None
    assert samples.tiff_tags(metadata.exif) == {270: b"A hill\0"}


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (make_tiff(noise(4, 4, 2)), "2 channels"),
        (make_tiff(noise(4, 4, dtype="uint16"), photometric=0), "photometric interpretation 0"),
        (make_tiff(noise(4, 4, 3), photometric=8), "photometric interpretation 8"),
        (make_tiff(noise(4, 4, 3, dtype="uint16"), planar=2), "one plane per channel"),
        (make_tiff(noise(4, 4, dtype="uint16"), format=2), "16-bit signed"),
        (make_tiff(noise(4, 4, dtype="uint32")), "32-bit unsigned"),
    ],
)
def test_tiff_variants_that_opencv_misreads_are_refused(data: bytes, what: str) -> None:
    with pytest.raises(ImageError, match=what):
        decode(data)


def test_previews_in_a_tiff_are_no_pages() -> None:
    pixels = noise(4, 4, 3)
    picture = decode(make_tiff(pixels, pages=3, subfile=1))
    np.testing.assert_array_equal(picture.pixels[..., ::-1], pixels)


def several(suffix: str, count: int) -> bytes:
    frames = [samples.quarters() + np.uint8(9 * index) for index in range(count)]
    animation = cv2.Animation()
    animation.frames = frames
    animation.durations = [100] * count
    ok, data = cv2.imencodeanimation(suffix, animation)
    assert ok
    return data.tobytes()


@pytest.mark.parametrize("suffix", [".png", ".webp", ".gif", ".avif", ".tif"])
def test_animations_and_pages_are_refused_with_their_number(suffix: str) -> None:
    if suffix not in suffixes():
        pytest.skip("not in this OpenCV build")
    data = make_tiff(noise(4, 4, 3), pages=3) if suffix == ".tif" else several(suffix, 3)
    with pytest.raises(ImageError, match=r"lots holds 3 (frames|images)"):
        decode(data, "lots")


@pytest.mark.skipif(".gif" not in suffixes(), reason="this OpenCV build has no GIF")
def test_a_still_gif_is_read() -> None:
    picture = decode(encoded(".gif", samples.quarters()))
    assert picture.format == "gif"
    assert np.abs(picture.pixels[..., :3].astype(int) - samples.quarters()).mean() < 10


def test_suffixes() -> None:
    assert {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"} <= set(writable())
    assert set(writable()) <= set(suffixes())
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in suffixes())
    assert ".gif" not in writable()

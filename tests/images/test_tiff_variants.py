"""Tags of TIFF that contradict each other, or that OpenCV would ignore, are errors."""

from __future__ import annotations

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from resharp.errors import ImageError
from resharp.images import decode, ifd
from tests.images.test_samples import make_tiff, noise, photo
from tests.images.test_tiff_strips import DEFLATE, LZW, NONE, PACK_BITS, Array, tiff


def with_tag(data: bytes, tag: int, *values: int, kind: int = ifd.SHORT) -> bytes:
    """The file with other values of a tag."""
    order = ifd.Page(data).order
    code = {ifd.BYTE: "B", ifd.SHORT: "H", ifd.LONG: "I", ifd.RATIONAL: "I", 11: "I"}[kind]
    count = len(values) // (2 if kind == ifd.RATIONAL else 1)
    packed = struct.pack(f"{order}{len(values)}{code}", *values)
    return ifd.extended(data, {tag: (kind, count, packed)})


def by_pillow(mode: str, compression: str, **options: object) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(photo(40, 64)).convert(mode)
    image.save(out, "TIFF", compression=compression, **options)
    return out.getvalue()


def refusal(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, "x.tif")
    return str(caught.value)


COLOR, GRAY, DEEP = photo(40, 64), photo(40, 64)[..., 0].copy(), noise(4, 6, 3, dtype="uint16")


@pytest.mark.parametrize("base", [NONE, LZW, DEFLATE, PACK_BITS])
@pytest.mark.parametrize("number", [0, 255, 16383, 32767, 46538, 65535])
def test_a_compression_that_nobody_defined_is_an_error(base: int, number: int) -> None:
    """OpenCV returned what was in its memory."""
    data = with_tag(tiff(COLOR, base), 259, number)
    assert f"damaged TIFF file: its compression {number} is not known. Copy" in refusal(data)


@pytest.mark.parametrize(
    ("number", "name"), [(6, "old JPEG"), (32809, "ThunderScan"), (34925, "LZMA"), (50000, "Zstan")]
)
def test_a_compression_that_is_not_checked_is_refused_by_its_name(number: int, name: str) -> None:
    text = refusal(with_tag(tiff(COLOR, NONE), 259, number))
    assert re.fullmatch(
        rf"x\.tif is TIFF with {name}\w* compression, which cannot be read without changing it\. "
        r"Save it with LZW or deflate, or as PNG\.",
        text,
    )


RAW = tiff(COLOR, NONE)
PALETTE = by_pillow("P", "tiff_lzw")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (with_tag(RAW, 258, 5, 6, 5), r"channels of different bits \(5, 6, 5\)"),
        (with_tag(RAW, 339, 1, 3, 1), r"channels of different kinds \(1, 3, 1\)"),
        (with_tag(RAW, 284, 3), "planar configuration is 3, which is not defined"),
        (with_tag(RAW, 277, 1), "RGB needs 3 channels, but its directory states 1"),
        (with_tag(make_tiff(DEEP), 277, 1), "RGB needs 3 channels, but its directory states 1"),
        (with_tag(RAW, 262, 1), "3 channels that are gray with others"),
        (with_tag(make_tiff(DEEP), 262, 1), "3 channels that are gray with others"),
        (with_tag(tiff(GRAY, NONE), 262, 3), "palette has 0 of 768 values"),
        (with_tag(PALETTE, 320, *range(48)), "palette has 48 of 768 values"),
        (with_tag(RAW, 338, 0), r"extra channels \(0,\) do not fit 3 channels of RGB"),
        (
            with_tag(make_tiff(noise(4, 4, 4), extra=2), 338, 7),
            r"extra channels \(7,\) do not fit 4",
        ),
        (with_tag(by_pillow("CMYK", "raw"), 332, 2), "inks other than CMYK"),
        (with_tag(RAW, 323, 16), "does not state whether it has strips or tiles"),
        (with_tag(make_tiff(DEEP), 323, 1), "does not state whether it has strips or tiles"),
        (with_tag(RAW, 256, 64, 1, kind=ifd.RATIONAL), "value of its tag 256 is not an integer"),
        (with_tag(RAW, 259, 3), "its 3 channels of 8 bits are compressed as fax"),
        (with_tag(tiff(COLOR, DEFLATE, 2), 317, 3), "predictor 3 is not that of unsigned samples"),
        (with_tag(tiff(COLOR, LZW, 2), 317, 5), "predictor 5 is not"),
        (with_tag(RAW, 273, 0, 0, kind=ifd.LONG), "strip 1 of 2 begins inside the header"),
    ],
)
def test_tags_that_contradict_each_other_are_errors(data: bytes, what: str) -> None:
    assert re.search(what, refusal(data))


def test_a_predictor_without_a_compression_that_has_one_is_ignored() -> None:
    """Gray with alpha was added up."""
    pair = noise(6, 9, 2)
    data = with_tag(make_tiff(pair, extra=2), 317, 2)
    np.testing.assert_array_equal(decode(data).pixels, pair[..., [0, 0, 0, 1]])


def test_an_empty_list_of_extra_channels_is_none() -> None:
    """It became an alpha that the image has no channel for."""
    data = with_tag(make_tiff(noise(6, 9, 3)), 338)
    np.testing.assert_array_equal(decode(data).pixels[..., ::-1], noise(6, 9, 3))


@pytest.mark.parametrize("mode", ["RGB", "L", "YCbCr", "CMYK"])
@pytest.mark.parametrize("size", [900, 1 << 20])
def test_jpeg_strips_have_the_size_of_their_strip(mode: str, size: int) -> None:
    data = by_pillow(mode, "jpeg", strip_size=size)
    assert decode(data).pixels.shape[:2] == (40, 64)
    for width in (56, 63, 65, 80):
        assert "strip 1 of" in refusal(with_tag(data, 256, width))


def differences(pixels: Array) -> bytes:
    """Rows of floats under predictor 3: their bytes by significance, as differences."""
    height, width, channels = pixels.shape
    size = pixels.itemsize
    split = pixels.astype(f">f{size}").view(np.uint8).reshape(height, width * channels, size)
    rows = split.transpose(0, 2, 1).reshape(height, -1)
    out = rows.copy()
    out[:, channels:] = rows[:, channels:] - rows[:, :-channels]
    return out.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [1, 3])
def test_predictors_of_floats_are_exact(dtype: str, channels: int) -> None:
    pixels = np.linspace(0, 1, 20 * 30 * channels).reshape(20, 30, channels).astype(dtype)
    strip = zlib.compress(differences(pixels))
    plain = make_tiff(pixels if channels == 3 else pixels[..., 0])
    data = with_tag(with_tag(plain, 259, DEFLATE), 317, 3)
    data = with_tag(data + strip, 273, len(data), kind=ifd.LONG)
    found = decode(with_tag(data, 279, len(strip), kind=ifd.LONG)).pixels
    wanted = pixels[..., ::-1] if channels == 3 else pixels[..., 0]
    np.testing.assert_array_equal(found, wanted.astype(np.float32))

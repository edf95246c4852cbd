"""Damaged strips and tiles of TIFF are errors; what writers do differently is none."""

from __future__ import annotations

import io
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from resharp.errors import ImageError
from resharp.images import decode, ifd
from resharp.images.containers import tiff_strips, tiff_unpack
from tests.images.test_samples import photo

NONE, LZW, DEFLATE, OLD_DEFLATE, PACK_BITS = 1, 5, 8, 32946, 32773
PACKED = (LZW, DEFLATE, OLD_DEFLATE, PACK_BITS)
PREDICTORS = [(LZW, 1), (LZW, 2), (DEFLATE, 1), (DEFLATE, 2), (OLD_DEFLATE, 2), (PACK_BITS, 1)]
Array = NDArray[Any]


def tiff(pixels: Array, compression: int, predictor: int = 1, rows: int = 32) -> bytes:
    """A TIFF file of OpenCV."""
    ok, data = cv2.imencode(
        ".tif",
        pixels,
        [
            *(cv2.IMWRITE_TIFF_COMPRESSION, compression, cv2.IMWRITE_TIFF_PREDICTOR, predictor),
            *(cv2.IMWRITE_TIFF_ROWSPERSTRIP, rows),
        ],
    )
    assert ok
    return data.tobytes()


def strips_of(data: bytes) -> tiff_strips.Strips:
    return tiff_strips.layout(data, ifd.Page(data))


def with_strip(data: bytes, number: int, strip: bytes) -> bytes:
    """The file with another strip, which is put behind it."""
    page, copy = ifd.Page(data), bytearray(data)
    for tag, value in ((tiff_strips.STRIPS, len(data)), (tiff_strips.STRIP_SIZES, len(strip))):
        values = [*page.numbers(tag)]
        values[number] = value
        kind = page.values[tag][0]
        code = f"{page.order}u{2 if kind == ifd.SHORT else 4}"
        raw = np.array(values, code).tobytes()
        where = page.positions[tag]
        copy[where : where + len(raw)] = raw
    return bytes(copy) + strip


def damaged(data: bytes, number: int = 1) -> bytes:
    """The file with zeros in the second half of a strip."""
    strips = strips_of(data)
    half = strips.counts[number] // 2
    at = strips.offsets[number] + half
    return data[:at] + bytes(half - 8) + data[at + half - 8 :]


def kinds() -> list[Array]:
    color = photo(97, 131)
    gray = color[..., 0].copy()
    deep = color.astype(np.uint16) * 257
    return [color, gray, np.dstack([color, gray]), deep, deep[..., 0].copy()]


@pytest.mark.parametrize(("compression", "predictor"), PREDICTORS)
def test_a_damaged_strip_is_an_error(compression: int, predictor: int) -> None:
    for pixels in kinds():
        data = tiff(pixels, compression, predictor)
        assert (decode(data).pixels == pixels).all()
        with pytest.raises(ImageError, match=r"damaged TIFF file: strip 2 of 4 is damaged\. Copy"):
            decode(damaged(data), "x.tif")


@pytest.mark.parametrize(("compression", "predictor"), [*PREDICTORS, (NONE, 1)])
@pytest.mark.parametrize("rows", [1, 7, 97, 200])
def test_sound_strips_are_read(compression: int, predictor: int, rows: int) -> None:
    for pixels in kinds():
        assert (decode(tiff(pixels, compression, predictor, rows)).pixels == pixels).all()


@pytest.mark.parametrize("compression", [LZW, PACK_BITS])
@pytest.mark.parametrize("width", [1, 2, 3, 64, 65])
@pytest.mark.parametrize("flat", [True, False])
def test_any_number_of_bytes_is_read(compression: int, width: int, flat: bool) -> None:
    pixels = np.full((33, width), 7, np.uint8) if flat else photo(33, 80)[:, :width, 1].copy()
    for rows in (1, 2, 5, 33):
        assert (decode(tiff(pixels, compression, 1, rows)).pixels == pixels).all()


def test_large_strips_have_long_marks() -> None:
    pixels = np.arange(1_200_001, dtype=np.uint32).view(np.uint8).reshape(1, -1)[:, :1_000_003]
    pixels = np.repeat(pixels, 3, axis=0)
    for compression in (LZW, PACK_BITS):
        data = tiff(pixels.copy(), compression, 1, 3)
        assert (decode(data).pixels == pixels).all()
        with pytest.raises(ImageError, match="strip 1 of 1 is damaged"):
            decode(damaged(data, 0))


def test_lzw_with_another_length_is_an_error() -> None:
    """One changed code makes a strip shorter or longer; libtiff sees only the former."""
    pixels = photo(64, 96)
    data = tiff(pixels, LZW)
    strips = strips_of(data)
    strip = strips.raw(data, 0)
    longer = 0
    for at in range(200, 500):
        changed = strip[:at] + bytes((strip[at] ^ 0x10,)) + strip[at + 1 :]
        if tiff_unpack.has(changed, strips.sizes[0] + 2, LZW):
            longer += 1
            with pytest.raises(ImageError, match="strip 1 of 2 is damaged"):
                decode(with_strip(data, 0, changed))
    assert longer >= 5


def test_a_wrong_checksum_is_an_error_and_a_missing_one_is_not() -> None:
    pixels = photo(64, 96)
    data = tiff(pixels, DEFLATE)
    strip = strips_of(data).raw(data, 1)
    assert (decode(with_strip(data, 1, strip[:-4])).pixels == pixels).all()
    with pytest.raises(ImageError, match="strip 2 of 2 is damaged"):
        decode(with_strip(data, 1, strip[:-4] + b"\0\1\2\3"))
    with pytest.raises(ImageError, match="strip 2 of 2 is damaged"):
        decode(with_strip(data, 1, strip[:-40]))


def test_lzw_without_its_end_code_is_read() -> None:
    pixels = photo(64, 96)
    data = tiff(pixels, LZW)
    strip = strips_of(data).raw(data, 1).rstrip(b"\0")
    cut = with_strip(data, 1, strip[:-1])
    assert (decode(cut).pixels == pixels).all()
    with pytest.raises(ImageError, match="strip 2 of 2 is damaged"):
        decode(with_strip(data, 1, strip[:-60]))


def test_padded_strips_are_read() -> None:
    pixels = photo(64, 96)
    for compression in PACKED:
        data = tiff(pixels, compression)
        for padding in (b"\0", b"\0\0\0"[: 2 if compression == LZW else 3]):
            strip = strips_of(data).raw(data, 0) + padding
            assert (decode(with_strip(data, 0, strip)).pixels == pixels).all()
    data = tiff(pixels, PACK_BITS)
    with pytest.raises(ImageError, match="strip 1 of 2 is damaged"):
        decode(with_strip(data, 0, strips_of(data).raw(data, 0) + b"\x05abcdef"))


def test_a_last_strip_with_rows_below_the_image_is_read() -> None:
    pixels, below = photo(40, 96), bytes(24 * 96 * 3)
    data = tiff(pixels, DEFLATE)
    last = zlib.decompress(strips_of(data).raw(data, 1)) + below
    assert (decode(with_strip(data, 1, zlib.compress(last))).pixels == pixels).all()
    longer = tiff(np.vstack([pixels, np.zeros((24, 96, 3), np.uint8)]), LZW)
    last = strips_of(longer).raw(longer, 1)
    assert (decode(with_strip(tiff(pixels, LZW), 1, last)).pixels == pixels).all()


@pytest.mark.parametrize("compression", [NONE, *PACKED])
def test_strips_outside_the_file_are_an_error(compression: int) -> None:
    data = tiff(photo(64, 96), compression)
    page, copy = ifd.Page(data), bytearray(data)
    where = page.positions[tiff_strips.STRIPS]
    copy[where + 4 : where + 8] = (2**31).to_bytes(4, "little")
    with pytest.raises(ImageError, match=r"before strip 2 of 2 does"):
        decode(bytes(copy))


def test_too_few_strips_or_bytes_are_an_error() -> None:
    pixels = photo(64, 96)
    data = tiff(pixels, NONE)
    short = with_strip(data, 1, strips_of(data).raw(data, 1)[:-3])
    with pytest.raises(ImageError, match="strip 2 of 2 has 9213 bytes, but its pixels have 9216"):
        decode(short)
    with pytest.raises(ImageError, match="strip 2 of 2 is empty"):
        decode(with_strip(tiff(pixels, LZW), 1, b""))
    copy = bytearray(data + bytes(10_000))
    ifd.Page(data).put(copy, tiff_strips.HEIGHT, 97)
    with pytest.raises(ImageError, match="its directory lists 2 of 4 strips"):
        decode(bytes(copy))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("shape", ["strips", "tiles", "planes", "tiled planes"])
def test_tifffile(order: str, shape: str) -> None:
    """Tiles, planes and both byte orders of another writer, with every type it has."""
    tifffile = pytest.importorskip("tifffile")
    how: dict[str, Any] = {"rowsperstrip": 16} if "tile" not in shape else {"tile": (32, 48)}
    for pixels in (photo(70, 91), photo(70, 91).astype(np.float32) / 255):
        color: Array = pixels[..., ::-1]
        if "planes" in shape:
            if pixels.dtype != np.uint8:
                continue
            color, how["planarconfig"] = np.moveaxis(color, -1, 0), "separate"
        file = io.BytesIO()
        tifffile.imwrite(
            file, color, photometric="rgb", byteorder=order, compression="zlib", metadata=None,
            **how,
        )  # fmt: skip
        data = file.getvalue()
        assert (decode(data).pixels == pixels).all()
        kind = "tile" if "tile" in shape else "strip"
        with pytest.raises(ImageError, match=f"{kind} 2 of .* is damaged"):
            decode(damaged(data))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F"])
@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_deflate"])
@pytest.mark.parametrize("fill_order", [1, 2])
def test_pillow(mode: str, compression: str, fill_order: int) -> None:
    """All kinds of pixels are what OpenCV makes of the file alone."""
    image = pytest.importorskip("PIL.Image")
    gray = photo(61, 83)[..., 0].copy()
    made = image.fromarray(gray.astype(np.uint16) * 200 if mode == "I;16" else photo(61, 83))
    made = made.convert("L") if mode == "F" else made
    file = io.BytesIO()
    made.convert(mode).save(
        file, "TIFF", compression=compression, tiffinfo={266: fill_order, 278: 9}
    )
    data = file.getvalue()
    plain: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    found = decode(data).pixels
    assert np.array_equal(found, plain[..., :3] if mode == "CMYK" else plain)
    assert strips_of(data).flipped == (fill_order == 2)
    with pytest.raises(ImageError, match=r"strip 2 of .* is damaged"):
        decode(damaged(data))


@pytest.mark.parametrize("compression", ["group4", "tiff_ccitt", "jpeg"])
def test_damaged_fax_and_jpeg_strips_are_errors(compression: str) -> None:
    image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    made = image.fromarray(photo(64, 96)).convert("RGB" if compression == "jpeg" else "1")
    made.save(file, "TIFF", compression=compression, tiffinfo={278: 32})
    data = file.getvalue()
    decode(data)
    strip = strips_of(data).raw(data, 1)
    half = len(strip) // 2
    zeros = 100 if compression == "jpeg" else 8
    bad = [strip[:half] + bytes(zeros) + strip[half + zeros :]]
    bad += [strip[:half]] if compression == "jpeg" else []
    for one in bad:
        with pytest.raises(ImageError, match="strip 2 of 2 is damaged"):
            decode(with_strip(data, 1, one))


@pytest.mark.parametrize("count", [0, 1])
def test_shared_colors_without_two_numbers_are_an_error(count: int) -> None:
    data = tiff(photo(64, 96), LZW)
    code = f"{ifd.Page(data).order}u2"
    shared: ifd.Tags = {
        262: (ifd.SHORT, 1, np.array([6], code).tobytes()),
        530: (ifd.SHORT, count, np.array([2] * count, code).tobytes()),
    }
    with pytest.raises(ImageError, match="damaged TIFF file"):
        decode(ifd.extended(data, shared))

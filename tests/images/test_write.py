"""Writing: what each format keeps, what it says it lost, and never half a file."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from resharp.errors import ImageError, OptionError, OutputError
from resharp.images import Metadata, decode, encode, read, writable, write
from tests.images import test_samples as samples
from tests.images.test_samples import Array, noise, photo

FORMATS = [s for s in (".png", ".jpg", ".webp", ".tif", ".bmp", ".avif") if s in writable()]
UPRIGHT_XMP = samples.XMP.replace(b'"6"', b'"1"').replace(b">8<", b">1<")
EVERYTHING = Metadata(exif=samples.exif(orientation=1), icc=samples.icc(), xmp=UPRIGHT_XMP)
BLOCKS: dict[str, Callable[[bytes], dict[str, bytes]]] = {
    ".png": samples.png_blocks,
    ".jpg": samples.jpeg_blocks,
    ".webp": samples.webp_blocks,
}


def with_alpha(pixels: Array, alpha: int) -> Array:
    return np.dstack([pixels, np.full(pixels.shape[:2], alpha, pixels.dtype)])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("shape", [(9, 13), (9, 13, 1), (9, 13, 3), (9, 13, 4)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_what_a_format_can_hold_comes_back(
    tmp_path: Path, suffix: str, shape: tuple[int, ...], dtype: str
) -> None:
    pixels = noise(*shape, dtype=dtype)
    notes = write(tmp_path / f"a{suffix}", pixels)
    picture = read(tmp_path / f"a{suffix}")
    expected = pixels[..., 0] if shape[-1] == 1 else pixels
    if (suffix, dtype) == (".png", "float32"):
        assert notes == ("colors are rounded to 16 bits, the most that PNG holds",)
        expected = np.rint(expected * np.float32(65_535)).astype(np.uint16)
    else:
        assert notes == ()
    np.testing.assert_array_equal(picture.pixels, expected)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_photo_survives_every_format(suffix: str) -> None:
    pixels = photo()
    data, notes = encode(pixels, format=suffix)
    assert notes == ()
    error = decode(data).pixels.astype(float) - pixels
    assert 10 * np.log10(255**2 / max((error**2).mean(), 1e-9)) > 36


def test_a_view_that_is_not_contiguous_is_written_as_seen() -> None:
    pixels = noise(20, 30, 4)[::2, ::-1, 2::-1]
    np.testing.assert_array_equal(decode(encode(pixels, format="png")[0]).pixels, pixels)


@pytest.mark.parametrize("suffix", BLOCKS)
def test_metadata_is_where_other_programs_look_for_it(suffix: str) -> None:
    pixels = photo(48, 64)
    data, notes = encode(pixels, EVERYTHING, format=suffix)
    assert notes == ()
    found = BLOCKS[suffix](data)
    assert found["icc"] == EVERYTHING.icc
    assert found["xmp"] == EVERYTHING.xmp
    inner = samples.tiff_tags(found["exif"], 56)
    assert struct.unpack("<HH", inner[0xA002] + inner[0xA003]) == (64, 48)
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_BGR) is not None


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_tiff_metadata_is_grafted(order: str, dtype: str) -> None:
    pixels = noise(12, 16, 4, dtype=dtype)
    metadata = Metadata(exif=samples.exif(order), icc=samples.icc(extra=99), xmp=UPRIGHT_XMP)
    data, notes = encode(pixels, metadata, format="tiff")
    assert notes == ()
    tags = samples.tiff_tags(data)
    assert tags[34675] == metadata.icc
    assert tags[700] == metadata.xmp
    assert tags[338] == struct.pack("<H", 2)
    assert tags[0x10F] == b"Ann\0"
    assert 0x112 not in tags  # upright is the default, and a block's own orientation is not copied
    inner = samples.tiff_tags(data, struct.unpack("<I", tags[0x8769])[0])
    assert (inner[0xA002], inner[0xA003]) == (b"\x10\0", b"\x0c\0")
    picture = decode(data)
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.metadata.icc == metadata.icc
    raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert raw is not None
    assert raw.shape == pixels.shape


def test_tiff_says_when_maker_notes_stay_behind() -> None:
    block = samples.exif().replace(struct.pack("<H", 0xA002), struct.pack("<H", 0x927C))
    _, notes = encode(photo(), Metadata(exif=block), format="tiff")
    assert notes == ("the maker notes are left out: they cannot be moved into or out of TIFF",)
    bare = b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHIHxxI", 0x112, 3, 1, 1, 0)
    assert encode(photo(), Metadata(exif=bare), format="tiff")[1] == ()


@pytest.mark.parametrize("suffix", [s for s in FORMATS if s != ".bmp"])
def test_metadata_survives_a_second_round(suffix: str) -> None:
    first = decode(encode(photo(), EVERYTHING, format=suffix)[0])
    data, notes = encode(first.pixels, first.metadata, format=suffix)
    assert notes == ()
    assert decode(data).metadata == first.metadata
    assert first.metadata.icc == EVERYTHING.icc
    assert first.metadata.exif is not None
    assert first.metadata.xmp is not None


@pytest.mark.parametrize("suffix", [s for s in FORMATS if s != ".bmp"])
def test_no_stale_orientation_turns_upright_pixels(suffix: str) -> None:
    """Metadata straight from another program: Pillow, for one, obeys XMP where EXIF is silent."""
    pixels = photo(48, 64)
    metadata = Metadata(exif=samples.exif(orientation=6), xmp=samples.XMP)
    data, _ = encode(pixels, metadata, format=suffix)
    assert decode(data).metadata.xmp == UPRIGHT_XMP
    assert UPRIGHT_XMP in data
    seen = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_BGR)
    assert seen is not None
    assert seen.shape == pixels.shape
    assert b"\x12\x01\x03\0\1\0\0\0\6" not in data  # the tag with the value 6


def test_a_size_beyond_16_bits_fits_into_exif() -> None:
    pixels = np.zeros((1, 70_000), np.uint8)
    data, _ = encode(pixels, EVERYTHING, format="png")
    block = samples.png_blocks(data)["exif"]
    assert samples.tiff_tags(block, 56)[0xA002] == struct.pack("<I", 70_000)


def test_large_blocks_in_jpeg() -> None:
    """A profile is split over segments; EXIF and XMP cannot be and are named."""
    large = Metadata(icc=samples.icc(extra=300_000))
    data, notes = encode(photo(), large, format="jpg")
    assert notes == ()
    assert samples.jpeg_blocks(data)["icc"] == large.icc
    assert decode(data).metadata.icc == large.icc
    huge = Metadata(exif=samples.exif() + bytes(70_000), xmp=samples.XMP + b" " * 70_000)
    data, notes = encode(photo(), huge, format="jpg")
    assert [note[:12] for note in notes] == ["the EXIF dat", "the XMP data"]
    assert samples.jpeg_blocks(data) == {}


@pytest.mark.parametrize(
    ("profile", "pixels", "suffix", "fits"),
    [
        (samples.icc(b"RGB "), noise(8, 8), ".png", False),
        (samples.icc(b"GRAY"), noise(8, 8), ".png", True),
        (samples.icc(b"GRAY"), noise(8, 8), ".jpg", True),
        (samples.icc(b"GRAY"), noise(8, 8, 3), ".jpg", False),
        (samples.icc(b"CMYK"), noise(8, 8, 3), ".tif", False),
        (samples.icc(b"GRAY"), noise(8, 8), ".webp", False),
        (samples.icc() + b"x", noise(8, 8, 3), ".png", False),
        (b"nonsense" * 40, noise(8, 8, 3), ".tif", False),
    ],
)
def test_a_profile_that_does_not_fit_is_dropped(
    profile: bytes, pixels: Array, suffix: str, fits: bool
) -> None:
    data, notes = encode(pixels, Metadata(icc=profile), format=suffix)
    assert (decode(data).metadata.icc == profile) is fits
    assert (notes == ()) is fits
    if not fits:
        assert "ICC profile is left out" in notes[0]


def test_a_malformed_exif_block_is_dropped() -> None:
    data, notes = encode(photo(), Metadata(exif=b"II*\0\xff\xff\xff\xff"), format="jpg")
    assert "damaged" in notes[0]
    assert decode(data).metadata.exif is None


def test_bmp_names_what_it_cannot_carry() -> None:
    _, notes = encode(noise(8, 8, 3, dtype="uint16"), EVERYTHING, format="bmp")
    assert len(notes) == 4
    assert "8 bits" in notes[0]


def test_alpha_is_laid_on_white_in_jpeg() -> None:
    pixels = with_alpha(np.zeros((32, 32, 3), np.uint8), 255)
    pixels[:16, :, 3] = 0
    pixels[16:24, :, 3] = 128
    data, notes = encode(pixels, format="jpg")
    out = decode(data).pixels
    assert np.abs(out[:14].astype(int) - 255).max() < 4
    assert np.abs(out[17:23].astype(int) - 127).max() < 4
    assert out[26:].max() < 4
    assert notes == ("transparency is blended onto white: JPEG cannot hold it",)
    opaque, notes = encode(with_alpha(photo(), 255), format="jpg")
    assert notes == ()
    assert opaque == encode(photo(), format="jpg")[0]


@pytest.mark.parametrize("suffix", [".bmp", ".webp"])
def test_16_bits_and_float_are_rounded_not_cut(suffix: str) -> None:
    values = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    data, notes = encode(values, format="bmp")
    expected = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    np.testing.assert_array_equal(decode(data).pixels, expected)
    assert notes == ("colors are rounded to 8 bits, the most that BMP holds",)
    floats = np.array([[-1, 0, 0.5, 1, 7, np.nan, np.inf, -np.inf]], np.float32)
    data, notes = encode(floats, format="bmp")
    np.testing.assert_array_equal(decode(data).pixels, [[0, 0, 128, 255, 255, 0, 255, 0]])
    assert notes == ("colors are rounded to 8 bits, the most that BMP holds",)


@pytest.mark.skipif(".avif" not in writable(), reason="this OpenCV build has no AVIF")
def test_avif_keeps_12_of_16_bits() -> None:
    ramp = np.tile(np.linspace(0, 65_535, 128).astype(np.uint16), (64, 1))
    data, notes = encode(ramp, format="avif", quality=100)
    picture = decode(data)
    assert picture.pixels.dtype == np.uint16
    assert np.abs(picture.pixels.astype(int) - ramp).max() < 257
    assert "12 bits" in notes[0]


def test_quality() -> None:
    for suffix in (s for s in (".jpg", ".webp", ".avif") if s in FORMATS):
        sizes = [len(encode(photo(), format=suffix, quality=q)[0]) for q in (10, 60, 95)]
        assert sizes == sorted(sizes)
        assert sizes[0] * 1.5 < sizes[2]
    assert encode(photo(), format="png", quality=10) == encode(photo(), format="png")
    for nonsense in (0, 101, -5):
        with pytest.raises(OptionError, match="between 1 and 100"):
            encode(photo(), format="jpg", quality=nonsense)


def test_jpeg_keeps_full_color_resolution() -> None:
    data, _ = encode(photo(), format="jpg")
    frame = next(body for marker, body in samples.jpeg_segments(data) if marker == 0xC0)
    assert [frame[7 + 3 * index] for index in range(3)] == [0x11, 0x11, 0x11]


def test_the_format_is_chosen_by_suffix_or_by_name(tmp_path: Path) -> None:
    write(str(tmp_path / "A.JPEG"), photo())
    write(tmp_path / "plain", photo(), format="webp")
    write(tmp_path / "other.jpg", photo(), format=".PNG")
    formats = [read(tmp_path / name).format for name in ("A.JPEG", "plain", "other.jpg")]
    assert formats == ["jpeg", "webp", "png"]
    for name in ("a.gif", "a.xyz", "a"):
        with pytest.raises(OptionError, match=r"Choose one of \.png, \.jpg"):
            write(tmp_path / name, photo())
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros((4, 4)),
        np.zeros((4,), np.uint8),
        np.zeros((4, 4), np.int32),
    ],
)
def test_arrays_that_are_no_picture(pixels: Array) -> None:
    with pytest.raises(ImageError, match="an image must be"):
        encode(pixels, format="png")


def test_a_picture_that_is_too_large_for_its_format() -> None:
    with pytest.raises(OutputError, match="WebP holds at most 16383"):
        encode(np.zeros((1, 16_384), np.uint8), format="webp")
    assert len(encode(np.zeros((1, 16_383), np.uint8), format="webp")[0]) > 0
    with pytest.raises(OutputError, match="JPEG holds at most 65500"):
        encode(np.zeros((65_501, 1), np.uint8), format="jpeg")
    assert len(encode(np.zeros((65_500, 1), np.uint8), format="jpeg")[0]) > 0


def test_names_with_all_kinds_of_letters(tmp_path: Path) -> None:
    for name in ("사진 🌄.png", "a" * 251 + ".png", "가" * 83 + ".png"):
        write(tmp_path / name, photo(16, 16))
        assert read(tmp_path / name).pixels.shape == (16, 16, 3)


def test_an_encoder_that_fails_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> tuple[bool, Array]:
        raise cv2.error("no more memory")

    monkeypatch.setattr(cv2, "imencodeWithMetadata", fail)
    with pytest.raises(OutputError, match=r"encoder failed.*no more memory"):
        write(tmp_path / "a.png", photo())
    monkeypatch.setattr(cv2, "imencodeWithMetadata", lambda *_: (False, np.empty(0, np.uint8)))
    with pytest.raises(OutputError, match="encoder refused an image of 160 x 120"):
        write(tmp_path / "a.png", photo())
    assert not list(tmp_path.iterdir())

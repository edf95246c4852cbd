"""Files that lack only their end: refused by default, and read as far as they go on request."""

from __future__ import annotations

import io
import re
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from resharp.errors import ImageError
from resharp.images import decode, encode, ifd, metadata_in, truncated
from resharp.images.containers import gif_lzw, tiff_strips
from tests.images import test_samples as samples
from tests.images.test_samples import encoded, photo

Array = NDArray[Any]
HINT = r"Copy or download it again, or use `allow_truncated` to restore the readable part\.$"
START = "the file is truncated: "


def part(data: bytes, share: float) -> tuple[Array, str]:
    """The pixels of a truncated file and the note on it, which is refused without the option."""
    cut = data[: int(len(data) * share)]
    with pytest.raises(ImageError, match=HINT):
        decode(cut, "x")
    found = decode(cut, "x", allow_truncated=True)
    note = found.metadata.lost[0]
    assert note.startswith(START)
    return found.pixels, note.removeprefix(START)


def missing_rows(note: str, height: int, place: str = "last", color: str = "black") -> int:
    """The number in a note."""
    words = f"the {place} (row of|\\d+ of) {height} (rows )?(is|are) missing and left {color}"
    import re

    found = re.fullmatch(f"(?:at least )?{words}", note)
    assert found, note
    return 1 if found[1] == "row of" else int(found[1].split()[0])


def first_difference(one: Array, other: Array) -> int:
    same = (one == other).reshape(len(one), -1).all(axis=1)
    return len(one) if same.all() else int(np.argmin(same))


def gif(pixels: Array, *, interlaced: bool = False, least: int = 8) -> bytes:
    """A GIF of gray pixels, whose LZW codes never grow."""
    height, width = pixels.shape
    rows = range(height)
    order = [y for first, step in ((0, 8), (4, 8), (2, 4), (1, 2)) for y in rows[first::step]]
    clear, bits, size = 1 << least, 0, 0
    for n, value in enumerate(pixels[order if interlaced else list(rows)].reshape(-1).tolist()):
        for code in [clear, value] if n % 100 == 0 else [value]:
            bits |= code << size
            size += least + 1
    bits |= (clear + 1) << size
    packed = bits.to_bytes(-(-(size + least + 1) // 8), "little")
    blocks = [packed[at : at + 255] for at in range(0, len(packed), 255)]
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF7, 0, 0)
    palette = bytes(level for color in range(256) for level in (color, color, color))
    image = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0x40 * interlaced)
    body = b"".join(bytes((len(block),)) + block for block in blocks)
    return screen + palette + image + bytes((least,)) + body + b"\0;"


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("kind", ["color", "alpha", "16 bits", "gray"])
def test_png_keeps_its_whole_rows(kind: str, share: float) -> None:
    pixels: Array = photo()
    pixels = {
        "color": pixels,
        "alpha": np.dstack([pixels, pixels[..., 0]]),
        "16 bits": pixels.astype(np.uint16) * 257,
        "gray": pixels[..., 0].copy(),
    }[kind]
    found, note = part(encoded(".png", pixels), share)
    rows = len(pixels) - missing_rows(note, len(pixels))
    assert 0 < rows < len(pixels)
    assert (found[:rows] == pixels[:rows]).all()
    assert not found[rows:].any()
    assert rows == pytest.approx(share * len(pixels), abs=0.2 * len(pixels))


def test_png_without_its_last_chunk_is_whole() -> None:
    pixels = photo()
    found, note = part(encoded(".png", pixels), 1 - 4 / len(encoded(".png", pixels)))
    assert (found == pixels).all()
    assert note == "its end is missing, but no row of the image is"


def test_an_interlaced_png_repeats_the_pixels_that_are_there() -> None:
    pixels = photo(45, 67)
    raw = b""
    for left, top, right, down in (
        *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)),
        (0, 1, 1, 2),
    ):
        raw += b"".join(b"\0" + row.tobytes() for row in pixels[top::down, left::right, ::-1])
    head = struct.pack(">IIBBBBB", 67, 45, 8, 2, 0, 0, 1)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(raw, 0)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(samples.png_chunk(*one) for one in chunks)
    assert (decode(data).pixels == pixels).all()
    found, note = part(data, 0.3)
    assert (found == pixels[np.arange(45) // 2 * 2][:, np.arange(67) // 2 * 2]).all()
    assert note == "74% of its interlaced pixels are missing and repeat those next to them"


@pytest.mark.parametrize("share", [0.4, 0.8])
@pytest.mark.parametrize("kind", ["plain", "zeros", "gray", "restarts"])
def test_jpeg_keeps_its_first_rows(kind: str, share: float) -> None:
    pixels = photo(160, 160)[..., 0].copy() if kind == "gray" else photo(160, 160)
    data = encoded(
        ".jpg", pixels, *([cv2.IMWRITE_JPEG_RST_INTERVAL, 4] if kind == "restarts" else [])
    )
    whole = decode(data).pixels
    cut = data[: int(len(data) * share)] + bytes(5000 if kind == "zeros" else 0)
    found, note = part(cut, 1)
    missing = missing_rows(note, 160, color="gray")
    assert note.startswith("at least the last ")
    assert (found[160 - missing :] == 128).all()
    right = first_difference(found, whole)
    assert 0 <= 160 - missing - right <= 18  # a row of blocks, and what its colors reach
    assert 0.2 < right / 160 < share + 0.1


def test_a_progressive_jpeg_loses_details() -> None:
    pixels = photo(160, 160)
    data = encoded(".jpg", pixels, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    found, note = part(data, 0.6)
    assert note == "its end is missing, which holds the last rows or fine details"
    assert np.abs(found.astype(int) - pixels).mean() < 15


@pytest.mark.parametrize("quality", [80, 101])
@pytest.mark.parametrize("share", [0.4, 0.8, 0.99])
def test_webp_keeps_the_rows_that_do_not_depend_on_what_is_missing(
    quality: int, share: float
) -> None:
    data = encoded(".webp", samples.noise(96, 128, 3), cv2.IMWRITE_WEBP_QUALITY, quality)
    whole = decode(data).pixels
    found, note = part(data, share)
    rows = 96 - missing_rows(note, 96)
    assert 0 < rows < 96
    assert (found[:rows] == whole[:rows]).all()
    assert not found[rows:].any()
    assert rows > (share - 0.35) * 96


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_gif_keeps_its_rows(share: float) -> None:
    pixels = samples.noise(50, 40)
    data = gif(pixels)
    assert (decode(data).pixels[..., 0] == pixels).all()
    found, note = part(data, share)
    rows = 50 - missing_rows(note, 50)
    assert (found[:rows, :, 0] == pixels[:rows]).all()
    assert not found[rows:].any()
    assert part(data, 1 - 1 / len(data))[1] == "its end is missing, but no row of the image is"


def test_an_interlaced_gif_repeats_the_rows_that_are_there() -> None:
    pixels = samples.noise(48, 64)
    found, note = part(gif(pixels, interlaced=True), 0.6)
    assert note == "50% of its interlaced pixels are missing and repeat those next to them"
    assert (found[..., 0] == pixels[np.arange(48) // 2 * 2]).all()


@pytest.mark.parametrize("least", [2, 4, 8])
@pytest.mark.parametrize("total", [1, 2, 3, 10, 100, 5_000, 9_000_000])
def test_missing_pixels_are_filled_up_to_the_last_one(least: int, total: int) -> None:
    packed, known = gif_lzw.filled(b"", least, total, 1, all_rows=True)
    assert known == 0
    _, pixels = gif_lzw.filled(packed, least, total, 1, all_rows=True)
    assert pixels == total
    assert len(packed) < 20_000


def test_a_gif_that_claims_many_rows_is_read_quickly() -> None:
    data = bytearray(gif(samples.noise(50, 400)))
    cut = data[: len(data) // 2]
    image = cut.index(b",", 781)
    cut[8:10] = cut[image + 7 : image + 9] = (60_000).to_bytes(2, "little")
    found = decode(bytes(cut), allow_truncated=True)
    assert found.pixels.shape == (60_000, 400, 3)
    assert missing_rows(found.metadata.lost[0].removeprefix(START), 60_000) == 60_000 - 24


@pytest.mark.parametrize("share", [0.4, 0.9])
def test_bmp_lacks_its_first_rows(share: float) -> None:
    pixels = photo(50, 33)
    found, note = part(encoded(".bmp", pixels), share)
    missing = missing_rows(note, 50, "first")
    assert (found[missing:] == pixels[missing:]).all()
    assert not found[:missing].any()
    assert missing == pytest.approx((1 - share) * 50, abs=2)


def directory_first(data: bytes) -> bytes:
    """The TIFF file with its strips behind the directory, in their order."""
    page = ifd.Page(data)
    strips = tiff_strips.layout(data, page)
    tiled = tiff_strips.TILES in page.values
    tag = tiff_strips.TILES if tiled else tiff_strips.STRIPS
    out, offsets = data, []
    for at, count in zip(strips.offsets, strips.counts, strict=True):
        offsets.append(len(out))
        out += data[at : at + count]
    raw = np.array(offsets, f"{page.order}u4").tobytes()
    moved = ifd.extended(data, {tag: (ifd.LONG, len(offsets), raw)})
    gap = len(moved) - len(data)
    raw = (np.array(offsets, f"{page.order}u4") + gap).astype(f"{page.order}u4").tobytes()
    return ifd.extended(data, {tag: (ifd.LONG, len(offsets), raw)}) + out[len(data) :]


@pytest.mark.parametrize("compression", [1, 5, 8, 32773])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("rows", [16, 120])
def test_tiff_keeps_its_rows(compression: int, bits: int, rows: int) -> None:
    pixels: Array = photo() if bits == 8 else photo().astype(np.uint16) * 257
    how = [cv2.IMWRITE_TIFF_COMPRESSION, compression, cv2.IMWRITE_TIFF_ROWSPERSTRIP, rows]
    data = directory_first(encoded(".tif", pixels, *how))
    assert (decode(data).pixels == pixels).all()
    found, note = part(data, 0.8)
    kept = 120 - missing_rows(note, 120)
    assert 20 < kept < 110
    assert (found[:kept] == pixels[:kept]).all()
    assert not found[kept:].any()


def test_tiles_and_planes_keep_what_is_whole() -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = photo()
    for how in ({"tile": (32, 48)}, {"planarconfig": "separate", "rowsperstrip": 16}):
        color: Array = pixels[..., ::-1]
        color = np.moveaxis(color, -1, 0) if "planarconfig" in how else color
        file = io.BytesIO()
        tifffile.imwrite(file, color, photometric="rgb", compression="zlib", metadata=None, **how)
        found, note = part(directory_first(file.getvalue()), 0.93)
        kept = 120 - missing_rows(note, 120)
        assert 20 < kept < 120
        assert (found[:kept] == pixels[:kept]).all()


def test_damage_above_the_end_is_still_an_error() -> None:
    data = directory_first(encoded(".tif", photo(), cv2.IMWRITE_TIFF_ROWSPERSTRIP, 16))
    strips = tiff_strips.layout(data, ifd.Page(data))
    at = strips.offsets[1] + 40
    bad = data[:at] + bytes(strips.counts[1] - 50) + data[at + strips.counts[1] - 50 :]
    with pytest.raises(ImageError, match=r"strip 2 of . is damaged\. Copy or download it again\.$"):
        decode(bad[: int(len(bad) * 0.9)], allow_truncated=True)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".bmp", ".tif", ".avif"])
def test_a_file_without_any_row_is_an_error_without_advice(suffix: str) -> None:
    data = gif(photo()[..., 0].copy()) if suffix == ".gif" else encoded(suffix, photo())
    start = {".tif": 60, ".gif": 790}.get(suffix, 45)
    for size in (start, 30):
        with pytest.raises(ImageError) as found:
            decode(data[:size], allow_truncated=True)
        assert "allow_truncated" not in str(found.value)


def test_a_whole_file_is_the_same_with_the_option() -> None:
    data = encoded(".png", photo())
    found = decode(data, allow_truncated=True)
    assert found.metadata.lost == ()
    assert (found.pixels == photo()).all()


def test_metadata_in_front_of_the_image_is_kept_and_turns_it() -> None:
    data = samples.with_segment(encoded(".jpg", photo()), 0xE1, b"Exif\0\0" + samples.exif())
    cut = data[: len(data) * 2 // 3]
    found = decode(cut, allow_truncated=True)
    assert found.pixels.shape == (160, 120, 3)
    assert found.metadata.exif is not None
    _, notes = encode(found.pixels, found.metadata, format="png")
    assert notes[0].startswith(START)
    with pytest.raises(ImageError):
        metadata_in(cut)


def test_a_small_file_does_not_become_a_large_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truncated, "_ZEROS", 1 << 20)
    head = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + samples.png_chunk(b"IHDR", head)
    data += samples.png_chunk(b"IDAT", zlib.compress(b"abc"))
    with pytest.raises(ImageError, match="claims 2147483647 x 2147483647 pixels"):
        decode(data, allow_truncated=True)
    webp = bytearray(encoded(".webp", photo()))
    webp[4:8] = webp[16:20] = (2**32 - 2).to_bytes(4, "little")
    assert len(truncated.completed("webp", bytes(webp)).data) < 2 << 20


@pytest.mark.parametrize("quality", [40, 80])
def test_rows_of_webp_without_their_details_are_missing(quality: int) -> None:
    """The modes of all rows come first, then what they are filled with."""
    data = encoded(".webp", photo(97, 131), cv2.IMWRITE_WEBP_QUALITY, quality)
    whole, read = decode(data).pixels, 0
    for cut in range(60, len(data), len(data) // 40):
        try:
            picture = decode(data[:cut], allow_truncated=True)
        except ImageError:
            continue
        (note,) = picture.metadata.lost
        missing = re.search(r"the last (\d+) of 97 rows are missing and left black", note)
        rows = 97 - int(missing[1]) if missing else 97
        assert (picture.pixels[:rows] == whole[:rows]).all(), note
        read += 1
    assert read > 20


def test_a_note_says_that_a_progressive_image_lacks_details() -> None:
    data = encoded(".jpg", photo(97, 131), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    start = data.index(b"\xff\xda")
    (note,) = decode(data[: start + 60], allow_truncated=True).metadata.lost
    assert re.fullmatch(
        r"the file is truncated: at least the last \d+ of 97 rows are missing and left gray; "
        r"the others lack fine details",
        note,
    )

"""Headers: size and format from few bytes, and claims that the rest of a file cannot hold."""

from __future__ import annotations

import io
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resharp.errors import ImageError
from resharp.images import decode, header, suffixes
from resharp.images.containers.av1 import frame_size
from resharp.images.limits import VARIABLE, check_header
from tests.images import test_samples as samples
from tests.images.avif_grid import grid
from tests.images.claims import claiming
from tests.images.test_samples import encoded, photo

LOSSLESS_WEBP = (cv2.IMWRITE_WEBP_QUALITY, 101)
KINDS: dict[str, tuple[Any, ...]] = {
    "png": (".png",),
    "jpeg": (".jpg",),
    "progressive": (".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "webp": (".webp", cv2.IMWRITE_WEBP_QUALITY, 80),
    "vp8l": (".webp", *LOSSLESS_WEBP),
    "bmp": (".bmp",),
    "gif": (".gif",),
    "avif": (".avif", cv2.IMWRITE_AVIF_SPEED, 10),
    "tiff": (".tif", cv2.IMWRITE_TIFF_COMPRESSION, 1),
    "lzw": (".tif", cv2.IMWRITE_TIFF_COMPRESSION, 5),
    "deflate": (".tif", cv2.IMWRITE_TIFF_COMPRESSION, 8),
    "packbits": (".tif", cv2.IMWRITE_TIFF_COMPRESSION, 32773),
}
KINDS = {name: how for name, how in KINDS.items() if how[0] in suffixes()}


@pytest.fixture(autouse=True)
def _any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(1 << 30))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (7, 300), (120, 161)])
def test_the_size_is_that_of_the_image(tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    data = encoded(KINDS[kind][0], samples.noise(*size, 3), *KINDS[kind][1:])
    path = tmp_path / "image"
    path.write_bytes(data)
    found = header(data)
    assert (found.height, found.width, found.size) == (*size, len(data))
    assert found.format == decode(data).format
    assert found.decoded >= decode(data).pixels.nbytes
    assert header(path) == header(str(path)) == header(io.BytesIO(data)) == found


@pytest.mark.parametrize(
    ("pixels", "suffix", "bits", "decoded"),
    [
        (samples.noise(4, 5), ".png", 8, 20),
        (samples.noise(4, 5, 4, dtype="uint16"), ".png", 64, 160),
        (samples.noise(4, 5, 3, dtype="float32"), ".tif", 96, 240),
        (samples.noise(4, 5), ".tif", 8, 20),
        (samples.noise(4, 5, 4), ".webp", 32, 80),
    ],
)
def test_bits_and_bytes_of_the_pixels(pixels: Any, suffix: str, bits: int, decoded: int) -> None:
    found = header(encoded(suffix, pixels))
    assert (found.bits, found.decoded) == (bits, decoded)
    assert decode(encoded(suffix, pixels)).pixels.nbytes == decoded


def test_transparent_colors_of_a_png_are_a_channel() -> None:
    for kind, key, channels in ((0, b"\0\7", 1), (2, b"\0\7" * 3, 3), (3, b"\0\7", 3)):
        row = bytes(6) if kind == 2 else bytes(2)
        extra = [samples.png_chunk(b"PLTE", bytes(6))] if kind == 3 else []
        assert header(samples.make_png(kind, 8, [row], 2, *extra)).decoded == 2 * channels
        data = samples.make_png(kind, 8, [row], 2, *extra, samples.png_chunk(b"tRNS", key))
        assert header(data).decoded == 8 == decode(data).pixels.nbytes


class Counted(io.BytesIO):
    """A stream that counts the bytes read from it."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        part = super().read(size)
        self.count += len(part)
        return part


@pytest.mark.parametrize("kind", KINDS)
def test_few_bytes_are_read(kind: str) -> None:
    data = encoded(KINDS[kind][0], photo(300, 400), *KINDS[kind][1:])
    stream = Counted(data + bytes(1 << 20))
    header(stream)
    assert stream.count < 80_000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(40, 40, 3), (700, 600, 3), (2000, 1, 3), (64, 1000, 1)])
def test_flat_images_are_read(kind: str, shape: tuple[int, ...]) -> None:
    """They compress as well as any image can."""
    if kind == "gif" and shape[2] == 1:
        shape = (*shape[:2], 3)
    flat = np.full(shape, 128, np.uint8)
    data = encoded(KINDS[kind][0], flat, *KINDS[kind][1:])
    found = header(data)
    assert found.least <= found.size
    assert decode(data).pixels.shape[:2] == shape[:2]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("avif", "gif", "lzw")])
def test_large_flat_images_are_read(kind: str) -> None:
    flat = np.full((3000, 3500, 3), 128, np.uint8)
    extra = (cv2.IMWRITE_JPEG_QUALITY, 1, cv2.IMWRITE_JPEG_OPTIMIZE, 1)
    more = extra if KINDS[kind][0] == ".jpg" else ()
    data = encoded(KINDS[kind][0], flat, *KINDS[kind][1:], *more)
    assert header(data).least <= len(data)
    assert decode(data).pixels.shape[:2] == (3000, 3500)


CERTAIN = [kind for kind in KINDS if kind != "vp8l"]  # which needs no bit per pixel


@pytest.mark.parametrize("kind", CERTAIN)
@pytest.mark.parametrize("size", [(16_383, 16_383), (30_000, 30_000), (16_000, 200)])
def test_claims_that_the_bytes_cannot_hold_are_damage(
    kind: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "imdecode", None)  # nothing is decoded
    if kind == "webp" and max(size) > 16_383:
        size = (16_383, 16_000)
    data = encoded(KINDS[kind][0], photo(24, 32), *KINDS[kind][1:])
    bomb = claiming(data, *size)
    began = time.perf_counter()
    with pytest.raises(ImageError, match=rf"bomb is a damaged .* claims {size[0]} x {size[1]} pix"):
        decode(bomb, "bomb")
    assert time.perf_counter() - began < 0.5


def test_a_small_lie_is_found_where_it_is_certain() -> None:
    for kind in ("bmp", "tiff"):
        data = encoded(KINDS[kind][0], photo(24, 32), *KINDS[kind][1:])
        with pytest.raises(
            ImageError, match=r"claims 32 x 60 pixels|2358 bytes, but its header states 5814"
        ):
            decode(claiming(data, 32, 60))


def test_old_programs_state_the_screen_of_a_monitor_in_a_gif() -> None:
    data = claiming(encoded(".gif", photo(24, 32)), 1024, 768)
    at = data.index(b"\x2c\0\0\0\0") + 5
    assert decode(data[:at] + struct.pack("<HH", 32, 24) + data[at + 4 :]).pixels.shape[0] == 768
    screen = data[:6] + struct.pack("<HH", 30_000, 30_000) + data[10:]
    with pytest.raises(ImageError, match="30000 x 30000"):
        decode(screen[:at] + struct.pack("<HH", 1, 1) + screen[at + 4 :])


def test_strips_of_a_tiff_may_be_the_same_bytes() -> None:
    flat = samples.make_tiff(np.full((1, 64), 7, np.uint8))
    assert header(flat).least == 64
    page = struct.pack("<H", 9)
    rows, after = 100, 8 + 2 + 9 * 12 + 4
    for tag, kind, count, value in (
        *((256, 4, 1, 64), (257, 4, 1, rows), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)),
        *((273, 4, rows, after), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, rows, after + 4 * rows)),
    ):
        page += struct.pack("<HHII", tag, kind, count, value)
    start = after + 8 * rows
    body = struct.pack("<I", start) * rows + struct.pack("<I", 64) * rows + bytes(range(64))
    data = b"II*\0" + struct.pack("<I", 8) + page + bytes(4) + body
    found = header(data)
    assert found.size < 64 * rows
    check_header(found, "x", None)
    assert (decode(data).pixels == np.arange(64)).all()


def test_a_canvas_of_a_webp_is_as_large_as_its_image() -> None:
    data = encoded(".webp", photo(24, 32), *LOSSLESS_WEBP)
    canvas = b"VP8X" + struct.pack("<II", 10, 0) + b"\xff\x3f\0\xff\x3f\0"
    whole = data[:12] + canvas + data[12:]
    whole = whole[:4] + struct.pack("<I", len(whole) - 8) + whole[8:]
    with pytest.raises(ImageError, match="canvas is 16384 x 16384 pixels, but its image is 32 x 2"):
        decode(whole)


@pytest.mark.skipif("avif" not in KINDS, reason="this OpenCV build has no AVIF")
def test_an_avif_that_claims_less_than_it_decodes_has_the_larger_size() -> None:
    found = header(claiming(encoded(".avif", photo(240, 320)), 8, 8))
    assert (found.width, found.height) == (320, 240)
    found = header(claiming(encoded(".avif", samples.noise(240, 320, 4)), 8, 8))
    assert (found.width, found.height, found.bits) == (320, 240, 32)


@pytest.mark.skipif("avif" not in KINDS, reason="this OpenCV build has no AVIF")
@pytest.mark.parametrize(
    ("columns", "rows", "width", "height"), [(1, 1, 64, 64), (2, 2, 120, 100), (3, 1, 190, 64)]
)
def test_an_avif_of_tiles(columns: int, rows: int, width: int, height: int) -> None:
    data = grid(columns, rows, width, height)
    found = header(data)
    assert (found.width, found.height) == (width, height)
    assert decode(data).pixels.shape == (height, width, 3)
    text = f"claims 9000 x 99 pixels, but its image data has {64 * columns} x {64 * rows}"
    with pytest.raises(ImageError, match=text):
        header(claiming(data, 9000, 99))


def test_the_size_in_a_full_sequence_header_of_av1() -> None:
    bits = "00000"  # profile, no still picture, not reduced
    bits += "1" + f"{1:032b}{24:032b}" + "1" + "00101" + "1" + f"{3:05b}{1:032b}{0:010b}"
    bits += "1" + f"{1:05b}"  # display delays, two operating points
    bits += f"{0:012b}0100011" + "0" * 9 + "10000"
    bits += f"{0:012b}0011100"
    bits += f"{11:04b}{10:04b}{4000 - 1:012b}{2000 - 1:011b}"
    bits += "0" * (-len(bits) % 8)
    body = int(bits, 2).to_bytes(len(bits) // 8, "big")
    start = bytes((2 << 3 | 2, 0))  # a temporal delimiter
    assert frame_size(start + bytes((1 << 3 | 2, len(body))) + body) == (4000, 2000)
    assert frame_size(start) is None
    assert frame_size(b"") is None
    with pytest.raises(Exception, match="inside a sequence header"):
        frame_size(start + bytes((1 << 3 | 2, 3)) + body[:3])


@pytest.mark.parametrize("kind", KINDS)
def test_broken_headers_raise_nothing_else(kind: str) -> None:
    data = encoded(KINDS[kind][0], photo(24, 32), *KINDS[kind][1:])
    for at in range(min(len(data), 400)):
        flipped, zeroed, full = (
            data[:at] + bytes((value,)) + data[at + 1 :] for value in (data[at] ^ 0x80, 0, 0xFF)
        )
        for source in (flipped, io.BytesIO(zeroed), full, data[:at]):
            with suppress(ImageError):
                header(source)

"""Limits: the largest image and file that are read, and the largest result of a format."""

from __future__ import annotations

import os
import struct
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resharp.errors import ImageError, OptionError, OutputError
from resharp.images import (
    check_result,
    decode,
    encode,
    header,
    limits,
    load,
    load_stream,
    pixel_limit,
    read,
)
from resharp.images.containers import png
from resharp.images.formats import check_size, choose
from resharp.images.limits import VARIABLE
from resharp.opencv import IMAGE_LIMITS, image_limits
from tests.images import test_samples as samples
from tests.images.claims import claiming
from tests.images.test_samples import encoded, photo


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    for name, value in image_limits({}).items():
        monkeypatch.setitem(IMAGE_LIMITS, name, value)


def memory(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(limits, "total_memory", lambda: size)


def test_an_image_and_its_result_fit_into_a_quarter_of_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory(monkeypatch, 24 << 30)
    assert pixel_limit(None).pixels == (6 << 30) // 51 == 126_322_567
    memory(monkeypatch, 1 << 40)
    assert pixel_limit(None).pixels == 1 << 30  # OpenCV's own
    monkeypatch.setitem(IMAGE_LIMITS, "OPENCV_IO_MAX_IMAGE_PIXELS", 1 << 31)
    assert pixel_limit(None).pixels == 1 << 31


def test_the_option_comes_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1000")
    assert pixel_limit(None).pixels == 1000
    assert pixel_limit(2000).pixels == 2000
    for text in ("0", "-1", "1e6", "many", "9" * 30):
        monkeypatch.setenv(VARIABLE, text)
        with pytest.raises(OptionError, match=f"{VARIABLE} must be a positive integer, got"):
            pixel_limit(None)
    values: tuple[Any, ...] = (0, -1, True, 1.0, "9")
    for value in values:
        with pytest.raises(OptionError, match="`max_pixels` must be a positive integer, got"):
            pixel_limit(value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".webp", ".gif"])
def test_larger_images_are_refused_before_they_are_decoded(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encoded(suffix, photo(30, 40)))
    assert read(path, max_pixels=1200).pixels.shape == (30, 40, 3)
    monkeypatch.setattr(cv2, "imdecode", None)
    text = r"has 40 x 30 pixels, over the limit of 1199.*set `max_pixels` to 1200"
    with pytest.raises(ImageError, match=text):
        read(path, max_pixels=1199)
    monkeypatch.setenv(VARIABLE, "1199")
    for call in (read, load):
        with pytest.raises(ImageError, match=text):
            call(path)
    with pytest.raises(ImageError, match=text):
        decode(path.read_bytes())


def test_small_files_of_large_images_are_refused_unless_they_are_trusted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory(monkeypatch, 64 << 30)
    bomb = claiming(encoded(".webp", photo(8, 8), cv2.IMWRITE_WEBP_QUALITY, 101), 9000, 9000)
    with pytest.raises(
        ImageError, match=r"9000 x 9000 pixels in only \d+ bytes.*`max_pixels` to 8100"
    ):
        decode(bomb)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.zeros((1, 1), np.uint8))
    assert decode(bomb, max_pixels=81_000_000).pixels.size == 1  # it is OpenCV's turn
    monkeypatch.setenv(VARIABLE, "81000000")
    assert decode(bomb).pixels.size == 1
    monkeypatch.delenv(VARIABLE)
    assert decode(bomb + bytes(2_100_000)).pixels.size == 1  # 2 GiB per MiB
    assert decode(claiming(bomb, 6000, 7000)).pixels.size == 1  # 51 bytes of each are 2 GiB


def test_what_opencv_refuses_names_its_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = claiming(encoded(".png", photo(30, 40)), (1 << 20) + 1, 1) + bytes(4000)
    with pytest.raises(ImageError, match=r"limit of 1048576 \(width\).*OPENCV_IO_MAX_IMAGE_WIDTH"):
        decode(wide)
    monkeypatch.setitem(IMAGE_LIMITS, "OPENCV_IO_MAX_IMAGE_PIXELS", 1024)
    with pytest.raises(ImageError, match=r"limit of 1024 \(pixels\).*OPENCV_IO_MAX_IMAGE_PIXELS"):
        decode(encoded(".png", photo(30, 40)), max_pixels=9999)


def test_a_file_that_is_larger_than_its_image_could_be_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    path.write_bytes(encoded(".png", photo(30, 40)))
    os.truncate(path, 3 << 30)
    with pytest.raises(ImageError, match=r"more than 2147483647 bytes, the most that OpenCV reads"):
        load(path)
    os.truncate(path, 70 << 20)
    with pytest.raises(ImageError, match=r"more than 67\d+ bytes.*set a larger `max_pixels`"):
        load(path, max_pixels=1200)


def test_a_pipe_is_not_read_without_end() -> None:
    data = encoded(".png", photo(30, 40))
    reading, writing = os.pipe()

    def fill() -> None:
        with os.fdopen(writing, "wb") as out:
            out.write(data)
            try:
                while True:
                    out.write(bytes(1 << 20))
            except BrokenPipeError:
                pass

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    with (
        os.fdopen(reading, "rb") as stream,
        pytest.raises(ImageError, match="stdin has more than 67"),
    ):
        load_stream(stream, "stdin", max_pixels=1200)
    thread.join(10)
    assert not thread.is_alive()


def test_a_pipe_and_the_rest_of_a_file_are_read(tmp_path: Path) -> None:
    data = encoded(".png", photo(30, 40))
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        assert load_stream(stream) == data
    path = tmp_path / "later.png"
    path.write_bytes(b"before" + data)
    with path.open("rb") as stream:
        stream.read(6)
        assert load_stream(stream) == data


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def peak(before: int) -> int:
    """The most bytes since the last call, or since tracing began."""
    found = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.reset_peak()
    return found


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("channels", [3, 4])
def test_a_file_is_held_once(tmp_path: Path, channels: int) -> None:
    """And a second time only where OpenCV needs other tags; what the caller has never changes."""
    path = tmp_path / "large.tif"
    pixels = samples.noise(1000, 1000, channels)
    path.write_bytes(samples.make_tiff(pixels, **({"extra": 2} if channels == 4 else {})))
    size, before = path.stat().st_size, tracemalloc.get_traced_memory()[0]
    peak(0)
    data = load(path)
    assert peak(before) < 1.1 * size
    same, before = sha256(data).digest(), tracemalloc.get_traced_memory()[0]
    found = decode(data).pixels
    # A straight alpha needs a copy of the file with other tags.
    assert peak(before) < 1.1 * (found.nbytes + (size if channels == 4 else 0))
    assert sha256(data).digest() == same


@pytest.mark.parametrize(
    ("suffix", "height", "width", "words"),
    [
        (".avif", 8, 32_769, "AVIF holds at most 32768 pixels per side"),
        (".avif", 16_384, 16_385, "AVIF holds at most 268435456 pixels, but the image is 16385 x"),
        (".jpg", 65_501, 1, "JPEG holds at most 65500 pixels per side"),
        (".webp", 16_384, 1, "WebP holds at most 16383 pixels per side"),
        (".png", 1, 1_000_001, "PNG holds at most 1000000 pixels per side"),
        (".bmp", 27_000, 27_000, "BMP holds at most 2147481600 bytes of pixels"),
    ],
)
def test_formats_refuse_what_they_cannot_hold(
    suffix: str, height: int, width: int, words: str
) -> None:
    with pytest.raises(OutputError, match=words):
        check_size(choose(suffix), height, width)
    check_size(choose(suffix), min(height, 8000), min(width, 8000))


def test_the_result_counts() -> None:
    check_result(".webp", 4095, 10, 4)
    with pytest.raises(OutputError, match=r"the image is 40 x 16384\. Write TIFF, or a smaller"):
        check_result(".webp", 4096, 10, 4)
    with pytest.raises(OutputError, match="16383"):
        encode(np.zeros((16_384, 1, 3), np.uint8), format="webp")


def test_a_gain_map_larger_than_its_image_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from resharp.images import codec

    small = encoded(".jpg", photo(16, 16))
    assert codec._turned_gain_map(small, 6, 256) is not None
    monkeypatch.setattr(cv2, "imdecode", None)
    assert codec._turned_gain_map(claiming(small, 60_000, 60_000), 6, 256) is None


@pytest.mark.skipif(sys.platform == "win32", reason="a path of POSIX")
def test_a_header_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe.png"
    os.mkfifo(path)
    with pytest.raises(ImageError, match="a pipe, not a file"):
        header(path)


def test_image_data_that_go_on_behind_the_pixels_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A megabyte of them kept libpng busy for seconds."""
    monkeypatch.setattr(png, "_EXCESS", 1 << 20)
    plain = encoded(".png", photo(30, 40))
    head, more = plain[:33], zlib.compress(bytes(30 << 20))
    with pytest.raises(ImageError, match="its image data goes on long after its last pixel"):
        decode(png_of(head, more))
    few = zlib.compress(bytes(30 * 121 + 999))
    assert not decode(png_of(head, few)).pixels.any()


def png_of(head: bytes, packed: bytes) -> bytes:
    parts = [(b"IDAT", packed[at : at + 9999]) for at in range(0, len(packed), 9999)]
    return head + b"".join(chunk(*part) for part in (*parts, (b"IEND", b"")))


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def test_many_parts_without_content_are_refused_early() -> None:
    """Each of these took between 4 and 15 seconds."""
    plain, jpeg, webp = (encoded(suffix, photo(30, 40)) for suffix in (".png", ".jpg", ".webp"))
    idle = chunk(b"IDAT", b"")
    size = struct.pack("<I", len(webp) - 8 + 8_000_000)
    for data, what in (
        (plain[:33] + 1_000_000 * idle + plain[33:], r"more than \d+ chunks"),
        (jpeg[:20] + 1_000_000 * b"\xff\xe9\0\2" + jpeg[20:], r"more than \d+ segments"),
        (webp[:4] + size + webp[8:] + 1_000_000 * b"ABCD\0\0\0\0", r"more than \d+ chunks"),
    ):
        with pytest.raises(ImageError, match=what):
            decode(data)
    picture = decode(jpeg + 300_000 * b"\xff\xd8\xff\xd9")
    assert picture.metadata.lost[0].startswith("1000 further images are left out")


def test_compressed_metadata_are_not_left_to_libpng(monkeypatch: pytest.MonkeyPatch) -> None:
    """libpng decompressed all of it, resharp no more than 64 MiB."""
    plain = encoded(".png", photo(30, 40))
    packed = zlib.compress(bytes(1 << 26), 1)
    texts = [chunk(b"zTXt", b"k%d\0\0" % n + packed) for n in range(4)]
    passed: list[int] = []
    real = cv2.imdecode

    def decoder(packed: Any, flags: int) -> Any:
        passed.append(packed.size)
        return real(packed, flags)

    monkeypatch.setattr(cv2, "imdecode", decoder)
    picture = decode(plain[:33] + b"".join(texts) + plain[33:])
    assert "damaged or too large" in picture.metadata.lost[0]
    assert passed == [len(plain)]


def test_long_tables_of_avif_are_refused_early() -> None:
    """Each of these took between 5 and 20 seconds."""

    def box(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(body), name) + body

    avif = encoded(".avif", photo(64, 64))
    first = avif[: int.from_bytes(avif[:4], "big")]
    primary, item = box(b"pitm", bytes(4) + b"\0\1"), b"\2\0\0\0\0\1\0\0av01\0"
    places = b"\2\0\0\0\0\0" + struct.pack(">I", 2**31) + 800_000 * b"\0\0\0\1\0\0\0\0\xff\xff"
    one = box(b"iinf", bytes(4) + b"\0\1" + box(b"infe", item))
    many = box(b"iinf", bytes(4) + b"\xff\xff" + 300_000 * box(b"infe", item))
    for data, what in (
        (avif + 1_000_000 * box(b"free", b""), r"more than \d+ boxes"),
        (first + box(b"meta", bytes(4) + primary + many + box(b"iloc", bytes(8))), "more than"),
        (
            first + box(b"meta", bytes(4) + primary + one + box(b"iloc", places)),
            "a table has more than 262144 numbers",
        ),
    ):
        with pytest.raises(ImageError, match=what):
            decode(data)

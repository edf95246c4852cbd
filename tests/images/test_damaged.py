"""Anything but a complete image raises ImageError with a name, a finding and advice."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from resharp.errors import ImageError
from resharp.images import decode, limits, read, suffixes
from tests.images import test_samples as samples
from tests.images.test_samples import encoded, photo

_WANTED = (".png", ".jpg", ".webp", ".tif", ".bmp", ".avif", ".gif")
SUFFIXES = [suffix for suffix in _WANTED if suffix in suffixes()]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_file_is_never_a_picture(suffix: str, share: float) -> None:
    data = encoded(suffix, photo())
    decode(data)
    with pytest.raises(ImageError, match=r"half\.xyz .*(Copy|Convert)"):
        decode(data[: int(len(data) * share)], "half.xyz")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_last_bytes_matter_and_bytes_behind_them_do_not(suffix: str) -> None:
    data = encoded(suffix, photo())
    with pytest.raises(ImageError):
        decode(data[:-3])
    whole = decode(data).pixels
    assert (decode(data + b"\0" * 50 + b"trailing").pixels == whole).all()


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_jpeg_is_seen_through_its_thumbnail_and_zeros(
    progressive: int, share: float
) -> None:
    """A thumbnail has an end marker of its own, and broken downloads are filled up with zeros."""
    plain = encoded(".jpg", photo(), 2, progressive)
    data = samples.with_segment(plain, 0xE1, b"Exif\0\0" + encoded(".jpg", photo(16, 16)))
    decode(data)
    for tail in (b"", bytes(5000)):
        with pytest.raises(ImageError, match=r"damaged JPEG file.*Copy or download it again"):
            decode(data[: int(len(data) * share)] + tail)


def test_a_jpeg_with_another_one_behind_it_is_its_first_picture() -> None:
    first = encoded(".jpg", photo())
    both = decode(first + encoded(".jpg", photo(40, 40)))
    assert (both.pixels == decode(first).pixels).all()


def test_png_checksums_are_checked_where_they_matter() -> None:
    data = bytearray(encoded(".png", photo()))
    data[len(data) // 2] ^= 0x10
    with pytest.raises(ImageError, match="checksum of its IDAT"):
        decode(bytes(data))
    comment = samples.png_chunk(b"tEXt", b"Comment\0hello")[:-1] + b"\xff"
    plain = encoded(".png", photo())
    decode(plain[:33] + comment + plain[33:])  # a damaged remark is no reason


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"Dear Sir,\nenclosed you find a picture.\n" * 9, "text starting with 'Dear Sir"),
        (b"", "empty"),
        (b"<!DOCTYPE html><p>404</p>", "web page"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (bytes(range(200)), "unknown"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "holiday.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=found) as error:
        read(path)
    assert str(path) in str(error.value)


def test_folders_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a folder"):
        read(tmp_path)
    with pytest.raises(ImageError, match=r"none\.png does not exist"):
        read(tmp_path / "none.png")
    with pytest.raises(ImageError, match="cannot be read"):
        read(tmp_path / ("n" * 300))
    with pytest.raises(ImageError, match="cannot be read"):
        read("nul\0byte.png")


def test_a_file_without_the_right_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.png"
    path.write_bytes(encoded(".png", photo()))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(limits, "open_any", refuse)  # root may read everything
    with pytest.raises(ImageError, match=r"mine\.png cannot be read: Permission denied"):
        read(path)


def test_a_bomb_is_an_error_with_advice() -> None:
    data = samples.make_png(0, 8, [b"\0" * 10], 10)
    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    bomb = data[:8] + samples.png_chunk(head[:4], head[4:]) + data[33:]
    with pytest.raises(ImageError, match=r"claims 60000 x 60000 pixels, which 68 bytes cannot"):
        decode(bomb)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_flipped_bytes_raise_nothing_else(suffix: str) -> None:
    """Headers, boxes and directories with nonsense in them: an image or an ImageError."""
    data = encoded(suffix, photo(24, 32))
    for at in range(0, min(len(data), 400), 3):
        broken = bytearray(data)
        broken[at] ^= 0xFF
        try:
            decode(bytes(broken))
        except ImageError:
            continue

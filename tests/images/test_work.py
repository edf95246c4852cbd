"""Small files whose parts overlap, repeat or expand cost little time and memory."""

from __future__ import annotations

import struct
import time
import tracemalloc
import zlib
from contextlib import suppress

import numpy as np
import pytest

from resharp.errors import ImageError
from resharp.images import decode
from resharp.images.containers import png
from tests.images import test_samples as samples
from tests.images.test_samples import encoded, photo

SECONDS = 8.0
"""Seconds of a file that took 22."""
RATIO = 8.0
"""Times as long for 4 times the bytes, with room for noise; 16 where work grows with the square."""


def seconds(data: bytes) -> float:
    """Return the processor time of this thread to decode the data, if it can be decoded."""
    began = time.thread_time()
    with suppress(ImageError):
        decode(data)
    return time.thread_time() - began


def test_texts_of_a_png_expand_to_so_much_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png, "_MAX_TEXT", png._MAX_TEXT // 16)
    body = b"Comment\0\0" + zlib.compress(bytes([65]) * (40 << 16))
    data = encoded(".png", photo(8, 8))
    for _ in range(8):
        data = samples.with_png_chunk(data, b"zTXt", body)
    tracemalloc.start()
    try:
        found = decode(data).metadata
        assert tracemalloc.get_traced_memory()[1] < 250 << 16
    finally:
        tracemalloc.stop()
    assert [len(text) for _, text in found.text if text] == [40 << 16]
    assert "compressed metadata is left out: it is damaged or too large" in found.lost


def test_directories_of_a_tiff_that_overlap() -> None:
    """3000 directories of 30000 tags in 400 kB, each 12 bytes behind the one before."""
    pages, tags = 3000, 30_000
    out = samples.make_tiff(np.zeros((4, 4), np.uint8))
    out += bytes(-len(out) % 2)
    base, (at,) = len(out), struct.unpack_from("<I", out, 4)
    heads = struct.pack("<HHHIH", tags, 300, 4, 1, 0) * pages
    pointers = b"".join(struct.pack("<I8x", base + 12 * (n + 1)) for n in range(pages - 1))
    (entries,) = struct.unpack_from("<H", out, at)
    end = at + 2 + 12 * entries
    out = out[:end] + struct.pack("<I", base) + out[end + 4 :]
    out += heads + bytes(2 + 12 * tags - len(heads)) + pointers + bytes(12)
    assert seconds(out) < SECONDS


def test_images_behind_a_jpeg() -> None:
    tiny = b"\xff\xd8\xff\xe0\0\2\xff\xd9"
    few, many = (seconds(encoded(".jpg", photo(16, 16)) + tiny * n) for n in (10_000, 40_000))
    assert many < RATIO * few

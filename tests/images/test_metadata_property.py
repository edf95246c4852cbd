"""Random metadata in every pair of formats: kept, noted or corrected, and never an exception."""

from __future__ import annotations

import re
import struct
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resharp.errors import ImageError
from resharp.images import Density, Metadata, decode, encode, writable
from resharp.images.color_signal import ColorSignal
from resharp.images.ifd import Page
from resharp.images.transfer import WORDS as FIELDS
from tests.images import test_samples as samples
from tests.images.test_transfer import CELLS, SOURCES, WORDS, XMP

OUTPUTS = [s for s in (".png", ".jpg", ".webp", ".tif", ".bmp", ".avif") if s in writable()]

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
keywords = st.one_of(
    st.sampled_from(["Comment", "parameters", "workflow", "Title"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=79),
)


@st.composite
def exif_blocks(draw: st.DrawFn) -> bytes:
    """Mostly sound, sometimes with a few bytes changed or cut off."""
    block = bytearray(samples.exif(draw(st.sampled_from("<>")), draw(st.integers(0, 9))))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 4]))):
        block[draw(st.integers(0, len(block) - 1))] = draw(st.integers(0, 255))
    return bytes(block[: draw(st.sampled_from([len(block), len(block), 60, 9]))])


@st.composite
def resources(draw: st.DrawFn) -> bytes:
    """Photoshop blocks with names, among them stale ones and an IPTC record; perhaps cut off."""
    whole = b""
    numbers = st.sampled_from([0x0404, 0x03ED, 0x040C, 0x0408, 0x07D0])
    for number in draw(st.lists(numbers, min_size=1, max_size=4, unique=True)):
        name, body = draw(st.binary(max_size=5)), draw(st.binary(max_size=40))
        label = bytes((len(name),)) + name
        whole += b"8BIM" + struct.pack(">H", number) + label + bytes(len(label) % 2)
        whole += struct.pack(">I", len(body)) + body + bytes(len(body) % 2)
    return whole[: draw(st.sampled_from([len(whole), len(whole), 13]))]


positive = st.one_of(st.sampled_from([72.0, 300.0, 96.012, 0.5, 1e6]), st.floats(-1, 1e9))
colors = st.builds(
    ColorSignal,
    cicp=st.none() | st.tuples(st.integers(0, 255), st.integers(0, 255)),
    gamma=st.none() | st.sampled_from([0.45455, 1.0, 0.0, 0.5]),
    chromaticities=st.none() | st.tuples(*[st.floats(0, 1)] * 8),
    intent=st.none() | st.integers(0, 3),
    light=st.sampled_from([(), (("cLLI", bytes(8)),), (("mDCV", bytes(24)), ("cLLI", bytes(8)))]),
)
packets = st.one_of(st.just(XMP), st.just(samples.XMP), st.binary(max_size=60))
metadata = st.builds(
    Metadata,
    exif=st.none() | exif_blocks(),
    icc=st.none() | st.sampled_from([samples.icc(), samples.icc(b"GRAY"), b"nonsense"]),
    xmp=st.none() | packets,
    photoshop=st.none() | resources() | st.binary(max_size=30),
    text=st.lists(st.tuples(keywords, words), max_size=3).map(tuple),
    density=st.none() | st.builds(Density, positive, positive, st.booleans()),
    color=st.none() | colors,
    gain_map=st.none() | st.just(samples.encoded(".jpg", samples.noise(4, 6))),
)


@pytest.mark.parametrize("target", OUTPUTS)
@settings(max_examples=40, deadline=None)
@given(found=metadata, shape=st.sampled_from([(6, 8), (6, 8, 3), (6, 8, 4)]))
def test_random_metadata_is_kept_or_noted(
    target: str, found: Metadata, shape: tuple[int, ...]
) -> None:
    data, notes = encode(samples.noise(*shape), found, format=target)
    again = decode(data)
    assert again.pixels.shape[:2] == shape[:2]
    assert again.metadata.lost == ()
    _check(found, again.metadata, notes)
    # What was kept once is kept again, without a note but those on pixels.
    second, remarks = encode(again.pixels, again.metadata, format=target)
    assert remarks == ()
    assert decode(second).metadata == again.metadata


@pytest.mark.slow
@pytest.mark.parametrize("target", OUTPUTS)
@pytest.mark.parametrize("source", OUTPUTS)
@settings(max_examples=8, deadline=None)
@given(found=metadata, shape=st.sampled_from([(6, 8), (6, 8, 3), (6, 8, 4)]))
def test_what_a_file_holds_is_kept_or_noted_in_any_other_format(
    source: str, target: str, found: Metadata, shape: tuple[int, ...]
) -> None:
    picture = decode(encode(samples.noise(*shape), found, format=source)[0])
    data, notes = encode(picture.pixels, picture.metadata, format=target)
    _check(picture.metadata, decode(data).metadata, notes)


def _check(found: Metadata, again: Metadata, notes: tuple[str, ...]) -> None:
    """Check that each kind of metadata was kept, noted or stale."""
    said = " ".join(notes)
    for kind in FIELDS:
        if getattr(found, kind) and not getattr(again, kind):
            elsewhere = kind in ("text", "density") and again.exif
            assert elsewhere or re.search(WORDS[kind], said) or _stale(kind, found), (kind, notes)
    if found.color and not again.color and not again.icc:
        assert found.color.is_srgb or "sRGB" in said or "ICC" in said or found.icc


def _stale(kind: str, found: Metadata) -> bool:
    """Whether a block held nothing that is true of the result and has no other place in it."""
    if kind == "exif":  # TIFF has the resolution itself
        return found.exif is not None and Page(found.exif).values.keys() <= {282, 283, 296}
    if kind == "photoshop":
        return found.photoshop is not None and (
            not any(found.photoshop)
            or not any(
                struct.pack(">4sH", b"8BIM", number) in found.photoshop
                for number in (0x0404, 0x03ED, 0x07D0)
            )
        )
    return kind == "text" and not any(text.strip("\0") for _, text in found.text)


INPUTS = sorted({(kind, source.name) for kind, source, _ in CELLS if kind != "frames"})


@pytest.mark.parametrize(("kind", "source"), INPUTS)
@settings(max_examples=10, deadline=None)
@given(choose=st.data())
def test_damaged_files_raise_nothing_but_image_errors(
    kind: str, source: str, choose: st.DataObject
) -> None:
    """Files with metadata of every kind, cut off or with bits flipped."""
    data = bytearray(SOURCES[kind](source))
    place = partial(st.integers, 0, len(data) - 1)
    for at in choose.draw(st.lists(place(), max_size=4)):
        data[at] ^= 1 << choose.draw(st.integers(0, 7))
    broken = bytes(data[: choose.draw(st.one_of(st.just(len(data)), place()))])
    try:
        picture = decode(broken)
    except ImageError:
        return
    if picture.pixels.size > 1 << 20:  # a flipped bit in a size
        return
    for target in (".jpg", ".tif"):
        encode(picture.pixels, picture.metadata, format=target)


def test_samples_are_what_they_seem() -> None:
    """The random cases start from blocks that a sound program accepts."""
    kept: Any = decode(encode(samples.photo(), Metadata(xmp=XMP), format="png")[0]).metadata
    assert kept.xmp == XMP
    assert np.array_equal(samples.noise(4, 6), samples.noise(4, 6))

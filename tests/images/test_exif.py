"""EXIF blocks after restoring: what Pillow reads from them, and which bytes stay."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from resharp.images.codec import turned
from resharp.images.exif import density, extended, orientation, resized, upright
from resharp.images.ifd import MalformedError

THUMBNAIL = b"\xff\xd8 a small image \xff\xd9"
MAKER_NOTE = b"Maker\0" + bytes(range(1, 60))
Value = int | tuple[int, ...] | bytes
WIDE, HIGH, SUBJECT, SPOT, FOCAL_X, FOCAL_Y = 0xA002, 0xA003, 0x9214, 0xA214, 0xA20E, 0xA20F


def block(
    order: str = "<",
    first: dict[int, Value] | None = None,
    inner: dict[int, Value] | None = None,
    interop: dict[int, Value] | None = None,
    thumbnail: bytes = b"",
    behind: bytes = b"",
) -> bytes:
    """A block of IFD0, EXIF and interop directories and IFD1; a pair of numbers is a ratio,
    other tuples are SHORTs, and the maker note is always there."""
    first = {0x10F: b"Ann\0", **(first or {}), 0x8769: 0}
    inner = {0x927C: MAKER_NOTE, **(inner or {})}
    if interop is not None:
        inner[0xA005] = 0
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    at_inner = 8 + len(directory(order, first, 8))
    at_interop = at_inner + len(directory(order, inner, at_inner))
    at_second = at_interop + (len(directory(order, interop, at_interop)) if interop else 0)
    first[0x8769] = at_inner
    if interop is not None:
        inner[0xA005] = at_interop
    second: dict[int, Value] = {0x103: 6, 0x201: 0, 0x202: len(thumbnail)}
    second[0x201] = at_second + len(directory(order, second, at_second))
    body = directory(order, first, 8, at_second if thumbnail else 0)
    body += directory(order, inner, at_inner)
    body += directory(order, interop, at_interop) if interop else b""
    body += directory(order, second, at_second) if thumbnail else b""
    return head + body + thumbnail + behind


def directory(order: str, tags: dict[int, Value], at: int, following: int = 0) -> bytes:
    entries, tail = b"", b""
    after = at + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        if isinstance(value, int):
            kind, count, data = 4, 1, struct.pack(order + "I", value)
        elif isinstance(value, bytes):
            kind, count, data = 2 if tag < 0x8000 else 7, len(value), value
        elif tag in (FOCAL_X, FOCAL_Y, 0x11A, 0x11B, 0x9102):
            kind, count, data = 5, 1, struct.pack(order + "II", *value)
        else:
            kind, count, data = 3, len(value), struct.pack(f"{order}{len(value)}H", *value)
        entries += struct.pack(order + "HHI", tag, kind, count)
        if len(data) <= 4:
            entries += data + bytes(4 - len(data))
        else:
            entries += struct.pack(order + "I", after + len(tail))
            tail += data + bytes(len(data) % 2)
    return (
        struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", following) + tail
    )


def seen(data: bytes) -> dict[int, Any]:
    """Tags of IFD0, EXIF and interop as Pillow reads them."""
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + data)
    inner = exif.get_ifd(ExifTags.IFD.Exif)
    return {**exif, **inner, **exif.get_ifd(ExifTags.IFD.Interop)}


def thumbnail_tags(data: bytes) -> dict[int, Any]:
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + data)
    return dict(exif.get_ifd(ExifTags.IFD.IFD1))


def full(order: str = "<", **changes: Any) -> bytes:
    first = {0x100: 600, 0x101: 400, 0x112: (1,), 0x11A: (300, 1), 0x11B: (300, 1), 0x128: (2,)}
    inner = {WIDE: (600,), HIGH: (400,), SUBJECT: (150, 100, 60, 40), SPOT: (30, 20)}
    inner |= {FOCAL_X: (4_000_000, 1000), FOCAL_Y: (3_000_000, 1000), 0x9102: (3, 1)}
    interop = {1: b"R98\0", 0x1001: 600, 0x1002: 400}
    arguments: dict[str, Any] = {
        "first": first,
        "inner": inner,
        "interop": interop,
        "thumbnail": THUMBNAIL,
    }
    return block(order, **(arguments | changes))


@pytest.mark.parametrize("order", ["<", ">"])
def test_sizes_and_what_is_measured_in_pixels_follow(order: str) -> None:
    tags = seen(resized(full(order), height=1600, width=1800))
    assert (tags[0x100], tags[0x101]) == (1800, 1600)
    assert (tags[WIDE], tags[HIGH]) == (1800, 1600)
    assert (tags[0x1001], tags[0x1002]) == (1800, 1600)
    assert tags[SUBJECT] == (450, 400, 180, 160)
    assert tags[SPOT] == (90, 80)
    assert (tags[FOCAL_X], tags[FOCAL_Y]) == (12_000, 12_000)
    # Dots per inch are a wish about printing, which restoring does not change.
    assert (tags[0x11A], tags[0x11B]) == (300, 300)
    assert 0x9102 not in tags


@pytest.mark.parametrize("order", ["<", ">"])
def test_everything_else_stays_where_it_is(order: str) -> None:
    before = full(order)
    after = resized(before, 1600, 1800)
    assert after.index(MAKER_NOTE) == before.index(MAKER_NOTE)
    assert seen(after)[0x927C] == MAKER_NOTE
    assert seen(after)[0x10F] == "Ann"
    assert seen(after)[1] == "R98"


@pytest.mark.parametrize("lacking", [WIDE, HIGH])
def test_without_an_old_size_nothing_in_pixels_is_left(lacking: int) -> None:
    inner = {WIDE: (600,), HIGH: (0,), SUBJECT: (15, 10), FOCAL_X: (40, 1), FOCAL_Y: (40, 1)}
    inner.pop(lacking)
    tags = seen(resized(full(first={}, inner=inner), 1600, 1800))
    assert not {SUBJECT, FOCAL_X, FOCAL_Y} & tags.keys()
    assert tags[0x927C] == MAKER_NOTE
    assert tags[({WIDE, HIGH} - {lacking}).pop()] in (1800, 1600)


def test_a_place_beyond_16_bits_is_removed() -> None:
    tags = seen(resized(full(), height=40_000, width=600_000))
    assert SUBJECT not in tags
    assert tags[SPOT] == (30_000, 2_000)


def test_the_same_size_changes_no_value() -> None:
    tags, before = seen(resized(full(), 400, 600)), seen(full())
    del before[0x9102]
    assert {tag: value for tag, value in tags.items() if tag != 0xA005} == {
        tag: value for tag, value in before.items() if tag != 0xA005
    }


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_thumbnail_at_the_end_is_cut_off(order: str) -> None:
    before = full(order)
    assert thumbnail_tags(before)[0x202] == len(THUMBNAIL)
    after = resized(before, 800, 1200)
    assert thumbnail_tags(after) == {}
    assert after == after[: before.index(THUMBNAIL)]
    assert len(after) == before.index(THUMBNAIL)


def test_a_thumbnail_in_the_middle_is_blanked() -> None:
    before = full(behind=b"private data of the camera")
    after = resized(before, 800, 1200)
    assert thumbnail_tags(after) == {}
    assert len(after) == len(before)
    assert THUMBNAIL not in after
    assert after.endswith(b"private data of the camera")


def test_a_thumbnail_is_not_cut_off_below_an_empty_value() -> None:
    """Zeros behind it look like padding, but belong to a tag."""
    before = bytearray(full(first={0x10E: b"X" * 8}, behind=bytes(8)))
    at = before.index(b"X" * 8)
    pointer = before.index(struct.pack("<HHII", 0x10E, 2, 8, at)) + 8
    before[pointer : pointer + 4] = struct.pack("<I", len(before) - 8)
    after = resized(bytes(before), 800, 1200)
    assert len(after) == len(before)
    assert THUMBNAIL not in after


def test_a_thumbnail_that_claims_the_maker_note_does_not_take_it_along() -> None:
    note = b"\xff\xd8" + MAKER_NOTE
    before = bytearray(full(inner={0x927C: note}, first={}))
    at = before.index(struct.pack("<HHI", 0x201, 4, 1)) + 8
    before[at : at + 4] = struct.pack("<I", before.index(note))
    after = resized(bytes(before), 800, 1200)
    assert seen(after)[0x927C] == note
    assert thumbnail_tags(after) == {}


def test_a_value_in_place_of_the_missing_pointer_survives() -> None:
    """Some cameras omit the pointer to IFD1, and what follows is a value."""
    text = b"A long description\0"
    head = b"II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHII", 0x10E, 2, len(text), 22)
    assert seen(resized(head + text, 8, 8))[0x10E] == text[:-1].decode()


PLACES = {turn: turned(np.arange(24).reshape(4, 6), turn) for turn in range(1, 9)}


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("outside", [False, True])
def test_the_subject_turns_with_the_pixels(turn: int, outside: bool) -> None:
    """The pixel under the subject is the same one before and after."""
    inner = {WIDE: (6,), HIGH: (4,), SPOT: (4, 1), SUBJECT: (4, 1, 3, 2)}
    inner |= {FOCAL_X: (6, 1), FOCAL_Y: (4, 1)}
    data = full(first={0x112: (1 if outside else turn,)}, inner=inner)
    tags = seen(upright(data, turn) if outside else upright(data))
    upright_pixels = PLACES[turn]
    assert tags[0x112] == 1
    assert (tags[HIGH], tags[WIDE]) == upright_pixels.shape
    assert (tags[FOCAL_Y], tags[FOCAL_X]) == upright_pixels.shape
    x, y = tags[SPOT]
    assert upright_pixels[y, x] == PLACES[1][1, 4]
    assert tags[SUBJECT] == (x, y, *((3, 2) if turn < 5 else (2, 3)))


def test_the_thumbnail_goes_when_the_image_is_turned() -> None:
    assert thumbnail_tags(upright(full(first={0x112: (1,)}))) != {}
    assert thumbnail_tags(upright(full(first={0x112: (3,)}))) == {}


@pytest.mark.parametrize(("value", "expected"), [((6,), 6), ((0,), 1), ((9,), 1), ((6, 6), 1)])
def test_only_a_valid_orientation_counts(value: tuple[int, ...], expected: int) -> None:
    assert orientation(full(first={0x112: value})) == expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({0x11A: (300, 1), 0x11B: (150, 1), 0x128: (2,)}, (300, 150)),
        ({0x11A: (300, 1), 0x11B: (300, 1)}, (300, 300)),
        ({0x11A: (100, 1), 0x11B: (200, 2), 0x128: (3,)}, (254, 254)),
        ({0x11A: (3, 1), 0x11B: (4, 1), 0x128: (1,)}, None),
        ({0x11A: (300, 0), 0x11B: (300, 1), 0x128: (2,)}, None),
        ({0x11A: (300, 1)}, None),
        ({}, None),
    ],
)
def test_density_is_in_dots_per_inch(
    tags: dict[int, Value], expected: tuple[float, float] | None
) -> None:
    assert density(full(first=tags)) == (expected and pytest.approx(expected))


@pytest.mark.parametrize(
    ("text", "dpi"),
    [
        ("steps: 20", None),
        ("steps: 20", (300.0, 150.0)),
        ("", (72.009, 72.009)),
        ("Grüße 日本 🎈", (72.009, 72.009)),
        (None, (300.0, 150.0)),
    ],
)
def test_a_new_block_is_read_by_others(text: str | None, dpi: tuple[float, float] | None) -> None:
    data = extended(None, text, dpi)
    tags = seen(data)
    if text is not None:
        code, comment = tags[0x9286][:8], tags[0x9286][8:]
        assert comment.decode("utf-16-be" if code == b"UNICODE\0" else "ascii") == text
    if dpi is None:
        assert 0x11A not in tags
        assert density(data) is None
    else:
        assert tags[0x128] == 2
        assert (tags[0x11A], tags[0x11B]) == pytest.approx(dpi, rel=1e-4)
        assert density(data) == pytest.approx(dpi, rel=1e-4)


@pytest.mark.parametrize(
    "data", [b"", b"II*\0", b"XX*\0\0\0\0\x08", b"II+\0" + bytes(20), b"II*\0\xff\xff\xff\xff"]
)
def test_what_is_no_block_is_malformed(data: bytes) -> None:
    for work in (orientation, density, upright, lambda broken: resized(broken, 8, 8)):
        with pytest.raises(MalformedError):
            work(data)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_hostile_blocks_raise_nothing_else(data: st.DataObject) -> None:
    broken = bytearray(full(data.draw(st.sampled_from("<>")), first={0x112: (6,)}))
    for _ in range(data.draw(st.integers(1, 8))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(broken[: data.draw(st.integers(0, len(broken)))])
    for work in (orientation, density, upright, lambda block: resized(block, 900, 70_000)):
        try:
            work(cut)
        except MalformedError:
            continue

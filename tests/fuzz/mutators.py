"""Changes of bytes, of the numbers and blocks of a structure, and of JSON values."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

LARGEST = 1 << 20
"""Bytes of a mutated file."""


@dataclass(frozen=True)
class Layout:
    """Where the numbers and blocks of a file are."""

    numbers: Sequence[tuple[int, str]] = ()
    """Offset and struct format, e.g. ``>I``."""
    blocks: Sequence[tuple[int, int]] = ()
    """Start and end of chunks, segments, boxes or frames."""
    sizes: Sequence[tuple[int, str]] = field(default=())
    """Those numbers that are widths and heights."""


LayoutOf = Callable[[bytes], Layout]
Mend = Callable[[bytes], bytes]


def odd_number(random: Random, form: str) -> int:
    """Return a number that code forgets: a limit, one beside it, or any."""
    bits = struct.calcsize(form) * 8
    top = (1 << bits) - 1
    near = (0, 1, 2, 3, 7, 8, 255, 256, 16383, 16384, 30_000, 65_535, 65_536, 1 << 20, 1 << 24)
    choices = [*near, top, top - 1, top >> 1, (top >> 1) + 1, random.randrange(top + 1)]
    value = min(random.choice(choices), top)
    return value if form[-1].isupper() else value - (1 << bits if value > top >> 1 else 0)


def _place(random: Random, data: bytes) -> int:
    """A place in the file; the beginning, where the structure is, more often."""
    if random.random() < 0.4:
        return random.randrange(min(len(data), 128))
    return random.randrange(len(data))


def _run(random: Random, data: bytes) -> tuple[int, int]:
    """A short run; in small files long ones would leave nothing to read."""
    at = _place(random, data)
    longest = max(2, len(data) // 8)
    return at, min(len(data), at + min(longest, random.choice((1, 2, 4, 16, 64, 512, 4096))))


def flip(random: Random, data: bytes) -> bytes:
    """Flip one to eight bits."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 8))):
        changed[_place(random, data)] ^= 1 << random.randrange(8)
    return bytes(changed)


def fill(random: Random, data: bytes) -> bytes:
    """Overwrite a run with zeros, ones or noise."""
    start, end = _run(random, data)
    one = random.choice((b"\0", b"\xff", b" ", None))
    return (
        data[:start] + (one * (end - start) if one else random.randbytes(end - start)) + data[end:]
    )


def cut(random: Random, data: bytes) -> bytes:
    """Cut the end."""
    return data[: random.choice((random.randrange(len(data)), len(data) - random.randint(1, 12)))]


def remove(random: Random, data: bytes) -> bytes:
    """Remove a run."""
    start, end = _run(random, data)
    return data[:start] + data[end:]


def insert(random: Random, data: bytes) -> bytes:
    """Insert a run of noise, or of the file itself."""
    start, end = _run(random, data)
    at = _place(random, data)
    more = random.choice((random.randbytes(end - start), data[start:end], data[start:end] * 50))
    return data[:at] + more + data[at:]


def number(random: Random, data: bytes) -> bytes:
    """Overwrite any two, four or eight bytes with a number."""
    form = random.choice(("<H", ">H", "<I", ">I", "<Q", ">Q", "<i", ">i"))
    at = _place(random, data)
    return (
        data[:at] + struct.pack(form, odd_number(random, form)) + data[at + struct.calcsize(form) :]
    )


BYTES: tuple[Callable[[Random, bytes], bytes], ...]
BYTES = (flip, flip, flip, fill, fill, number, number, cut, remove, insert)


def anywhere(random: Random, data: bytes) -> bytes:
    """Change bytes without a look at the structure."""
    return random.choice(BYTES)(random, data) if data else random.randbytes(8)


def numbers(random: Random, data: bytes, layout: Layout) -> bytes:
    """Set numbers of the structure, sizes more often."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        known = layout.sizes if layout.sizes and random.random() < 0.4 else layout.numbers
        if known:
            at, form = random.choice(known)
            struct.pack_into(form, changed, at, odd_number(random, form))
    return bytes(changed)


def blocks(random: Random, data: bytes, layout: Layout, other: bytes) -> bytes:
    """Drop, double, swap, garble or replace a block, or put bytes of another file there."""
    if not layout.blocks:
        return anywhere(random, data)
    start, end = random.choice(layout.blocks)
    block = data[start:end]
    how = random.randrange(6)
    if how == 0:
        middle = b""
    elif how == 1:
        middle = block * random.choice((2, 2, 40))
    elif how == 2:
        first, last = random.choice(layout.blocks)
        middle = data[first:last]
    elif how == 3:
        at = random.randrange(len(other))
        middle = other[at : at + len(block)]
    elif how == 4:
        middle = block + random.randbytes(random.choice((1, 8, 300)))
    else:
        middle = anywhere(random, block)
    return data[:start] + middle + data[end:]


def mutated(
    random: Random, data: bytes, other: bytes, layout_of: LayoutOf | None, mend: Mend | None
) -> bytes:
    """Return a file with one to three changes, most of them in its structure.

    Args:
        random: decides.
        data: a valid file.
        other: another one, for parts.
        layout_of: finds the structure; None changes bytes alone.
        mend: corrects checksums, so that the change is not refused for these.
    """
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        layout = layout_of(data) if layout_of else Layout()
        how = random.random()
        if how < 0.35 and layout.numbers:
            data = numbers(random, data, layout)
        elif how < 0.65 and layout.blocks:
            data = blocks(random, data, layout, other)
        else:
            data = anywhere(random, data)
        data = data[:LARGEST]
    return mend(data) if mend and random.random() < 0.9 else data


DEEP = 100_000


def odd_value(random: Random, old: Any) -> str:
    """Return JSON text for a value that a reader may not expect in the place of ``old``."""
    if isinstance(old, str) and random.random() < 0.5:
        texts = (
            "",
            "..",
            "../x",
            "/etc/passwd",
            "a\0b",
            "\x1b[31m",
            old + "x",
            old.upper(),
            "é" * 300,
        )
        return json.dumps(random.choice((*texts, "nan", "1", "x" * 70_000, "\ud800")))
    plain = ("null", "true", "false", "[]", "{}", '""', '"x"', "[null]", '{"a": 1}', "[1, 2]")
    figures: tuple[str, ...] = (
        "0",
        "1",
        "-1",
        "2",
        "3",
        "8",
        "0.5",
        "-0.0",
        "1e308",
        "1e-320",
        "NaN",
        "Infinity",
    )
    figures += ("-Infinity", "2147483648", "1e30", "9" * 30, "65536", "1000000", "9" * 5000)
    text = random.choice((*plain, *figures, *figures))
    if random.random() < 0.03:
        opening, closing = random.choice((("[", "]"), ('{"a":', "}")))
        return opening * DEEP + "1" + closing * DEEP
    return text


def mutated_json(random: Random, text: bytes) -> bytes:
    """Replace, drop, add or swap values of a JSON object."""
    if random.random() < 0.15:
        return anywhere(random, text)
    root = json.loads(text)
    marks: dict[str, str] = {}
    for count in range(random.choice((1, 1, 1, 2, 4))):
        holder, key = random.choice(list(_places(root)))
        how = random.random()
        if how < 0.75:
            mark = f"@@{count}@@"
            marks[json.dumps(mark)] = odd_value(random, holder[key])
            holder[key] = mark
        elif how < 0.85:
            del holder[key]
        else:
            other_holder, other = random.choice(list(_places(root)))
            holder[key] = json.loads(json.dumps(other_holder[other]))
        if not list(_places(root)):
            break
    changed = json.dumps(root)
    for mark, value in marks.items():
        changed = changed.replace(mark, value)
    return changed.encode("utf-8", "surrogatepass")


def _places(node: Any) -> Any:
    """Yield every container of a tree with each of its keys or indices."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        yield node, key
        if isinstance(value, dict | list):
            yield from _places(value)

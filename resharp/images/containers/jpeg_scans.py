"""Scans of JPEG: certain damage that libjpeg reports only on standard error.

The following is found without decoding the data: restart markers that are missing or out of order,
a sector of zeros, the absence of scans with the last bits of a progressive image, and a scan that
ends early, the rest of which libjpeg leaves gray (ITU-T T.81 annexes B, F and G).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from resharp.images.containers import jpeg
from resharp.images.containers.info import DamagedContainerError, TruncatedError
from resharp.images.picture import Pixels

_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_DHT, _SOS, _DRI = 0xC4, 0xDA, 0xDD
_RESTART = re.compile(rb"\xff+([\xd0-\xd7])")
_ZEROS = bytes(64)
_GRAY = 128
_NOTHING = 16
"""Bits that a coefficient lacks before its first scan."""

Table = tuple[list[str], bytes]
"""Huffman codes as bits, and the symbol of each."""


@dataclass(kw_only=True)
class _Scan:
    """A scan, with the tables and sizes that apply to it."""

    start: int
    end: int
    components: list[tuple[int, int]]
    """Blocks across and down in a unit (MCU), of each component in the scan."""
    tables: list[tuple[Table, Table]]
    """DC and AC table of each component."""
    across: int
    """Units in a row."""
    down: int
    """Rows of units."""
    interval: int
    """Units between two restart markers; 0 if there are none."""
    progressive: bool


@dataclass
class _State:
    """What the segments up to a scan have set."""

    size: tuple[int, int] = (0, 0)
    factors: dict[int, tuple[int, int]] = field(default_factory=dict)
    tables: dict[int, Table] = field(default_factory=dict)
    interval: int = 0
    frame: int = 0
    missing: dict[int, list[int]] = field(default_factory=dict)
    """For each component, the low bits that each coefficient lacks so far."""


def check(data: bytes) -> bytes:
    """Return the data of a JPEG in which no damage is found.

    Raises:
        TruncatedError: it lacks scans that a progressive file ends with.
        DamagedContainerError: it is damaged.
    """
    for scan in _scans(data):
        _check_restarts(data, scan)
        dense = not scan.progressive and any(ac[1][0] & 15 for _, ac in scan.tables)
        # If a code of zeros is a coefficient, zeros fill the blocks with it.
        if dense and data.find(_ZEROS, scan.start, scan.end) >= 0:
            raise DamagedContainerError("a part of its image data is overwritten with zeros")
    return data


def check_end(data: bytes, pixels: Pixels) -> None:
    """Check that the last rows are not gray because the data ends before them.

    Raises:
        TruncatedError: the data ends before them.
    """
    if (pixels[-1] != _GRAY).any():
        return
    same = (pixels == _GRAY).reshape(len(pixels), -1).all(axis=1)
    gray = len(pixels) if same.all() else int(same[::-1].argmin())
    scans = list(_scans(data)) if gray >= 8 else []
    if len(scans) != 1 or scans[0].progressive:
        return
    scan = scans[0]
    unit = 8 * max(down for _, down in scan.components) if len(scan.components) > 1 else 8
    first = -(-(len(pixels) - gray) // unit)
    units = (scan.down - first) * scan.across
    if scan.interval:
        units = min(units, (scan.across * scan.down - 1) % scan.interval + 1)
    # Gray areas consist of blocks without change or coefficients.
    codes = [_code(dc, 0) + _code(ac, 0) for dc, ac in scan.tables]
    flat = "".join(
        code * (across * down) for code, (across, down) in zip(codes, scan.components, strict=True)
    )
    begin = max(
        (m.end() for m in _RESTART.finditer(data, scan.start, scan.end)), default=scan.start
    )
    length = units * len(flat) // 8 + 8
    tail = data[begin : scan.end].replace(b"\xff\0", b"\xff")[-length:]
    bits = f"{int.from_bytes(tail, 'big'):0{8 * len(tail)}b}" if tail else ""
    if units >= 8 and all(codes) and bits.count(flat) < units // 8:
        raise TruncatedError(
            f"its image data ends early, and the last {gray} of {len(pixels)} rows are gray"
        )


def _check_restarts(data: bytes, scan: _Scan) -> None:
    if not scan.interval:
        return
    found = [m[1][0] & 7 for m in _RESTART.finditer(data, scan.start, scan.end)]
    wanted = -(-scan.across * scan.down // scan.interval) - 1
    # Some encoders write an extra one at the end.
    if len(found) > wanted + 1 or found != [n % 8 for n in range(len(found))]:
        raise DamagedContainerError(f"its restart markers are not {wanted} in order")
    if len(found) < wanted:
        raise TruncatedError(
            f"its image data ends early, after {len(found)} of {wanted} restart markers"
        )


def _scans(data: bytes) -> Iterator[_Scan]:
    """Yield the scans of a complete file that is coded with Huffman tables, as most files are."""
    state = _State()
    segments = list(jpeg.segments(data))
    for (marker, body, end), (after, following, stop) in pairwise(segments):
        try:
            if marker in (*_SEQUENTIAL, _PROGRESSIVE):
                state.frame = marker
                state.size = struct.unpack_from(">HH", body, 1)
                state.factors = {
                    body[at]: (body[at + 1] >> 4, body[at + 1] & 15)
                    for at in range(6, 6 + 3 * body[5], 3)
                }
                state.missing = {name: [_NOTHING] * 64 for name in state.factors}
            elif marker == _DHT:
                state.tables |= _tables(body)
            elif marker == _DRI:
                state.interval = int.from_bytes(body[:2], "big")
            elif marker == _SOS and state.frame:
                # A marker has two bytes; one with content is followed by its size.
                last = stop - 2 if after == jpeg.EOI else stop - len(following) - 4
                scan = _scan(state, body, end, last)
                _progress(state, body)
                if scan:
                    yield scan
        except (IndexError, KeyError, ValueError, struct.error):
            raise DamagedContainerError("its headers contradict themselves") from None
    if state.frame and any(any(bits) for bits in state.missing.values()):
        raise TruncatedError("its last scans are missing")


def _progress(state: _State, body: bytes) -> None:
    """Note which bits a scan adds; it must go on where earlier ones ended (T.81, G.1.1.1)."""
    low, high, bits = body[-3:]
    if state.frame != _PROGRESSIVE:  # old encoders write anything here
        low, high, bits = 0, 63, 0
    for name in body[1 : 1 + 2 * body[0] : 2]:
        part = state.missing[name][low : high + 1]
        if any(one != (bits >> 4 or _NOTHING) for one in part):
            raise DamagedContainerError("its scans repeat each other, or one of them is missing")
        state.missing[name][low : high + 1] = [bits & 15] * len(part)


def _scan(state: _State, body: bytes, start: int, end: int) -> _Scan | None:
    """Return a scan, or None if its size or its tables are not in the file."""
    chosen = [(body[at], body[at + 1]) for at in range(1, 1 + 2 * body[0], 2)]
    height, width = state.size
    if not (height and width and chosen) or any(name not in state.factors for name, _ in chosen):
        return None
    most = [max(factor[axis] for factor in state.factors.values()) for axis in (0, 1)]
    factors = [state.factors[name] for name, _ in chosen]
    if min(min(one) for one in factors) < 1:
        return None
    units = [_ratio(side, 8 * top) for side, top in zip((width, height), most, strict=True)]
    if len(factors) == 1:
        sides = zip((width, height), factors[0], most, strict=True)
        units = [_ratio(_ratio(side * factor, top), 8) for side, factor, top in sides]
        factors = [(1, 1)]
    progressive = state.frame == _PROGRESSIVE
    numbers = [(table >> 4, 16 | table & 15) for _, table in chosen]
    if not progressive and any(one not in state.tables for pair in numbers for one in pair):
        return None
    tables = [] if progressive else [(state.tables[a], state.tables[b]) for a, b in numbers]
    return _Scan(
        start=start,
        end=end,
        components=factors,
        tables=tables,
        across=units[0],
        down=units[1],
        interval=state.interval,
        progressive=progressive,
    )


def _ratio(above: int, below: int) -> int:
    return -(-above // below)


def _tables(body: bytes) -> dict[int, Table]:
    """Return the Huffman tables of a segment; the number of one for AC has 16 added."""
    found, at = {}, 0
    while at + 17 <= len(body):
        counts = body[at + 1 : at + 17]
        codes: list[str] = []
        value = 0
        for length, count in enumerate(counts, 1):
            codes += [f"{value + n:0{length}b}" for n in range(count)]
            value = (value + count) << 1
        symbols = body[at + 17 : at + 17 + len(codes)]
        if symbols:
            found[body[at] & 31] = codes, symbols
        at += 17 + len(codes)
    return found


def _code(table: Table, symbol: int) -> str:
    """Return the code of a symbol; empty if there is none."""
    at = table[1].find(symbol)
    return table[0][at] if at >= 0 else ""

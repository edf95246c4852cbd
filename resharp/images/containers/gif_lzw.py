"""LZW of GIF: the codes of a truncated image, and codes for its missing pixels."""

from __future__ import annotations

_MOST_BITS = 12


def filled(packed: bytes, least: int, row: int, rows: int, *, all_rows: bool) -> tuple[bytes, int]:
    """Return LZW data that completes this data to whole rows with pixels of color 0.

    Args:
        packed: LZW data; it ends at the first damaged code.
        least: bits per color.
        row: pixels per row.
        rows: rows of the image.
        all_rows: fill up to the last row, and not only the row in which the data ends.

    Returns:
        The data, and how many pixels the given data holds.
    """
    bits, width, pixels = _measure(packed, least, row * rows)
    total = row * rows if all_rows else -(-pixels // row) * row
    value = int.from_bytes(packed[: -(-bits // 8)], "little") & ((1 << bits) - 1)
    clear = 1 << least
    codes = [(clear, width)]
    width, following, first = least + 1, clear + 2, True
    left, run = total - pixels, 1
    while left:
        length = min(run, left)
        # Every code adds an entry that is one color longer; the newest may be used at once.
        codes.append((0 if length == 1 else clear + length, width))
        left -= length
        if not first:
            following += 1
            if following == 1 << width and width < _MOST_BITS:
                width += 1
        first, run = False, run + 1
        if following == (1 << _MOST_BITS) - 1 and left:
            codes.append((clear, width))
            width, following, first, run = least + 1, clear + 2, True, 1
    codes.append((clear + 1, width))
    # The first code is in the lowest bits. Text takes linear time, unlike shifts of a large number.
    tail = "".join(f"{code:0{count}b}" for code, count in reversed(codes))
    whole = value | int(tail, 2) << bits
    return whole.to_bytes(-(-(bits + len(tail)) // 8), "little"), pixels


def _measure(packed: bytes, least: int, total: int) -> tuple[int, int, int]:
    """Return the bits of all whole codes, the width of the next code, and their pixels."""
    clear = 1 << least
    width, at, held, have = least + 1, 0, 0, 0
    lengths: list[int] = []
    before, pixels, used = 0, 0, 0
    while pixels < total:
        while have < width and at < len(packed):
            held |= packed[at] << have
            have, at = have + 8, at + 1
        if have < width:
            break
        code = held & ((1 << width) - 1)
        if code == clear:
            lengths, before, length = [], 0, 0
            held, have, used = held >> width, have - width, used + width
            width = least + 1
            continue
        known = len(lengths) + clear + 2
        if code < clear:
            length = 1
        elif clear + 2 <= code < known:
            length = lengths[code - clear - 2]
        elif code == known and before and known < 1 << _MOST_BITS:
            length = before + 1
        else:
            break
        if pixels + length > total:
            break
        held, have, used = held >> width, have - width, used + width
        if before and known < 1 << _MOST_BITS:
            lengths.append(before + 1)
            if known + 1 == 1 << width and width < _MOST_BITS:
                width += 1
        before, pixels = length, pixels + length
    return used, width, pixels

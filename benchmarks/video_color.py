"""``python -m benchmarks.video_color``: colour on the way from video to BGR, and back."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common import Image, json_option, report
from resharp.video.color import FULL, LIMITED, Color, Converter, pixel_format
from resharp.video.pyav import pyav

SIDE = 16
"""Of a patch, in pixels; only its middle is looked at, where chroma is flat too."""
MATRICES = {
    1: ("BT.709", 0.2126, 0.0722),
    6: ("BT.601", 0.299, 0.114),
    9: ("BT.2020", 0.2627, 0.0593),
}
"""Name, and the weights of red and blue in luma, by the matrix's code."""
RANGES = {LIMITED: "limited", FULL: "full"}
FORMATS = ("yuv420p", "yuv420p10le")
LIMIT = 1.5
"""Levels of 255 by which ours may be off: what rounding allows in a sum of three products."""


@click.command()
@click.option("--patches", default=4096, show_default=True, help="Random colours; a square.")
@click.option("--seed", default=0, show_default=True)
@json_option
def main(patches: int, seed: int, json_file: Path | None) -> None:
    """Compare libswscale's default flags and resharp's with the standards' own formulas."""
    count = round(patches**0.5)
    colors = np.random.default_rng(seed).integers(0, 256, (count, count, 3)).astype(np.uint8)
    rows: list[tuple[Any, ...]] = []
    for name, matrix, span in product(FORMATS, MATRICES, RANGES):
        color = Color(span, matrix)
        for way, errors in _errors(colors, name, color):
            cells = [figure for error in errors for figure in _figures(error)]
            assert cells[2] <= LIMIT, f"{name}, {MATRICES[matrix][0]}, {way}: ours is {cells[2]}"
            rows.append((name, MATRICES[matrix][0], RANGES[span], way, *cells))
    summary = {
        "default flags, largest error": max(row[4] for row in rows),
        "default flags, darkest bias": min(row[5] for row in rows),
        "resharp, largest error": max(row[6] for row in rows),
        "resharp, largest bias": max(abs(row[7]) for row in rows),
        "patches": count * count,
        "libswscale": ".".join(map(str, pyav().library_versions["libswscale"])),
    }
    columns = (
        "format", "matrix", "range", "way",
        "default: max error", "default: bias", "resharp: max error", "resharp: bias",
    )  # fmt: skip
    report("Colour of flat patches, in levels of 255", columns, rows, summary, json_file)


def _errors(colors: Image, name: str, color: Color) -> Iterator[tuple[str, tuple[Image, Image]]]:
    """What comes out less what should, for the default flags and ours, in levels of 255."""
    form, ours = pixel_format(name), Converter()
    deep, white = form.depth > 8, 257 if form.depth > 8 else 1
    planes = to_yuv(colors, color, form.depth)
    wanted = to_bgr(planes, color, form.depth)
    frame = _frame(planes, name, color)
    plain = _plain(frame, form.array, color, color.range, FULL).to_ndarray()
    bgr = [plain, ours.to_array(frame, form, color)]
    read = tuple(_middles(one / white) - wanted for one in bgr)
    yield "to BGR", (read[0], read[1])

    picture = _spread(colors).astype(np.uint16) * 257 if deep else _spread(colors)
    packed = pyav().VideoFrame.from_ndarray(picture, format=form.array)
    made = [_plain(packed, name, color, FULL, color.range), ours.to_frame(picture, form, color)]
    unit = 1 << (form.depth - 8)
    exact = to_yuv(colors, color, form.depth, rounded=False)[:, :, 0]
    luma = tuple((_middles(_luma(one, deep)) - exact) / unit for one in made)
    yield "to luma", (luma[0], luma[1])

    given = [pyav().VideoFrame.from_ndarray(one, format=form.array) for one in bgr]
    again = [_plain(given[0], name, color, FULL, color.range), ours.to_frame(bgr[1], form, color)]
    back = tuple((_middles(_luma(one, deep)) - planes[:, :, 0]) / unit for one in again)
    yield "luma, there and back", (back[0], back[1])


def to_yuv(colors: Image, color: Color, depth: int, *, rounded: bool = True) -> Image:
    """Y, Cb and Cr of BGR levels by the book, ``[h, w, 3]``."""
    _, kr, kb = MATRICES[color.matrix]
    blue, green, red = (colors[:, :, i] / 255 for i in range(3))
    y = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - y) / (2 * (1 - kb)), (red - y) / (2 * (1 - kr))
    top, unit = (1 << depth) - 1, 1 << (depth - 8)
    if color.range == FULL:
        planes = [y * top, cb * top + 128 * unit, cr * top + 128 * unit]
    else:
        planes = [(y * 219 + 16) * unit, (cb * 224 + 128) * unit, (cr * 224 + 128) * unit]
    stacked = np.stack(planes, axis=2)
    return np.clip(np.rint(stacked), 0, top) if rounded else stacked


def to_bgr(planes: Image, color: Color, depth: int) -> Image:
    """The way back, not rounded, in levels of 255."""
    _, kr, kb = MATRICES[color.matrix]
    top, unit = (1 << depth) - 1, 1 << (depth - 8)
    y, cb, cr = (planes[:, :, i] for i in range(3))
    if color.range == FULL:
        y, cb, cr = y / top, (cb - 128 * unit) / top, (cr - 128 * unit) / top
    else:
        y, cb, cr = ((y / unit - 16) / 219, (cb / unit - 128) / 224, (cr / unit - 128) / 224)
    red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(np.stack([blue, green, red], axis=2), 0, 1) * 255


def _plain(frame: Any, name: str, color: Color, source: int, target: int) -> Any:
    """As PyAV converts where nobody says how: libswscale's default flags."""
    return frame.reformat(
        format=name,
        src_colorspace=color.matrix,
        dst_colorspace=color.matrix,
        src_color_range=source,
        dst_color_range=target,
    )


def _spread(colors: Image) -> Image:
    return np.repeat(np.repeat(colors, SIDE, axis=0), SIDE, axis=1)


def _frame(planes: Image, name: str, color: Color) -> Any:
    dtype: Any = np.uint16 if name.endswith("le") else np.uint8
    whole = _spread(planes).astype(dtype)
    frame = pyav().VideoFrame(whole.shape[1], whole.shape[0], name)
    for index, plane in enumerate(frame.planes):
        values = whole[:, :, index] if index == 0 else whole[::2, ::2, index]
        row = plane.line_size // np.dtype(dtype).itemsize
        np.frombuffer(plane, dtype).reshape(-1, row)[:, : values.shape[1]] = values
    frame.colorspace, frame.color_range = color.matrix, color.range
    return frame


def _luma(frame: Any, deep: bool) -> Image:
    plane, dtype = frame.planes[0], np.dtype(np.uint16 if deep else np.uint8)
    values = np.frombuffer(plane, dtype).reshape(-1, plane.line_size // dtype.itemsize)
    return values[: frame.height, : frame.width]


def _middles(image: Image) -> Image:
    return np.asarray(image[SIDE // 2 :: SIDE, SIDE // 2 :: SIDE], np.float64)


def _figures(error: Image) -> tuple[float, float]:
    """Largest error, and the mean with its sign: below zero is darker."""
    return round(float(np.abs(error).max()), 3), round(float(error.mean()), 3)


if __name__ == "__main__":
    main()

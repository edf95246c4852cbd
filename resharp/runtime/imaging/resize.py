"""Lanczos-3 resizing, whole or band by band, with antialiasing when an image shrinks.

The kernel widens with the shrink factor, weights are normalized, and a window that exceeds the
edge is cut off there and normalized again: the filter of Pillow's ``LANCZOS`` (Duchon 1979 for the
kernel). OpenCV's ``INTER_LANCZOS4`` always reads 8 pixels and aliases. Channels are filtered
independently: pass the colors of a transparent image through `alpha.bleed` first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from resharp.errors import ImageError, OptionError
from resharp.types import Array

_RADIUS = 3
_BLOCK = 32
"""Outputs per matrix product: fewer underuse BLAS, more multiply zeros."""

_BAND_BYTES = 8 << 20
_TOP = {"uint8": 255, "uint16": 65_535, "float32": 1}


def resize(image: Array, height: int, width: int) -> Array:
    """Resize [h,w] or [h,w,c] of uint8, uint16 or float32 to height x width; the dtype is kept.

    float32 is clipped to 0..1 and NaN becomes 0, except that an image that already has the size is
    returned as an equal copy. Raises OptionError for a side below 1, ImageError for other arrays.
    """
    if image.ndim not in (2, 3) or not image.size:
        raise ImageError(f"an image must be [h, w] or [h, w, c], got shape {image.shape}")
    resizer = RowResizer(image.shape[0], image.shape[1], height, width)
    out = np.empty((height, width, *image.shape[2:]), image.dtype)
    step = resizer.band_rows(image)
    done = 0
    for at in range(0, len(image), step):
        rows = resizer.push(image[at : at + step])
        out[done : done + len(rows)] = rows
        done += len(rows)
    return out


class RowResizer:
    """Resizes an image that arrives in bands of rows, holding no more rows than the kernel needs.

    For one image and one thread. The result does not depend on how the rows are split, up to the
    rounding of float32 sums.
    """

    def __init__(self, in_height: int, in_width: int, out_height: int, out_width: int) -> None:
        if min(in_height, in_width, out_height, out_width) < 1:
            raise OptionError(
                f"cannot resize {in_width}x{in_height} to {out_width}x{out_height}: "
                "every side must be at least one pixel"
            )
        self._columns = _Axis(in_width, out_width)
        self._rows = _Axis(in_height, out_height)
        self._seen = 0
        self._done = 0
        self._window: Array | None = None  # float32 [rows, c, out_width]: the source rows in use
        self._window_at = 0
        self._pivot: Array = np.zeros(1, np.float32)
        self._like: tuple[np.dtype[Any], tuple[int, ...]] | None = None

    def push(self, rows: Array) -> Array:
        """Take the next rows [n,w] or [n,w,c] of the source and return the rows that are complete.

        The result is [m,out_width(,c)] of the same dtype, with m >= 0; the push of the last source
        rows returns all that remain. Raises ImageError for rows that do not continue the image.
        """
        self._admit(rows)
        if self._columns.same and self._rows.same:
            self._seen += len(rows)
            return np.array(rows)
        done = [np.empty((0, self._columns.outputs, *rows.shape[2:]), rows.dtype)]
        step = self.band_rows(rows)
        for at in range(0, len(rows), step):
            band = rows[at : at + step]
            self._seen += len(band)
            self._keep(self._across(band))
            done.extend(self._down())
        return np.concatenate(done) if len(done) != 2 else done[1]

    def band_rows(self, rows: Array) -> int:
        """Return how many rows like these to push at a time, so that float copies stay small."""
        channels = rows.shape[2] if rows.ndim == 3 else 1
        bytes_per_row = 4 * channels * max(self._columns.inputs, self._columns.outputs)
        return max(_BAND_BYTES // bytes_per_row, 8)

    def _admit(self, rows: Array) -> None:
        like = (rows.dtype, rows.shape[1:])
        if rows.ndim not in (2, 3) or rows.dtype.name not in _TOP:
            raise ImageError(f"rows of {rows.dtype} and shape {rows.shape} are not an image")
        if rows.shape[1] != self._columns.inputs or (self._like or like) != like:
            raise ImageError(
                f"rows of {rows.dtype} and shape {rows.shape} do not continue an image that is "
                f"{self._columns.inputs} pixels wide"
            )
        if self._seen + len(rows) > self._rows.inputs:
            raise ImageError(f"more rows than the image's height of {self._rows.inputs}")
        self._like = like
        if not self._seen and len(rows):
            # Sum differences to the first pixel, so that a flat image stays exactly flat although
            # the float32 weights do not sum to exactly 1.
            self._pivot = _finite(np.array(rows[0, 0], np.float32).reshape(-1))

    def _across(self, band: Array) -> Array:
        """Resize horizontally: [n,w(,c)] -> float32 [n, c, out_width], minus the pivot.

        One plane at a time: BLAS reads slices of a plane in place, but not interleaved pixels.
        """
        planes = band[..., None] if band.ndim == 2 else band
        out = np.empty((len(band), planes.shape[2], self._columns.outputs), np.float32)
        for channel, pivot in enumerate(self._pivot):
            plane = planes[..., channel].astype(np.float32)
            plane = _finite(plane) if band.dtype.kind == "f" else plane
            plane -= pivot
            if self._columns.same:
                out[:, channel] = plane
                continue
            for at in range(0, self._columns.outputs, _BLOCK):
                begin, end, weights = self._columns.block(at, at + _BLOCK)
                out[:, channel, at : at + _BLOCK] = plane[:, begin:end] @ weights.T
        return out

    def _keep(self, band: Array) -> None:
        """Append resized rows to the window and drop those that no further output reads."""
        if self._window is None:
            self._window = band
            return
        unused = min(self._rows.begin(self._done) - self._window_at, len(self._window))
        self._window = np.concatenate((self._window[unused:], band))
        self._window_at += unused

    def _down(self) -> list[Array]:
        """Resize vertically: return all outputs whose window has been seen."""
        assert self._window is not None
        finished = []
        ready = self._rows.complete(self._seen)
        while self._done < ready:
            stop = min(self._done + _BLOCK, ready)
            begin, end, weights = self._rows.block(self._done, stop)
            part = self._window[begin - self._window_at : end - self._window_at]
            if not self._rows.same:
                part = (weights @ part.reshape(len(part), -1)).reshape(-1, *part.shape[1:])
            finished.append(self._rounded(part))
            self._done = stop
        return finished

    def _rounded(self, values: Array) -> Array:
        """Convert float32 [n, c, out_width] minus the pivot to rows like those of the source."""
        assert self._like is not None
        dtype, shape = self._like
        values = values + self._pivot[:, None]
        if dtype.kind != "f":
            np.rint(values, out=values)
        np.clip(values, 0, _TOP[dtype.name], out=values)
        rows = values.astype(dtype).swapaxes(1, 2)
        return np.ascontiguousarray(rows).reshape(len(rows), self._columns.outputs, *shape[1:])


def _finite(values: Array) -> Array:
    """Replace NaN by 0 in place: even with a weight of 0 it would spoil a whole block."""
    return np.nan_to_num(values, copy=False, nan=0, posinf=1, neginf=0)


class _Axis:
    """The weights of one direction, in blocks of consecutive outputs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.inputs, self.outputs = inputs, outputs
        self.same = inputs == outputs
        self._step = inputs / outputs
        self._stretch = max(self._step, 1.0)
        self._blocks: dict[tuple[int, int], tuple[int, int, Array]] = {}

    def _centre(self, output: int) -> float:
        return (output + 0.5) * self._step

    def begin(self, output: int) -> int:
        """Return the first input that an output reads."""
        if self.same:
            return output
        return max(int(np.floor(self._centre(output) - _RADIUS * self._stretch)), 0)

    def end(self, output: int) -> int:
        """Return one past the last input that an output reads."""
        if self.same:
            return output + 1
        reach = int(np.ceil(self._centre(output) + _RADIUS * self._stretch))
        return min(reach, self.inputs)

    def complete(self, seen: int) -> int:
        """Return how many outputs, from the first, read only the first `seen` inputs."""
        guess = int((seen - _RADIUS * self._stretch) / self._step - 0.5) - 2
        count = min(max(guess, 0), self.outputs)
        while count < self.outputs and self.end(count) <= seen:
            count += 1
        return count

    def block(self, first: int, stop: int) -> tuple[int, int, Array]:
        """Return inputs [begin, end) and float32 weights [outputs, inputs] for [first, stop)."""
        stop = min(stop, self.outputs)
        begin, end = self.begin(first), self.end(stop - 1)
        if self.same:
            return begin, end, np.empty((0, 0), np.float32)
        key = (first, stop)
        if key not in self._blocks:
            centres = (np.arange(first, stop) + 0.5) * self._step
            offsets = (np.arange(begin, end) + 0.5 - centres[:, None]) / self._stretch
            weights = np.where(
                np.abs(offsets) < _RADIUS, np.sinc(offsets) * np.sinc(offsets / _RADIUS), 0
            )
            weights /= weights.sum(axis=1, keepdims=True)
            self._blocks[key] = (begin, end, weights.astype(np.float32))
        return self._blocks[key]

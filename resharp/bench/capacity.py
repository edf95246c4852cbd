"""Capacity planning: the largest tile, speed and images per hour for a given amount of memory.

The memory of a case is modeled as a fixed part plus a part per pixel that the network processes at
once; both are fitted to the records by least squares.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resharp.bench.records import Record, group_by
from resharp.checks import shown
from resharp.errors import OptionError

STEP = 32
LEAST_RISE = 32 << 20
"""Minimum spread of the peaks, in bytes, for a fit; smaller differences are noise."""
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@dataclass(frozen=True, kw_only=True)
class MemoryLine:
    """Linear model of memory: bytes as a function of the pixels processed at once."""

    fixed: float
    """Bytes used regardless of the tile: libraries, weights, contexts."""
    per_pixel: float
    """Bytes per input pixel, over all tiles processed at once."""

    def at(self, pixels: float) -> float:
        """Return the bytes needed for a number of pixels."""
        return self.fixed + self.per_pixel * pixels

    def largest_tile(self, memory: int, at_once: int) -> int | None:
        """Return the side of the largest square tile of which ``at_once`` fit; None if none fit."""
        room = (memory - self.fixed) / self.per_pixel / at_once
        side = int(math.sqrt(room)) // STEP * STEP if room > 0 else 0
        return side or None


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Capacity of one backend with a given amount of memory."""

    model: str
    subject: str
    threads: int | None
    """Requested CPU threads; None: the library's default."""
    memory: int
    """Available memory, in bytes."""
    on_gpu: bool
    """Whether ``memory`` is GPU memory rather than host memory."""
    line: MemoryLine | None
    """Fitted memory model; None if it could not be fitted, e.g. from a single tile size."""
    largest_tile: int | None
    """Side of the largest tile that fits, in pixels; None: unknown, or nothing fits."""
    best: Record | None
    """The fastest measured case that fits; None if none fits."""
    needed: int
    """Smallest measured peak, in bytes."""

    @property
    def megapixels(self) -> float | None:
        """Expected input megapixels per second."""
        return self.best.megapixels if self.best else None

    def per_hour(self, height: int, width: int) -> float | None:
        """Return the expected images per hour at that size, excluding reading and writing."""
        rate = self.megapixels
        return None if rate is None else rate * 3600 / (height * width / 1e6)


def parse_memory(text: str) -> int:
    """Parse a memory size: ``8GB`` (10**9), ``8GiB`` (2**30), ``500M`` or a number of bytes.

    Raises:
        OptionError: the text is not a size, or is less than one byte.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    if not found or (found[3] and not found[2]):
        raise OptionError(
            f"`memory` must be a size such as 8GB, 7.5GiB or 500MB, got {shown(text)}"
        )
    size = float(found[1]) * (_BINARY if found[3] else _UNITS)[found[2]]
    if size < 1:
        raise OptionError(f"`memory` must be at least 1 byte, e.g. 8GB, got {shown(text)}")
    return int(size)


def capacities(records: Sequence[Record], model: str, memory: int) -> tuple[Capacity, ...]:
    """Return the capacity of each of resharp's subjects with that memory, fastest first.

    Raises:
        OptionError: the records have no memory figures for the model.
    """
    measured = [
        record
        for record in records
        if record.case.model == model and not record.case.is_baseline and record.peak_memory
    ]
    if not measured:
        known = ", ".join(sorted({record.case.model for record in records})) or "nothing"
        raise OptionError(
            f"the records have no memory figures for {model} (models in them: {known}): "
            f"run 'resharp bench run' with `models`={shown(model)}"
        )
    found = []
    for group in group_by(
        measured, lambda one: (one.case.subject, one.case.precision, one.case.threads)
    ).values():
        # Use only the image size with the most cases, since the image itself takes memory too.
        sizes = group_by(group, lambda one: (one.case.height, one.case.width))
        found.append(_capacity(max(sizes.values(), key=len), memory))
    return tuple(sorted(found, key=lambda one: -(one.megapixels or 0.0)))


def fit(records: Sequence[Record]) -> MemoryLine | None:
    """Fit a line to the memory peaks of one subject.

    Returns:
        The line; None if fewer than two sizes were measured or their peaks differ only by noise.
    """
    points = [
        (record.actual.pixels * (record.actual.lanes or 1), found)
        for record in records
        if record.actual is not None and record.actual.pixels and (found := record.peak_memory)
    ]
    if len({pixels for pixels, _ in points}) < 2:
        return None
    pixels, peaks = np.array(points, np.float64).T
    if peaks.max() - peaks.min() < LEAST_RISE:
        return None
    slope, fixed = np.polyfit(pixels, peaks, 1)
    return MemoryLine(fixed=float(fixed), per_pixel=float(slope)) if slope > 0 else None


def _capacity(group: Sequence[Record], memory: int) -> Capacity:
    fitting = [record for record in group if (record.peak_memory or 0) <= memory]
    best = max(fitting, key=lambda record: record.megapixels or 0.0, default=None)
    actual = best.actual if best is not None else None
    at_once = (actual.lanes or 1) * (actual.batch or 1) if actual is not None else 1
    line, case = fit(group), group[0].case
    return Capacity(
        model=case.model,
        subject=case.subject,
        threads=case.threads,
        memory=memory,
        on_gpu=group[0].on_gpu,
        line=line,
        largest_tile=None if line is None else line.largest_tile(memory, at_once),
        best=best,
        needed=min(record.peak_memory or 0 for record in group),
    )

"""What a memory is enough for: the largest tile, the speed to expect, pictures in an hour.

The memory of a case is a part that is always there and a part for each pixel that the network works
on at once; both come from the records, by least squares.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resharp.bench.records import Record, group_by
from resharp.errors import OptionError

STEP = 32
LEAST_RISE = 32 << 20
"""Bytes between the least and the most peak that a line is drawn through."""
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@dataclass(frozen=True, kw_only=True)
class MemoryLine:
    """Bytes for so many pixels at once."""

    fixed: float
    """Bytes that are there for any tile: libraries, weights, contexts."""
    per_pixel: float
    """Bytes for each input pixel of all that is in work at once."""

    def at(self, pixels: float) -> float:
        """Bytes."""
        return self.fixed + self.per_pixel * pixels

    def largest_tile(self, memory: int, at_once: int) -> int | None:
        """Side of the largest square tile of which so many fit at once; None: none does."""
        room = (memory - self.fixed) / self.per_pixel / at_once
        side = int(math.sqrt(room)) // STEP * STEP if room > 0 else 0
        return side or None


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """The answer for one backend."""

    model: str
    subject: str
    threads: int | None
    """CPU threads that were asked for."""
    memory: int
    """Bytes that were asked about."""
    on_gpu: bool
    """Whether it is a GPU's memory; else the host's."""
    line: MemoryLine | None
    """None where one tile size alone was measured."""
    largest_tile: int | None
    """Side in pixels, as far as memory goes; None: not known, or nothing fits."""
    best: Record | None
    """The fastest measured case that fits; None: none does."""
    needed: int
    """Bytes of the least case that was measured."""

    @property
    def megapixels(self) -> float | None:
        """Input megapixels per second to expect."""
        return self.best.megapixels if self.best else None

    def per_hour(self, height: int, width: int) -> float | None:
        """Pictures of that size in an hour, reading and writing aside."""
        rate = self.megapixels
        return None if rate is None else rate * 3600 / (height * width / 1e6)


def parse_memory(text: str) -> int:
    """Bytes of ``8GB`` (10**9), ``8GiB`` (2**30), ``500M`` or a number of bytes.

    Raises:
        OptionError: it is none of these.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    if not found or (found[3] and not found[2]):
        raise OptionError(f"memory {text!r} is not a size: 8GB, 7.5GiB or 500MB, say")
    size = float(found[1]) * (_BINARY if found[3] else _UNITS)[found[2]]
    if size < 1:
        raise OptionError(f"memory {text!r} is nothing: 8GB, say")
    return int(size)


def capacities(records: Sequence[Record], model: str, memory: int) -> tuple[Capacity, ...]:
    """What each subject of resharp can do with that memory, the fastest first.

    Raises:
        OptionError: nothing was measured of that model.
    """
    measured = [
        record
        for record in records
        if record.case.model == model and not record.case.is_baseline and record.peak_memory
    ]
    if not measured:
        known = ", ".join(sorted({record.case.model for record in records})) or "nothing"
        raise OptionError(
            f"the records hold no memory figures of {model} (they hold {known}): "
            f"resharp bench run --models {model}"
        )
    found = []
    for group in group_by(
        measured, lambda one: (one.case.subject, one.case.precision, one.case.threads)
    ).values():
        # One size of picture, that with the most cases: a picture takes memory of its own.
        sizes = group_by(group, lambda one: (one.case.height, one.case.width))
        found.append(_capacity(max(sizes.values(), key=len), memory))
    return tuple(sorted(found, key=lambda one: -(one.megapixels or 0.0)))


def fit(records: Sequence[Record]) -> MemoryLine | None:
    """The line through the peaks of one subject; None where fewer than two sizes were measured, or
    where they differ by too little to say more than noise."""
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

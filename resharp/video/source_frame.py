"""A picture of the input, and how a run finds its place again."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from resharp.types import Image


class ResumePoint(NamedTuple):
    """A picture of the input that a run can go on after."""

    pts: int
    """Its timestamp, in ticks of the clip."""
    crc: int
    """CRC-32 of its pixels."""


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """A picture of the input."""

    pts: int
    """When it is shown, in ticks of the clip."""
    duration: int
    """How long, in ticks; 0 where nothing tells."""
    image: Image
    """BGR or BGRA ``[h, w, c]``, uint8 or uint16."""

    def mark(self) -> ResumePoint:
        """To go on after it."""
        return ResumePoint(self.pts, zlib.crc32(np.ascontiguousarray(self.image).data))

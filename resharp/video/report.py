"""How far a video is, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from resharp.pipeline.staged_pipeline import StageReport


@dataclass(frozen=True, kw_only=True)
class VideoReport:
    """What became of a video."""

    target: Path
    """Where the result is; another than asked where the container could not carry it."""
    frames: int
    """Of the result."""
    restored: int
    """That went through the network in this run."""
    repeated: int
    """Of the result, that show the picture before them again."""
    resumed_at: int
    """Frames that earlier runs had finished."""
    width: int
    height: int
    seconds: float
    skipped: bool = False
    """Whether the result was there already, and nothing was done."""
    description: str = ""
    """Models, backends and devices."""
    stages: tuple[StageReport, ...] = ()
    notes: tuple[str, ...] = field(default=())
    """What the user should know."""

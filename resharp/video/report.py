"""The report on a restored video."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from resharp.pipeline.staged_pipeline import StageReport


@dataclass(frozen=True, kw_only=True)
class VideoReport:
    """The outcome of restoring a video."""

    target: Path
    """Path of the result; not the requested one if its container cannot hold the streams."""
    frames: int
    """Frames in the result."""
    restored: int
    """Frames that went through the model in this run."""
    repeated: int
    """Frames in the result that repeat the one before them."""
    resumed_at: int
    """Frames that earlier runs had already finished."""
    width: int
    """Width of the result in pixels."""
    height: int
    """Height of the result in pixels."""
    seconds: float
    """Duration of this run, without opening the models."""
    skipped: bool = False
    """Whether the result already existed, so that nothing was done."""
    description: str = ""
    """Models, backends and devices that were used."""
    stages: tuple[StageReport, ...] = ()
    """Working and waiting times of each stage; empty on a cluster."""
    notes: tuple[str, ...] = field(default=())
    """Notes for the user, e.g. about what is not kept."""

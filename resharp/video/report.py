"""How far a video is, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from resharp.pipeline.staged_pipeline import StageReport


@dataclass(frozen=True, kw_only=True)
class VideoProgress:
    """How far a video is."""

    done: int
    """Frames that are written, those of earlier runs included."""
    total: int
    """Frames in all; an estimate, 0 where nothing tells."""
    began_at: int
    """Frames that earlier runs have finished."""
    seconds: float
    """Since this run began to work."""
    stages: tuple[StageReport, ...]

    @property
    def rate(self) -> float:
        """Frames per second of this run."""
        return (self.done - self.began_at) / max(self.seconds, 1e-9)

    @property
    def left(self) -> float | None:
        """Seconds left; None where that cannot be told yet."""
        if self.total < self.done or self.done == self.began_at:
            return None
        return (self.total - self.done) / self.rate


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

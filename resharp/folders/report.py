"""What became of pictures, and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from resharp.pipeline.restorer import ModelUse, Restorer
from resharp.pipeline.staged_pipeline import StageReport


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one picture."""

    input: str
    output: str
    status: str
    """``restored``, ``skipped`` or ``failed``."""
    seconds: float = 0.0
    """From the first byte read to the last one written, waiting included."""
    width: int = 0
    """Of the result, in pixels."""
    height: int = 0
    faces: int | None = None
    """How many were restored; None where no faces are."""
    redone: bool = False
    """It was there, made of other contents, with another model or other options."""
    elsewhere: bool = False
    """Skipped because another run on the same folder did it meanwhile."""
    notes: tuple[str, ...] = ()
    """What the format of the result could not carry, and why a result was left alone."""
    error: str = ""


Used = tuple[ModelUse | None, ModelUse | None]
"""The upscaler and the face network that were at work."""


def used_by(restorers: Sequence[Restorer]) -> Used:
    """What restorers of one config restore with, on which devices."""
    infos = [one.info for one in restorers]
    return _joined([one.upscaler for one in infos]), _joined([one.face for one in infos])


def _joined(alike: Sequence[ModelUse | None]) -> ModelUse | None:
    uses = [one for one in alike if one is not None]
    if not uses:
        return None
    return replace(uses[0], device=", ".join(dict.fromkeys(one.device for one in uses)))


@dataclass(frozen=True, kw_only=True)
class FolderReport:
    """What a run did."""

    results: tuple[Result, ...]
    """In the order of the inputs; while watching, in that of time."""
    upscaler: ModelUse | None
    """None if nothing was to be done, or pictures are aligned faces."""
    face: ModelUse | None
    seconds: float
    """From the first picture to the last, without opening the model."""
    stages: tuple[StageReport, ...]
    """Of the pipeline, the source first; empty if nothing was to be done."""

    def count(self, status: str) -> int:
        """Results of that status."""
        return sum(result.status == status for result in self.results)

    @property
    def failed(self) -> bool:
        """Whether any picture failed."""
        return self.count("failed") > 0

    @property
    def pictures_per_second(self) -> float:
        """Restored ones."""
        return self.count("restored") / self.seconds if self.seconds else 0.0

    @property
    def megapixels_per_second(self) -> float:
        """Of results."""
        pixels = sum(one.width * one.height for one in self.results if one.status == "restored")
        return pixels / 1e6 / self.seconds if self.seconds else 0.0

    def waiting(self) -> dict[str, float]:
        """For each stage, the source aside, the share of its threads' time that it waited."""
        return {
            stage.name: min((stage.starved + stage.blocked) / (stage.threads * self.seconds), 1.0)
            for stage in self.stages[1:]
            if self.seconds
        }

    def summary(self) -> str:
        """One line for people."""
        text = ", ".join(filter(None, map(self._counted, ("restored", "skipped", "failed"))))
        text = text or "nothing to restore"
        if self.upscaler is not None:
            text += f" with {self.upscaler}"
        if self.face is not None:
            count = sum(result.faces or 0 for result in self.results)
            text += f", {count} face{'' if count == 1 else 's'} with {self.face}"
        restored = [result for result in self.results if result.status == "restored"]
        if len(restored) == 1:
            text += f": {restored[0].output} ({restored[0].width}x{restored[0].height})"
        return text + (self._speed() if restored else "")

    def _counted(self, status: str) -> str:
        count = self.count(status)
        text = f"{count} {status}" if count else ""
        redone = sum(result.redone for result in self.results)
        if status == "restored" and redone:
            text += f" ({redone} redone: input, model or options changed)"
        if status == "skipped" and count:
            elsewhere = sum(result.elsewhere for result in self.results)
            beside = f", {elsewhere} of them by another run just now" if elsewhere else ""
            text += f" (done before{beside}; --overwrite redoes them)"
        return text

    def _speed(self) -> str:
        waiting = ", ".join(f"{name} {share:.0%}" for name, share in self.waiting().items())
        return (
            f"; {self.pictures_per_second:.3g} pictures/s, {self.megapixels_per_second:.3g} MP/s "
            f"out, waiting: {waiting.replace('%', ' %')}"
        )

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "model": self.upscaler and self.upscaler.model,
            "backend": self.upscaler and self.upscaler.backend,
            "device": self.upscaler and self.upscaler.device,
            "face": self.face and asdict(self.face),
            "results": [asdict(result) for result in self.results],
            "speed": {
                "seconds": round(self.seconds, 3),
                "pictures_per_second": round(self.pictures_per_second, 4),
                "megapixels_per_second": round(self.megapixels_per_second, 4),
            },
            "stages": [
                {"waiting": round(self.waiting().get(stage.name, 0.0), 4), **asdict(stage)}
                for stage in self.stages
            ],
        }

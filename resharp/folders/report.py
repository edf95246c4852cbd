"""Results and speed of a run over folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from resharp.pipeline.restorer import ModelUse, Restorer
from resharp.pipeline.staged_pipeline import StageReport


@dataclass(frozen=True, kw_only=True)
class Result:
    """The outcome for one image."""

    input: str
    """Path of the input."""
    output: str
    """Path of the result, whether it was written or not."""
    status: str
    """``restored``, ``skipped`` or ``failed``."""
    seconds: float = 0.0
    """Seconds from the start of reading to the end of writing, including waits."""
    width: int = 0
    """Width of the result in pixels; 0 if it was not restored."""
    height: int = 0
    """Height of the result in pixels; 0 if it was not restored."""
    faces: int | None = None
    """Number of restored faces; None without face restoration."""
    redone: bool = False
    """Whether it replaced a result made from a different input, model or options."""
    elsewhere: bool = False
    """Whether it was skipped because another run restored it in the meantime."""
    notes: tuple[str, ...] = ()
    """What the format of the result could not hold, and why an existing result was kept."""
    error: str = ""
    """Message of the error; empty if there was none."""
    code: str = ""
    """Stable code of the error, e.g. ``invalid-image``; empty if there was none."""


Used = tuple[ModelUse | None, ModelUse | None]
"""The upscaler and the face network in use, each None if unused."""


def used_by(restorers: Sequence[Restorer]) -> Used:
    """Return the models of restorers that share one config, with all their devices."""
    infos = [one.info for one in restorers]
    return _joined([one.upscaler for one in infos]), _joined([one.face for one in infos])


def _joined(alike: Sequence[ModelUse | None]) -> ModelUse | None:
    uses = [one for one in alike if one is not None]
    if not uses:
        return None
    return replace(uses[0], device=", ".join(dict.fromkeys(one.device for one in uses)))


@dataclass(frozen=True, kw_only=True)
class FolderReport:
    """Results, models and speed of a run."""

    results: tuple[Result, ...]
    """One per image, in the order of the inputs; while watching, in the order of arrival."""
    upscaler: ModelUse | None
    """None if nothing had to be restored, or the images are aligned faces."""
    face: ModelUse | None
    """None if nothing had to be restored, or without face restoration."""
    seconds: float
    """Seconds from the first image to the last, without opening the models."""
    stages: tuple[StageReport, ...]
    """Reports of the stages, the source first; empty if nothing had to be restored."""

    def count(self, status: str) -> int:
        """Return the number of results with that status."""
        return sum(result.status == status for result in self.results)

    @property
    def failed(self) -> bool:
        """Whether any image failed."""
        return self.count("failed") > 0

    @property
    def images_per_second(self) -> float:
        """Restored images per second."""
        return self.count("restored") / self.seconds if self.seconds else 0.0

    @property
    def megapixels_per_second(self) -> float:
        """Megapixels of restored results per second."""
        pixels = sum(one.width * one.height for one in self.results if one.status == "restored")
        return pixels / 1e6 / self.seconds if self.seconds else 0.0

    def waiting(self) -> dict[str, float]:
        """Return the fraction of each stage's thread time spent waiting, without the source."""
        return {
            stage.name: min((stage.starved + stage.blocked) / (stage.threads * self.seconds), 1.0)
            for stage in self.stages[1:]
            if self.seconds
        }

    def summary(self) -> str:
        """Return the report as one line of text."""
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
        return text + (self._speed() if len(restored) > 1 else "")

    def _counted(self, status: str) -> str:
        count = self.count(status)
        text = f"{count} {status}" if count else ""
        redone = sum(result.redone for result in self.results)
        if status == "restored" and redone:
            text += f" ({redone} redone: input, model or options changed)"
        if status == "skipped" and count:
            elsewhere = sum(result.elsewhere for result in self.results)
            others = f", {elsewhere} of them just now by another run" if elsewhere else ""
            them = "it" if count == 1 else "them"
            text += f" (already done{others}; use `overwrite` to redo {them})"
        return text

    def _speed(self) -> str:
        waiting = ", ".join(f"{name} {share:.0%}" for name, share in self.waiting().items())
        return (
            f"; {self.images_per_second:.3g} images/s, {self.megapixels_per_second:.3g} MP/s "
            f"out, waiting: {waiting}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a dictionary that JSON can hold."""
        return {
            "model": self.upscaler and self.upscaler.model,
            "backend": self.upscaler and self.upscaler.backend,
            "device": self.upscaler and self.upscaler.device,
            "face": self.face and asdict(self.face),
            "results": [asdict(result) for result in self.results],
            "speed": {
                "seconds": round(self.seconds, 3),
                "images_per_second": round(self.images_per_second, 4),
                "megapixels_per_second": round(self.megapixels_per_second, 4),
            },
            "stages": [
                {"waiting": round(self.waiting().get(stage.name, 0.0), 4), **asdict(stage)}
                for stage in self.stages
            ],
        }

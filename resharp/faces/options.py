"""What may be asked of the restoration of faces, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

from resharp.engines import Manifest
from resharp.errors import OptionError
from resharp.runtime.upscaler import LARGEST_SCALE
from resharp.types import Image, Progress

BATCH = 4
"""Faces per run of the network, unless told."""


class Background(Protocol):
    """What restores the rest of a picture: an ``Upscaler``, or an ensemble of them."""

    @property
    def scale(self) -> float:
        """Output size over input size."""

    def __call__(self, image: Image, *, progress: Progress | None = None) -> Image:
        """Restore one picture."""


@dataclass(frozen=True, kw_only=True)
class FaceOptions:
    """What a caller may ask of the restoration of faces."""

    fidelity: float = 0.5
    """CodeFormer: 0 is the most beautiful face, 1 the nearest to what is there. Networks without
    such an input ignore it."""
    weight: float = 1.0
    """Share of the restored face: 0 leaves the background, 1 takes the face."""
    only_center: bool = False
    """Restore only the face that is nearest to the middle of the picture."""
    aligned: bool = False
    """Pictures are aligned crops already: nothing is detected, upscaled or pasted."""
    batch: int = BATCH
    """Faces per run of the network, at most; all that is ever held of them."""

    def __post_init__(self) -> None:
        for name in ("fidelity", "weight"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value <= 1:
                raise OptionError(f"{name} {value!r} is not in 0..1")
        if type(self.batch) is not int or self.batch < 1:
            raise OptionError(f"batch is {self.batch!r}; it must be at least 1")
        if self.aligned and self.only_center:
            raise OptionError("an aligned crop has one face: only_center has no meaning there")


def check_scale(scale: Any, upscaler: Background | None) -> float:
    """The scale of a background without an upscaler."""
    if scale is None:
        return 1.0
    if upscaler is not None:
        raise OptionError("scale is the upscaler's: give it there")
    if not _is_number(scale) or not 0 < scale <= LARGEST_SCALE:
        raise OptionError(f"scale {scale!r} is not in 0..{LARGEST_SCALE:g}")
    return float(scale)


def refuse_anime(upscaler: Background | None) -> None:
    """Raise OptionError for an upscaler whose pictures have no faces of people."""
    for member in getattr(upscaler, "members", ()):
        refuse_anime(member)
    manifest = getattr(upscaler, "manifest", None)
    if isinstance(manifest, Manifest) and "anime" in f"{manifest.name} {manifest.title}".lower():
        raise OptionError(
            f"{manifest.name} is for anime, and face networks know photographs of people only: a "
            "drawn face would be replaced by a photographic one. Leave --face out, or take another "
            "model"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)

"""The answer that every container walker gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from resharp.images.picture import Metadata, Pixels


class DamagedContainerError(Exception):
    """The file is not whole; the message is the end of a sentence about it."""


class UnsupportedError(Exception):
    """OpenCV would read this variant wrongly; the message names the variant."""


@dataclass(frozen=True, kw_only=True)
class ContainerInfo:
    """What a container says about its picture."""

    metadata: Metadata = field(default_factory=Metadata)
    frames: int = 1
    """Pictures in the file: animation frames or pages, previews not counted."""

    orientation: int | None = None
    """1 to 8 where the container itself states it; None: the EXIF block decides."""

    decodable: bytes | None = None
    """The bytes to give to OpenCV, where it would misread the original ones."""

    finish: tuple[Callable[[Pixels], Pixels], ...] = ()
    """What is still to be done to the decoded pixels, in order."""

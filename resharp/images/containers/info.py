"""Result and errors shared by all container parsers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from resharp.images.picture import Metadata, Pixels


class DamagedContainerError(Exception):
    """An incomplete or inconsistent file; the message completes a sentence about it."""


class UnsupportedError(Exception):
    """A variant that OpenCV would read incorrectly; the message names the variant."""


@dataclass(frozen=True, kw_only=True)
class ContainerInfo:
    """Facts about an image that its container states."""

    metadata: Metadata = field(default_factory=Metadata)
    frames: int = 1
    """Number of images in the file: animation frames or pages, not counting previews."""

    orientation: int | None = None
    """EXIF orientation, 1 to 8, if the container itself states it; None: the EXIF block decides."""

    decodable: bytes | None = None
    """Bytes to pass to OpenCV if it would misread the original ones."""

    finish: tuple[Callable[[Pixels], Pixels], ...] = ()
    """Steps still to be applied to the decoded pixels, in order."""

"""The states of an image in a run: claimed, decoded, restored, encoded, or failed.

Each state is a class of its own, created by one stage and never changed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from resharp.errors import OutOfMemoryError, ResharpError
from resharp.folders.discovery import Job
from resharp.folders.output_state import Lease
from resharp.images import Header, Metadata, Picture
from resharp.outputs import FileStat


@dataclass(frozen=True, kw_only=True)
class ClaimedImage:
    """An image that this run, and no other, restores."""

    job: Job
    lease: Lease
    redone: bool
    """Whether a result exists, made from a different input, model or options."""
    replaces: bool = False
    """Whether a file exists at the target that may be replaced."""
    header: Header | None = None
    """Header of the input when it was claimed; None if it could not be read."""
    began: float = field(default_factory=time.monotonic)
    """Start of the work, as a ``time.monotonic`` value."""


@dataclass(frozen=True)
class InputFile:
    """Size, time and hash of the file that was read."""

    stat: FileStat
    """Its size and time before it was read."""
    sha256: str
    """Hash of its bytes."""


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """An image that has been read."""

    task: ClaimedImage
    input: InputFile
    picture: Picture


@dataclass(frozen=True, eq=False)
class RestoredImage:
    """An image that has been restored."""

    task: ClaimedImage
    input: InputFile
    pixels: NDArray[Any]
    metadata: Metadata
    """Metadata of the input."""
    faces: int | None
    """Number of restored faces; None without face restoration."""


@dataclass(frozen=True, kw_only=True)
class EncodedFile:
    """A result, encoded as a file."""

    data: bytes
    notes: tuple[str, ...]
    """Sentences about what the format could not hold, e.g. metadata."""
    height: int
    """Height in pixels."""
    width: int
    """Width in pixels."""
    faces: int | None
    """Same as :attr:`RestoredImage.faces`."""


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image that is ready to be written."""

    task: ClaimedImage
    input: InputFile
    file: EncodedFile


@dataclass(frozen=True)
class FailedImage:
    """An image that could not be restored, because of an error that the user can fix."""

    task: ClaimedImage
    error: str
    """Message of the error."""
    code: str
    """Stable code of the error, e.g. ``invalid-image``."""

    @classmethod
    def of(cls, task: ClaimedImage, error: ResharpError | MemoryError) -> FailedImage:
        """Create it from an error of resharp or from a lack of memory."""
        if isinstance(error, ResharpError):
            return cls(task, str(error), error.code)
        return cls(task, f"out of memory ({error}): use a smaller `scale`", OutOfMemoryError.code)

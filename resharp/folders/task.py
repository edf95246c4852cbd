"""One image on its way through a run: claimed, decoded, restored, encoded, or failed.

Each step is a value of its own that the stage before it makes, and nothing is filled in later.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from resharp.errors import ResharpError
from resharp.folders.discovery import Job
from resharp.folders.output_state import FileStat, Lease
from resharp.images import Metadata, Picture


@dataclass(frozen=True, kw_only=True)
class ClaimedImage:
    """An image that this run, and no other, is to restore."""

    job: Job
    lease: Lease | None
    """None where no journal is kept."""
    redone: bool
    """There is a result, made of other contents, with another model or other options."""
    began: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class InputFile:
    """What was read: how the file was before, and what its bytes were."""

    stat: FileStat
    sha256: str
    """Empty where no journal is kept."""


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """An image that was read."""

    task: ClaimedImage
    input: InputFile
    picture: Picture


@dataclass(frozen=True, eq=False)
class RestoredImage:
    """An image that went through the network."""

    task: ClaimedImage
    input: InputFile
    pixels: NDArray[Any]
    metadata: Metadata
    """Of the input."""
    faces: int | None
    """How many were restored; None where none were looked for."""


@dataclass(frozen=True, kw_only=True)
class EncodedFile:
    """A result as the bytes of its file."""

    data: bytes
    notes: tuple[str, ...]
    """What the format could not carry."""
    height: int
    """In pixels."""
    width: int
    faces: int | None
    """As of :class:`RestoredImage`."""


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image that has only to be written."""

    task: ClaimedImage
    input: InputFile
    file: EncodedFile


@dataclass(frozen=True)
class FailedImage:
    """An image that was given up, for a reason that people can do something about."""

    task: ClaimedImage
    error: str

    @classmethod
    def of(cls, task: ClaimedImage, error: BaseException) -> FailedImage:
        """Because of one of our errors, or a lack of memory."""
        if isinstance(error, ResharpError):
            return cls(task, str(error))
        return cls(task, f"out of memory: {error}: use a smaller --scale")

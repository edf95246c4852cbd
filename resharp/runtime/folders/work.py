"""One picture on its way through the stages: read, restore, write."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resharp.errors import OutputError, ResharpError
from resharp.images import Picture, decode, encode, load, write_whole
from resharp.runtime.folders.jobs import Job
from resharp.runtime.folders.ledger import Held, Ledger
from resharp.runtime.folders.report import Result
from resharp.runtime.folders.rules import Stamp
from resharp.runtime.recipe import Restorer
from resharp.types import Image

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Of a disk that takes no other picture either."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A result as the bytes of its file."""

    data: bytes
    notes: tuple[str, ...]
    """What the format could not carry."""
    height: int
    """In pixels."""
    width: int
    faces: int | None
    """How many were restored; None where none were looked for."""


@dataclass(eq=False)
class Work:
    """A picture in work. Each stage fills in its part; an error is the end of it."""

    job: Job
    number: int
    """In the order of results."""
    ledger: Ledger | None = None
    held: Held | None = None
    redone: bool = False
    began: float = field(default_factory=time.monotonic)
    read: Stamp | None = None
    """Of the input, before it was read."""
    sha256: str = ""
    """Of the input's bytes."""
    picture: Picture | None = None
    output: Image | None = None
    faces: int | None = None
    encoded: Encoded | None = None
    """Where that was done elsewhere."""
    error: str = ""

    def fail(self, error: BaseException) -> None:
        """Give it up, for a reason that people can do something about."""
        small = "" if isinstance(error, ResharpError) else "out of memory: "
        hint = ": use a smaller --scale" if small else ""
        self.error = f"{small}{error}{hint}"
        self.picture = self.output = self.encoded = None

    def result(self, **values: Any) -> Result:
        """What became of it."""
        status = "failed" if self.error else "restored"
        return Result(
            input=str(self.job.source),
            output=str(self.job.target),
            status=status,
            seconds=round(time.monotonic() - self.began, 3),
            error=self.error,
            redone=self.redone and not self.error,
            **values,
        )


def read_in(work: Work) -> Work:
    """Read and decode the input."""
    if look(work).error:
        return work
    try:
        data = load(work.job.source)
        if work.ledger is not None:
            work.sha256 = hashlib.sha256(data).hexdigest()
        work.picture = decode(data, str(work.job.source))
    except (ResharpError, MemoryError) as error:
        work.fail(error)
    return work


def look(work: Work) -> Work:
    """Take note of the input as it is, and make the folder of the result."""
    work.began = time.monotonic()
    try:
        if work.ledger is not None and os.path.exists(work.job.source):
            work.read = Stamp.of(work.job.source)
        _make_folder(work.job.target.parent)
    except ResharpError as error:
        work.fail(error)
    return work


def _make_folder(folder: Path) -> None:
    """Before the work, so that a folder that cannot be does not cost it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error}: choose another -o") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            f"{folder} may not be written to: choose another -o, or change its rights"
        )


def weight(work: Work, scale: float) -> int:
    """Bytes of the input and of what it becomes."""
    if work.picture is None:
        return 0
    return int(work.picture.pixels.nbytes * (1 + scale**2))


def restore(
    works: Sequence[Work], restorer: Restorer, progress: Callable[[Work, float], object]
) -> Sequence[Work]:
    """Restore pictures, those of one size together where that fills the device.

    Args:
        works: all of one size if there are several.
        restorer: what does it.
        progress: called with the done share of each, now and then; raising in it gives up.
    """
    sound = [work for work in works if work.picture is not None]
    many = _batch(restorer, sound)
    for start in range(0, len(sound), many):
        part = sound[start : start + many]
        if len(part) == 1 or not _together(part, restorer):
            for work in part:
                _alone(work, restorer, progress)
        for work in part:
            progress(work, 1.0)
    return works


def _batch(restorer: Restorer, works: Sequence[Work]) -> int:
    if len(works) < 2 or works[0].picture is None:
        return 1
    return max(restorer.batch(*works[0].picture.pixels.shape[:2]), 1)


def _together(works: Sequence[Work], restorer: Restorer) -> bool:
    """Whether it went well; if not, each is tried alone, to see which one it was."""
    try:
        results = restorer.many([w.picture.pixels for w in works if w.picture is not None])
    except (ResharpError, MemoryError):
        return False
    for work, result in zip(works, results, strict=True):
        work.output = result
    return True


def _alone(work: Work, restorer: Restorer, progress: Callable[[Work, float], object]) -> None:
    assert work.picture is not None
    try:
        work.output, work.faces = restorer(
            work.picture.pixels, lambda done, total: progress(work, done / total)
        )
    except (ResharpError, MemoryError) as error:
        work.fail(error)


def encode_out(work: Work, quality: int | None) -> Encoded:
    """A result as the bytes of its file.

    Raises:
        OutputError: the format cannot hold it.
    """
    if work.encoded is not None:
        return work.encoded
    assert work.output is not None
    assert work.picture is not None
    suffix, metadata = work.job.target.suffix, work.picture.metadata
    data, notes = encode(work.output, metadata, format=suffix, quality=quality)
    height, width = work.output.shape[:2]
    return Encoded(data=data, notes=notes, height=height, width=width, faces=work.faces)


def write_out(work: Work, made: Encoded) -> None:
    """Write a result whole.

    Raises:
        OutputError: it cannot be written.
    """
    write_whole(work.job.target, made.data)


def is_full(error: BaseException) -> bool:
    """Whether the disk is full, so that no other picture can be written either."""
    causes = (error, error.__cause__)
    return any(isinstance(one, OSError) and one.errno in FULL for one in causes)

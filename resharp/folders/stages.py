"""The stages that images go through: read, restore, write; each a function of one step."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from numpy.typing import NDArray

from resharp.errors import OptionError, OutputError, ResharpError
from resharp.folders.output_state import FileStat, JournalEntry
from resharp.folders.report import Used, used_by
from resharp.folders.scheduler import SkipPolicy
from resharp.folders.task import (
    ClaimedImage,
    DecodedImage,
    EncodedFile,
    EncodedImage,
    FailedImage,
    InputFile,
    RestoredImage,
)
from resharp.fsutil import sha256_of, write_whole
from resharp.gpu.devices import available_memory
from resharp.images import Metadata, decode, encode, load
from resharp.pipeline.restorer import RestoreConfig, Restorer, RestorerPool
from resharp.pipeline.staged_pipeline import Stage

READERS, WRITERS = 2, 2
LARGEST_BATCH = 16
MEMORY_SHARE = 4
"""One in so many bytes of the free memory is for pictures in work."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Of a disk that takes no other picture either."""

Advance = Callable[[ClaimedImage, float], object]
"""Told the done share of a picture, now and then; raises if the run has ended meanwhile."""
Restored = RestoredImage | EncodedImage | FailedImage
"""What is given to the last stage, which writes."""


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """How folders are restored; what is to become of the pictures is a config's matter.

    Raises:
        OptionError: a number makes no sense.
    """

    quality: int | None = None
    """Of JPEG, WebP and AVIF, 1 to 100."""
    overwrite: bool = False
    """Redo what is done."""
    workers: int | None = None
    """Pictures in work at once on each device; None: one on the CPU, with all cores, and on a GPU
    what keeps its backend busy."""
    watch: float | None = None
    """Seconds between two looks at the inputs, for ever; None: one look, and an end."""

    def __post_init__(self) -> None:
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise OptionError(f"`quality` must be between 1 and 100, got {self.quality}")
        if self.watch is not None and not self.watch > 0:
            raise OptionError(f"`watch` must be a positive number of seconds, got {self.watch}")


RestoreStages = tuple[Sequence[Stage], Used]
"""What turns a :class:`ClaimedImage` into what can be written, and the models at work there."""
OpenStages = Callable[
    [RestoreConfig, FolderOptions, Advance], AbstractContextManager[RestoreStages]
]


@contextmanager
def local_stages(
    config: RestoreConfig, options: FolderOptions, advance: Advance
) -> Iterator[RestoreStages]:
    """Read and restore on this machine.

    Raises:
        ResharpError: see :class:`RestorerPool`.
    """
    with RestorerPool(config, workers=options.workers, on_cpu=1) as pool:
        batch = min(pool.first.batch_for(1, 1), LARGEST_BATCH)
        restoring = restore if batch == 1 else restore_batch
        fills = cache(lambda height, width: pool.first.batch_for(height, width) > 1)

        def can_batch(one: DecodedImage | FailedImage, other: DecodedImage | FailedImage) -> bool:
            if isinstance(one, FailedImage) or isinstance(other, FailedImage):
                return False
            a, b = one.picture.pixels, other.picture.pixels
            return a.shape == b.shape and a.dtype == b.dtype and fills(*a.shape[:2])

        reads = Stage(name="read", calls=[partial(read, advance)] * READERS)
        restores = Stage(
            name="restore",
            calls=[partial(restoring, slot, advance) for slot in pool.slots],
            batch=batch,
            can_batch=can_batch,
            cost=partial(memory_cost, pool.first.info.scale),
            budget=available_memory() // MEMORY_SHARE,
        )
        yield [reads, restores], used_by(pool.workers)


def begin(task: ClaimedImage) -> tuple[ClaimedImage, FileStat]:
    """Take the time, see how the input is, and make the folder of the result.

    The folder comes first, so that one that cannot be made does not cost the work.

    Raises:
        OutputError: the folder cannot be made, or not be written to.
    """
    task, stat = replace(task, began=time.monotonic()), FileStat(0, 0)
    with suppress(OSError):  # who reads it says what is wrong
        stat = FileStat.of(task.job.source)
    folder = task.job.target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error}: choose another -o") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            f"{folder} may not be written to: choose another -o, or change its rights"
        )
    return task, stat


def read(advance: Advance, task: ClaimedImage) -> DecodedImage | FailedImage:
    """Read and decode the input."""
    advance(task, 0.0)
    try:
        task, stat = begin(task)
        data = load(task.job.source)
        found = InputFile(stat, "" if task.lease is None else sha256_of(data))
        return DecodedImage(task, found, decode(data, str(task.job.source)))
    except (ResharpError, MemoryError) as error:
        return FailedImage.of(task, error)


def memory_cost(scale: float, item: DecodedImage | FailedImage) -> int:
    """Bytes of the input and of what it becomes."""
    if isinstance(item, FailedImage):
        return 0
    return int(item.picture.pixels.nbytes * (1 + scale**2))


def restore(
    restorer: Restorer, advance: Advance, item: DecodedImage | FailedImage
) -> RestoredImage | FailedImage:
    """Restore one picture."""
    if isinstance(item, FailedImage):
        return item
    task = item.task
    try:
        pixels, faces = restorer.with_count(
            item.picture.pixels, progress=lambda done, total: advance(task, done / total)
        )
    except (ResharpError, MemoryError) as error:
        return FailedImage.of(task, error)
    advance(task, 1.0)
    return RestoredImage(task, item.input, pixels, item.picture.metadata, faces)


def restore_batch(
    restorer: Restorer, advance: Advance, items: Sequence[DecodedImage | FailedImage]
) -> list[RestoredImage | FailedImage]:
    """Restore pictures of one size, together where that fills the device.

    What fails together is tried one by one, to see which one it was.
    """
    sound = [item for item in items if isinstance(item, DecodedImage)]
    many = max(restorer.batch_for(*sound[0].picture.pixels.shape[:2]), 1) if len(sound) > 1 else 1
    done: dict[int, RestoredImage] = {}
    for start in range(0, len(sound), many):
        part = sound[start : start + many]
        if len(part) == 1:
            continue
        with suppress(ResharpError, MemoryError):
            results = restorer.batch([item.picture.pixels for item in part])
            done |= {
                item.task.job.number: RestoredImage(
                    item.task, item.input, pixels, item.picture.metadata, None
                )
                for item, pixels in zip(part, results, strict=True)
            }
        for item in part:
            if item.task.job.number in done:
                advance(item.task, 1.0)
    return [done.get(item.task.job.number) or restore(restorer, advance, item) for item in items]


def encode_file(
    pixels: NDArray[Any], metadata: Metadata, faces: int | None, suffix: str, quality: int | None
) -> EncodedFile:
    """A result, with the metadata of its input, as the bytes of a file of that suffix.

    Raises:
        OutputError: the format cannot hold it.
    """
    data, notes = encode(pixels, metadata, format=suffix, quality=quality)
    height, width = pixels.shape[:2]
    return EncodedFile(data=data, notes=notes, height=height, width=width, faces=faces)


def encode_image(item: RestoredImage | EncodedImage, quality: int | None) -> EncodedImage:
    """See :func:`encode_file`; a cluster has done it already."""
    if isinstance(item, EncodedImage):
        return item
    suffix = item.task.job.target.suffix
    file = encode_file(item.pixels, item.metadata, item.faces, suffix, quality)
    return EncodedImage(item.task, item.input, file)


def write(item: EncodedImage, policy: SkipPolicy) -> tuple[str, ...]:
    """Write a result and its line in the journal; a note if the line cannot be.

    The line of a new result is first, with the time that the file is then given: who is killed
    in between leaves a line without a file, which is done again. A result that is redone has
    a line already, which stays true until the file is another.

    Raises:
        OutputError: the result cannot be written.
    """
    target, data = item.task.job.target, item.file.data
    if os.path.lexists(target):
        write_whole(target, data)
        return _record(item, FileStat.of(target), policy)
    stat = FileStat(len(data), time.time_ns())
    notes = _record(item, stat, policy)
    write_whole(target, data)
    with suppress(OSError):  # its hash tells as well
        os.utime(target, ns=(stat.mtime_ns, stat.mtime_ns))
    return notes


def _record(item: EncodedImage, written: FileStat, policy: SkipPolicy) -> tuple[str, ...]:
    lease, job, read = item.task.lease, item.task.job, item.input
    if lease is None:
        return ()
    try:
        entry = JournalEntry(
            target=job.name,
            source=lease.state.source_of(job),
            key=policy.key(job, read.sha256),
            input_sha256=read.sha256,
            input_size=read.stat.size,
            input_mtime_ns=read.stat.mtime_ns,
            output_sha256=sha256_of(item.file.data),
            output_size=written.size,
            output_mtime_ns=written.mtime_ns,
        )
        lease.state.record(entry)
    except OSError as error:
        if is_full(error):
            raise
        return (f"not in the journal: {error}",)
    return ()


def is_full(error: BaseException) -> bool:
    """Whether the disk is full, so that no other picture can be written either."""
    causes = (error, error.__cause__)
    return any(isinstance(one, OSError) and one.errno in FULL for one in causes)

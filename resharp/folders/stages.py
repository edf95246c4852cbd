"""The stages of a run: functions that read, restore, encode and write images."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, get_args

from numpy.typing import NDArray

from resharp.checks import check_choice, check_int, check_number, shortened
from resharp.errors import ImageError, OutputError, ResharpError
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
from resharp.images import (
    Header,
    Metadata,
    check_result,
    decode,
    encode,
    header,
    load,
    pixel_limit,
)
from resharp.memory import available_memory
from resharp.outputs import FileStat, JournalEntry, JournalOption
from resharp.pipeline.restorer import MOST_WORKERS, RestoreConfig, Restorer, RestorerPool
from resharp.pipeline.staged_pipeline import Stage

READERS, WRITERS = 2, 2
LARGEST_BATCH = 16
MEMORY_SHARE = 4
"""Images in flight may use the free memory divided by this number."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk, on which every other image would fail too."""

Advance = Callable[[ClaimedImage, float], object]
"""Called with an image and the fraction of it that is done; raises if the run has ended."""
Restored = RestoredImage | EncodedImage | FailedImage
"""Input of the last stage, which writes."""


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """Options of a run over folders; a :class:`RestoreConfig` describes the restoration itself.

    Raises:
        OptionError: a number is out of range.
    """

    quality: int | None = None
    """JPEG, WebP and AVIF quality, 1 to 100; None is the format's default."""
    overwrite: bool = False
    """Restore finished images again. Files that the journal does not know are never replaced,
    except one whose name was given as the output."""
    allow_truncated: bool = False
    """Restore the readable part of truncated files, with a note on what is missing."""
    journal: JournalOption = "auto"
    """Where the journal of finished images is kept."""
    workers: int | None = None
    """Images in flight at once on each device; None: one on the CPU, which uses all cores, and on a
    GPU as many as keep it busy."""
    watch: float | None = None
    """Seconds between two looks for new files, until the run is stopped; None: one look."""
    max_pixels: int | None = None
    """Most pixels that an image may have; None is the default of :func:`resharp.images.read`."""

    def __post_init__(self) -> None:
        if self.quality is not None:
            check_int("quality", self.quality, 1, 100)
        if self.workers is not None:
            check_int("workers", self.workers, 1, MOST_WORKERS)
        pixel_limit(self.max_pixels)  # checks RESHARP_MAX_PIXELS too
        check_choice("journal", self.journal, get_args(JournalOption))
        if self.watch is not None:
            check_number("watch", self.watch, 0, above=True)


RestoreStages = tuple[Sequence[Stage], Used]
"""Stages that turn a :class:`ClaimedImage` into a :data:`Restored`, and the models they use."""
OpenStages = Callable[
    [RestoreConfig, FolderOptions, Advance], AbstractContextManager[RestoreStages]
]
"""Opens the stages that restore; they are closed with the context manager."""


@contextmanager
def local_stages(
    config: RestoreConfig, options: FolderOptions, advance: Advance
) -> Iterator[RestoreStages]:
    """Open the stages that read and restore on this machine.

    Raises:
        ResharpError: as for :class:`RestorerPool`.
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

        scale = pool.first.info.scale
        # The budget starts here: a decoded image may be a thousand times larger than its file.
        reads = Stage(
            name="read",
            calls=[partial(read, advance, scale, options)] * READERS,
            cost=partial(memory_cost, scale),
            budget=available_memory() // MEMORY_SHARE,
        )
        restores = Stage(
            name="restore",
            calls=[partial(restoring, slot, advance) for slot in pool.slots],
            batch=batch,
            can_batch=can_batch,
        )
        yield [reads, restores], used_by(pool.workers)


def begin(task: ClaimedImage) -> tuple[ClaimedImage, FileStat]:
    """Start the clock, note the input's size and time, and create the folder of the result.

    The folder is created first, so that an error comes before the restoration and not after it.

    Raises:
        OutputError: the folder cannot be created or is not writable.
    """
    task, stat = replace(task, began=time.monotonic()), FileStat(0, 0)
    with suppress(OSError):  # reading the file will raise the proper error
        stat = FileStat.of(task.job.source)
    folder = task.job.target.parent
    try:
        task.lease.state.make_folder(folder)
    except OSError as error:
        text = f"cannot create the folder {folder}: {error}. Choose another `dst`."
        raise OutputError(text) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            f"permission denied: cannot write to {folder}. Choose another `dst`, or change the "
            "folder's permissions."
        )
    try:
        task.job.target.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise OutputError(
                f"the name of the result is too long: {shortened(task.job.target.name)}. Rename "
                "the input, or use another `suffix` or `format`."
            ) from error
    return task, stat


def read(
    advance: Advance, scale: float, options: FolderOptions, task: ClaimedImage
) -> DecodedImage | FailedImage:
    """Read and decode the input, unless it or its result is too large."""
    advance(task, 0.0)
    try:
        task, stat = begin(task)
        name, most = str(task.job.source), options.max_pixels
        data = load(name, max_pixels=most, check=partial(advance, task, 0.0))
        size = header(data, name)
        check_result(task.job.target.suffix, size.height, size.width, scale)
        found = InputFile(stat, sha256_of(data))
        partly = options.allow_truncated
        picture = decode(data, name, max_pixels=most, allow_truncated=partly)
        return DecodedImage(task, found, picture)
    except (ResharpError, MemoryError) as error:
        return FailedImage.of(task, error)


def header_of(task: ClaimedImage) -> Header | None:
    """Return the header of an input; None if it is invalid, which reading reports later."""
    try:
        return header(task.job.source)
    except ImageError:
        return None


def memory_cost(scale: float, task: ClaimedImage) -> int:
    """Return the bytes of a file, its pixels and its result, computed from its header.

    OpenCV holds the pixels twice while it decodes.
    """
    if task.header is None:
        return 0
    return task.header.size + int(task.header.decoded * max(1 + scale**2, 2))


def restore(
    restorer: Restorer, advance: Advance, item: DecodedImage | FailedImage
) -> RestoredImage | FailedImage:
    """Restore one image."""
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
    """Restore images of one size, several together if that is needed to fill the device.

    If a batch fails, its images are restored one by one to find the ones at fault.
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
    """Encode a result, with the metadata of its input, in the format of a file suffix.

    Raises:
        OutputError: the format cannot hold the image.
    """
    data, notes = encode(pixels, metadata, format=suffix, quality=quality)
    height, width = pixels.shape[:2]
    return EncodedFile(data=data, notes=notes, height=height, width=width, faces=faces)


def encode_image(item: RestoredImage | EncodedImage, quality: int | None) -> EncodedImage:
    """Encode a restored image; an encoded one, from a cluster, is returned as it is."""
    if isinstance(item, EncodedImage):
        return item
    suffix = item.task.job.target.suffix
    file = encode_file(item.pixels, item.metadata, item.faces, suffix, quality)
    return EncodedImage(item.task, item.input, file)


def write(item: EncodedImage, policy: SkipPolicy) -> tuple[str, ...]:
    """Write a result and its journal entry; return a note if the entry could not be written.

    The entry comes first, with the time that the file is given afterwards. A run killed in between
    leaves an entry without a file, or the earlier result, which the journal knows too: it is
    restored again.

    Raises:
        OutputError: the result cannot be written, what was at its path has changed during the work,
            or the disk is full.
    """
    job, data = item.task.job, item.file.data
    if os.path.lexists(job.target):
        if not item.task.replaces:
            raise OutputError(
                f"{job.target} was created by another program meanwhile, so it is not replaced: "
                "rename or remove it, then run it again"
            )
        if error := policy.refusal(job, item.task.lease.state):
            raise OutputError(error)
    stat = FileStat(len(data), time.time_ns())
    notes = _record(item, stat, policy)
    write_whole(job.target, data)
    with suppress(OSError):  # without its time, the file is recognized by its hash
        os.utime(job.target, ns=(stat.mtime_ns, stat.mtime_ns))
    return notes


def _record(item: EncodedImage, written: FileStat, policy: SkipPolicy) -> tuple[str, ...]:
    lease, job, read = item.task.lease, item.task.job, item.input
    try:
        entry = JournalEntry(
            target=job.name,
            source=lease.state.records.source_of(job.source),
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
        return (f"not recorded in the journal: {error}",)
    return ()


def is_full(error: BaseException) -> bool:
    """Whether an error means that the disk is full, so that no other image can be written."""
    causes = (error, error.__cause__)
    return any(isinstance(one, OSError) and one.errno in FULL for one in causes)

"""The pipeline that pictures go through: claim, read, restore, write."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from resharp.errors import ResharpError
from resharp.gpu.host_memory import available_memory
from resharp.runtime.crew import Crew
from resharp.runtime.folders.desk import Desk
from resharp.runtime.folders.journal import Entry
from resharp.runtime.folders.progress import Progress
from resharp.runtime.folders.rules import Rules, Stamp
from resharp.runtime.folders.work import (
    Encoded,
    Work,
    encode_out,
    is_full,
    read_in,
    restore,
    weight,
    write_out,
)
from resharp.runtime.recipe import Restorer
from resharp.runtime.stages import Pipeline, Stage

READERS, WRITERS = 2, 2
LARGEST_BATCH = 16
MEMORY_SHARE = 4
"""One in so many bytes of the free memory is for pictures in work."""


class Line:
    """The stages of one run.

    Args:
        crew: restores; None where that is done elsewhere.
        desk: takes in results.
        rules: know the keys of results.
        progress: is told.
        quality: of the encoder.
        watching: inputs may vanish.
    """

    def __init__(
        self,
        crew: Crew | None,
        desk: Desk,
        rules: Rules,
        progress: Progress,
        quality: int | None,
        watching: bool,
    ) -> None:
        self._desk, self._rules = desk, rules
        self._progress, self._quality, self._watching = progress, quality, watching
        self._fills: dict[tuple[int, ...], bool] = {}
        self._crew = crew
        self.pipeline = self._stages()

    def _stages(self) -> Pipeline:
        assert self._crew is not None
        first = self._crew.first
        batch = min(first.batch(1, 1), LARGEST_BATCH)
        calls = [partial(self._restore, one, batch > 1) for one in self._crew.calls]
        return Pipeline(
            [
                Stage(name="read", calls=[self._read] * READERS),
                Stage(name="restore", calls=calls, batch=batch, alike=self._alike),
                Stage(name="write", calls=[self._write] * WRITERS),
            ],
            weigh=partial(weight, scale=first.scale),
            budget=available_memory() // MEMORY_SHARE,
            weigh_at=1,
            source="claim",
        )

    def run(self, source: Iterable[Work]) -> None:
        """Do it all; see :meth:`Pipeline.run`."""
        self.pipeline.run(source)

    def _alike(self, one: Work, other: Work) -> bool:
        """Whether two pictures go through the network together."""
        if one.picture is None or other.picture is None:
            return False
        a, b = one.picture.pixels, other.picture.pixels
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if a.shape not in self._fills:
            self._fills[a.shape] = (
                self._crew is not None and self._crew.first.batch(a.shape[0], a.shape[1]) > 1
            )
        return self._fills[a.shape]

    def _read(self, work: Work) -> Work:
        self._progress.at(work, 0.0)
        return read_in(work)

    def _restore(self, restorer: Restorer, several: bool, items: Any) -> Any:
        restore(items if several else [items], restorer, self._advance)
        return items

    def _advance(self, work: Work, share: float) -> None:
        self.pipeline.check()
        self._progress.at(work, share)

    def _write(self, work: Work) -> None:
        fatal: BaseException | None = None
        values: dict[str, Any] = {}
        if not work.error:
            try:
                made = encode_out(work, self._quality)
                notes = made.notes + self._write_and_record(work, made)
                values = {"notes": notes, "width": made.width, "height": made.height}
                values["faces"] = made.faces
            except (ResharpError, MemoryError) as error:
                fatal = error if is_full(error) else None
                work.fail(error)
        if work.error and self._watching and not os.path.lexists(work.job.source):
            self._desk.drop(work)
        else:
            self._desk.finish(work, **values)
        self._progress.end(work)
        if fatal is not None:
            raise fatal

    def _write_and_record(self, work: Work, made: Encoded) -> tuple[str, ...]:
        """Write a result and its line in the journal; a note if the line cannot be.

        The line of a new result is first, with the time that the file is then given: who is killed
        in between leaves a line without a file, which is done again. A result that is redone has
        a line already, which stays true until the file is another.
        """
        new = not os.path.lexists(work.job.target)
        stamp = Stamp(len(made.data), time.time_ns())
        notes = self._record(work, made, stamp) if new else ()
        write_out(work, made)
        if not new:
            return self._record(work, made, Stamp.of(work.job.target))
        with suppress(OSError):  # its hash tells as well
            os.utime(work.job.target, ns=(stamp.mtime_ns, stamp.mtime_ns))
        return notes

    def _record(self, work: Work, made: Encoded, written: Stamp) -> tuple[str, ...]:
        job, ledger = work.job, work.ledger
        if ledger is None or work.read is None:
            return ()
        try:
            entry = Entry(
                target=job.name,
                source=ledger.source_of(job),
                key=self._rules.key(job, work.sha256),
                input_sha256=work.sha256,
                input_size=work.read.size,
                input_mtime_ns=work.read.mtime_ns,
                output_sha256=hashlib.sha256(made.data).hexdigest(),
                output_size=written.size,
                output_mtime_ns=written.mtime_ns,
            )
            ledger.record(entry)
        except OSError as error:
            if is_full(error):
                raise
            return (f"not in the journal: {error}",)
        return ()

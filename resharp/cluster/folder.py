"""Folders on a cluster: pictures are restored anywhere, and written and noted down here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from resharp.cluster.session import AHEAD, ClusterOptions, Session, session
from resharp.errors import BackendError, ResharpError
from resharp.runtime.folders import FolderOptions, FolderRun, Hooks, Target
from resharp.runtime.folders.desk import Item
from resharp.runtime.folders.line import WRITERS, Line
from resharp.runtime.folders.work import Work, look
from resharp.runtime.recipe import Recipe
from resharp.runtime.stages import Pipeline, Stage


class ClusterRun(FolderRun):
    """One run over pictures on a Ray cluster; see :class:`FolderRun` for all but where.

    Every machine reads the inputs under the same paths; results come back as the bytes of their
    files, and only this machine writes them.

    Args:
        cluster: which, and how much of it.
        inputs: see :class:`FolderRun`; so too the others.
    """

    def __init__(
        self,
        cluster: ClusterOptions,
        inputs: Sequence[str],
        target: Target,
        recipe: Recipe,
        options: FolderOptions | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        self._cluster = cluster
        super().__init__(inputs, target, recipe, options, hooks)

    def _open(self, todo: list[Item]) -> None:
        with session(self._recipe, self._cluster) as workers:
            self._used = workers.facts.used
            quality, watching = self._options.quality, self._watch is not None
            line = _Line(workers, self._desk, self._rules, self._progress, quality, watching)
            self._work(todo, line)


class _Line(Line):
    """The stages, of which the middle one is elsewhere."""

    def __init__(self, workers: Session, *rest: Any) -> None:
        self._workers = workers
        super().__init__(None, *rest)

    def _stages(self) -> Pipeline:
        calls = [partial(self._sent, i % self._workers.count) for i in range(self._slots)]
        return Pipeline(
            [
                Stage(name="restore", calls=calls),
                Stage(name="write", calls=[self._write] * WRITERS),
            ],
            source="claim",
        )

    @property
    def _slots(self) -> int:
        return self._workers.count * AHEAD

    def _sent(self, which: int, work: Work) -> Work:
        self._progress.at(work, 0.0)
        if look(work).error:
            return work
        source = Path(os.path.abspath(work.job.source))  # noqa: PTH100 - links stay as they are
        suffix = work.job.target.suffix
        unit = (source, suffix, self._quality)
        try:
            work.sha256, work.encoded = self._workers.call(
                which, "picture", unit, self.pipeline.check
            )
        except BackendError:  # no worker is left: not this picture's fault
            raise
        except (ResharpError, MemoryError) as error:
            work.fail(error)
        return work

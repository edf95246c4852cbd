"""Folders on a cluster: pictures are restored anywhere, and written and noted down here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from resharp.cluster.session import AHEAD, ClusterOptions, ClusterSession, session
from resharp.errors import BackendError, ResharpError
from resharp.folders.stages import Advance, FolderOptions, OpenStages, RestoreStages, begin
from resharp.folders.task import ClaimedImage, EncodedImage, FailedImage, InputFile
from resharp.pipeline.restorer import RestoreConfig
from resharp.pipeline.staged_pipeline import Stage


def cluster_stages(cluster: ClusterOptions) -> OpenStages:
    """What a :class:`~resharp.folders.FolderRun` restores with on a Ray cluster.

    Every machine reads the inputs under the same paths; results come back as the bytes of their
    files, and only this machine writes them.

    Args:
        cluster: which, and how much of it.
    """

    @contextmanager
    def opened(
        config: RestoreConfig, options: FolderOptions, advance: Advance
    ) -> Iterator[RestoreStages]:
        with session(config, cluster) as workers:
            calls = [
                partial(_restore, workers, number % workers.count, options.quality, advance)
                for number in range(workers.count * AHEAD)
            ]
            yield [Stage(name="restore", calls=calls)], (workers.info.upscaler, workers.info.face)

    return opened


def _restore(
    workers: ClusterSession, which: int, quality: int | None, advance: Advance, task: ClaimedImage
) -> EncodedImage | FailedImage:
    """Have a picture read, restored and encoded by one of the workers."""
    waits = partial(advance, task, 0.0)
    waits()
    source = Path(os.path.abspath(task.job.source))  # noqa: PTH100 - links stay as they are
    try:
        task, stat = begin(task)
        unit = (source, task.job.target.suffix, quality)
        sha256, made = workers.call(which, "picture", unit, waits)
        return EncodedImage(task, InputFile(stat, sha256), made)
    except BackendError:  # no worker is left: not this picture's fault
        raise
    except (ResharpError, MemoryError) as error:
        return FailedImage.of(task, error)

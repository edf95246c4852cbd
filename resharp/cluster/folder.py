"""Folders on a cluster: workers restore the images, and this machine writes and records them."""

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
    """Return the ``open_stages`` of a :class:`~resharp.folders.FolderRun` on a Ray cluster.

    Every machine reads the inputs under the same paths; results come back as the bytes of their
    files, and only this machine writes them.

    Args:
        cluster: which cluster, and how much of it to use.
    """

    @contextmanager
    def opened(
        config: RestoreConfig, options: FolderOptions, advance: Advance
    ) -> Iterator[RestoreStages]:
        with session(config, cluster) as workers:
            calls = [
                partial(_restore, workers, number % workers.count, options, advance)
                for number in range(workers.count * AHEAD)
            ]
            yield [Stage(name="restore", calls=calls)], (workers.info.upscaler, workers.info.face)

    return opened


def _restore(
    workers: ClusterSession,
    which: int,
    options: FolderOptions,
    advance: Advance,
    task: ClaimedImage,
) -> EncodedImage | FailedImage:
    """Have one of the workers read, restore and encode an image."""
    waits = partial(advance, task, 0.0)
    waits()
    source = Path(os.path.abspath(task.job.source))  # noqa: PTH100 - links stay as they are
    try:
        task, stat = begin(task)
        reading = (options.max_pixels, options.allow_truncated)
        unit = (source, task.job.target.suffix, options.quality, *reading)
        sha256, made = workers.call(which, "picture", unit, waits)
        return EncodedImage(task, InputFile(stat, sha256), made)
    except BackendError:  # no worker is left; the image is not at fault
        raise
    except (ResharpError, MemoryError) as error:
        return FailedImage.of(task, error)

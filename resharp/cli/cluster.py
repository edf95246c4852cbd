"""``resharp cluster``: folders and video on a Ray cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import click

from resharp.cli import common
from resharp.cli.video import Shown, show, video_options
from resharp.errors import OptionError
from resharp.video import VideoOptions, VideoReport

cluster_options = common.add_options(
    click.option(
        "--address", help="Of the cluster, host:6379 (default: RAY_ADDRESS, or one made here)."
    ),
    click.option("--cpus-per-worker", "cpus", type=float, help="Cores (default: an equal share)."),
    click.option("--gpus-per-worker", "gpus_each", type=float, help="GPUs (default: 1, if any)."),
    click.option(
        "--retries",
        type=click.IntRange(0),
        default=3,
        show_default=True,
        help="How often a worker that died is started again.",
    ),
)


@click.group()
def cluster() -> None:
    """Restore folders and video on a Ray cluster; results are those of one machine.

    Every machine has resharp, the same models, and the inputs under the same paths (a shared
    disk). --workers says how many restorers there are in all.
    """


def _cluster_of(options: dict[str, Any]) -> Any:
    from resharp.cluster import ClusterOptions

    if options.pop("gpus"):
        raise OptionError("--gpus is about one machine: give --workers and --gpus-per-worker")
    same = {name: options.pop(name) for name in ("address", "workers", "cpus", "retries")}
    return ClusterOptions(gpus=options.pop("gpus_each"), **same)


@cluster.command()
@common.input_options
@click.option("--overwrite", is_flag=True, help="Redo what is done.")
@cluster_options
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def folder(as_json: bool, **options: Any) -> None:
    """Restore pictures: files, folders and globs. All else is as in resharp upscale."""
    from resharp.cluster import cluster_stages

    open_stages = cluster_stages(_cluster_of(options))

    @contextmanager
    def quiet(*args: Any) -> Iterator[Any]:
        """Keep what Ray prints out of the results."""
        with redirect_stdout(sys.stderr), open_stages(*args) as stages:
            yield stages

    common.run_once(options, as_json, open_stages=quiet)


@cluster.command()
@click.argument("source", metavar="IN")
@click.option("-o", "--output", required=True, metavar="OUT", help="File, folder or %06d.png.")
@common.config_options
@video_options
@cluster_options
@click.option("--overwrite", is_flag=True, help="Make a result anew that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print progress and result as JSON lines.")
def video(source: str, output: str, overwrite: bool, as_json: bool, **options: Any) -> None:
    """Restore a video, its segments anywhere. All else is as in resharp video."""
    from resharp.cluster import restore_video

    where = _cluster_of(options)
    config = common.config_of(options)

    def run(shown: Shown) -> VideoReport:
        with redirect_stdout(sys.stderr):
            return restore_video(
                source,
                output,
                config,
                options=VideoOptions(**options),
                cluster=where,
                overwrite=overwrite,
                progress=shown.progress,
                log=shown.log,
            )

    show(run, as_json)

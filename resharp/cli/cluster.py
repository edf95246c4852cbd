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
        "--address", help="Ray cluster, host:6379 (default: RAY_ADDRESS, or one started here)."
    ),
    click.option(
        "--cpus-per-worker", "cpus", type=float, help="Cores per worker (default: an equal share)."
    ),
    click.option(
        "--gpus-per-worker",
        "gpus_each",
        type=float,
        help="GPUs per worker (default: 1 if there are any).",
    ),
    click.option(
        "--retries",
        type=click.IntRange(0),
        default=3,
        show_default=True,
        help="Times to restart a worker that died.",
    ),
)


@click.group()
def cluster() -> None:
    """Restore folders and video on a Ray cluster, with the results of a single machine.

    Every machine needs resharp, the same models, and the inputs under the same paths, e.g. on a
    shared disk. --workers is the number of restorers in the whole cluster.
    """


def _cluster_of(options: dict[str, Any]) -> Any:
    from resharp.cluster import ClusterOptions

    device = str(options["device"])
    if "," in device or device == "cuda:all":
        raise OptionError(
            f"`device` {device} is for one machine: use `workers` and `gpus_per_worker` instead"
        )
    same = {name: options.pop(name) for name in ("address", "workers", "cpus", "retries")}
    return ClusterOptions(gpus=options.pop("gpus_each"), **same)


@cluster.command(short_help="Restore files and folders.")
@common.input_options
@click.option("--overwrite", is_flag=True, help="Restore finished images again.")
@cluster_options
@common.json_option
def folder(as_json: bool, **options: Any) -> None:
    """Restore images: files, folders and globs, with the options of 'resharp upscale'."""
    from resharp.cluster import cluster_stages

    open_stages = cluster_stages(_cluster_of(options))

    @contextmanager
    def quiet(*args: Any) -> Iterator[Any]:
        """Keep Ray's output out of the results."""
        with redirect_stdout(sys.stderr), open_stages(*args) as stages:
            yield stages

    common.run_once(options, as_json, open_stages=quiet)


@cluster.command(short_help="Restore a video.")
@click.argument("source", metavar="IN")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUT",
    help="Output file, folder or pattern such as %06d.png.",
)
@common.config_options
@video_options
@cluster_options
@click.option("--overwrite", is_flag=True, help="Overwrite an existing output.")
@click.option("--json", "as_json", is_flag=True, help="Print progress and result as JSON lines.")
def video(source: str, output: str, overwrite: bool, as_json: bool, **options: Any) -> None:
    """Restore a video by segments, with the options of 'resharp video'."""
    from resharp.cluster import restore_video

    def run(shown: Shown) -> VideoReport:
        where = _cluster_of(options)
        config = common.config_of(options)
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

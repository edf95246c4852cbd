"""``resharp cluster``: folders and video on a Ray cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from resharp.cli.asking import recipe_of, recipe_options
from resharp.cli.showing import once
from resharp.cli.video import Shown, show, video_options
from resharp.errors import OptionError
from resharp.runtime.folders import FolderOptions, Report, Target
from resharp.video import VideoOptions, VideoReport

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
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


def _cluster_options(command: F) -> F:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _cluster_of(options: dict[str, Any]) -> Any:
    from resharp.cluster import ClusterOptions

    if options.pop("gpus"):
        raise OptionError("--gpus is about one machine: give --workers and --gpus-per-worker")
    return ClusterOptions(
        address=options.pop("address"),
        workers=options.pop("workers"),
        cpus=options.pop("cpus"),
        gpus=options.pop("gpus_each"),
        retries=options.pop("retries"),
    )


@cluster.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File or folder of results.")
@recipe_options
@click.option("--suffix", help="Added to names (default: none with -o; else _restored, _x2).")
@click.option("--format", "format_", help="png, jpg, webp, tiff, ... (default: the input's).")
@click.option("--quality", type=click.IntRange(1, 100), help="Of JPEG, WebP and AVIF.")
@click.option("--overwrite", is_flag=True, help="Redo what is done.")
@_cluster_options
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def folder(
    inputs: tuple[str, ...],
    output: Path | None,
    suffix: str | None,
    format_: str | None,
    quality: int | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Restore pictures: files, folders and globs. All else is as in resharp upscale."""
    from resharp.cluster import ClusterRun

    where = _cluster_of(options)
    recipe = recipe_of(options)
    target = Target.asked(output, suffix, format_, recipe.settings.scale)
    how = FolderOptions(quality=quality, overwrite=overwrite)

    class Quiet(ClusterRun):
        """Keeps what Ray prints out of the results."""

        def run(self) -> Report:
            with redirect_stdout(sys.stderr):
                return super().run()

    once(partial(Quiet, where, inputs, target, recipe, how), as_json)


@cluster.command()
@click.argument("source", metavar="IN")
@click.option("-o", "--output", required=True, metavar="OUT", help="File, folder or %06d.png.")
@recipe_options
@video_options
@_cluster_options
@click.option("--overwrite", is_flag=True, help="Make a result anew that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print progress and result as JSON lines.")
def video(source: str, output: str, overwrite: bool, as_json: bool, **options: Any) -> None:
    """Restore a video, its segments anywhere. All else is as in resharp video."""
    from resharp.cluster import restore_video

    where = _cluster_of(options)
    recipe = recipe_of(options)

    def run(shown: Shown) -> VideoReport:
        with redirect_stdout(sys.stderr):
            return restore_video(
                source,
                output,
                recipe,
                options=VideoOptions(**options),
                cluster=where,
                overwrite=overwrite,
                progress=shown.progress,
                log=shown.log,
            )

    show(run, as_json)

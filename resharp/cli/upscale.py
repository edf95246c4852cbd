"""``resharp upscale``: files, folders and globs."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from typing import Any

import click

from resharp.cli.asking import recipe_of, recipe_options
from resharp.cli.showing import once, say, say_notes, sum_up
from resharp.errors import OptionError, ResharpError
from resharp.runtime.folders import (
    FolderOptions,
    FolderRun,
    Hooks,
    Result,
    Target,
)
from resharp.runtime.recipe import Recipe

INTERVAL = 1.0
"""Seconds between two looks at a watched folder."""


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File or folder of results.")
@recipe_options
@click.option("--suffix", help="Added to names (default: none with -o; else _restored, _x2).")
@click.option("--format", "format_", help="png, jpg, webp, tiff, ... (default: the input's).")
@click.option("--quality", type=click.IntRange(1, 100), help="Of JPEG, WebP and AVIF.")
@click.option("--aligned", is_flag=True, help="Inputs are aligned 512x512 faces; no upscaling.")
@click.option("--overwrite", is_flag=True, help="Redo what is done.")
@click.option("--watch", is_flag=True, help="Go on with what comes into the folders; Ctrl-C ends.")
@click.option(
    "--interval",
    type=click.FloatRange(0, min_open=True),
    help=f"Seconds between two looks of --watch (default: {INTERVAL:g}).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def command(
    inputs: tuple[str, ...],
    output: Path | None,
    suffix: str | None,
    format_: str | None,
    quality: int | None,
    overwrite: bool,
    aligned: bool,
    watch: bool,
    interval: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Restore pictures: files, folders (with what is below them) and globs.

    What is done already is skipped, so an interrupted run goes on where it stopped; in folders it
    is redone if its input, the model or an option has changed. Several runs on one folder share
    the work. A picture that cannot be restored is reported at the end, does not stop the others,
    and makes the exit code 1.
    """
    if interval is not None and not watch:
        raise OptionError("--interval is about --watch: give that too, or leave it out")
    recipe = recipe_of(options, aligned=aligned)
    target = Target.asked(output, suffix, format_, recipe.settings.scale)
    how = FolderOptions(
        quality=quality,
        overwrite=overwrite,
        gpus=options["gpus"],
        workers=options["workers"],
        watch=(interval or INTERVAL) if watch else None,
    )
    if watch:
        _watch(inputs, target, recipe, how, as_json)
    else:
        once(partial(FolderRun, inputs, target, recipe, how), as_json)


def _watch(
    inputs: tuple[str, ...], target: Target, recipe: Recipe, how: FolderOptions, as_json: bool
) -> None:
    def ready() -> None:
        say(f"watching {', '.join(inputs)}: Ctrl-C ends it")

    def told(result: Result) -> None:
        if result.status != "skipped" or result.notes:
            say(f"{result.status}: {result.input}" + (f": {result.error}" if result.error else ""))
            say_notes(result)

    run = FolderRun(inputs, target, recipe, how, Hooks(on_result=told, on_ready=ready))
    # What stops a service or a container ends it as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run.run()
    except KeyboardInterrupt:
        pass
    except ResharpError:
        if run.begun:
            sum_up(run.report(), as_json)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    sum_up(run.report(), as_json)

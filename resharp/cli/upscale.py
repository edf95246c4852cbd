"""``resharp upscale``: files, folders and globs."""

from __future__ import annotations

import signal
from typing import Any

import click

from resharp.cli import common
from resharp.errors import OptionError, ResharpError
from resharp.folders import Result

INTERVAL = 1.0
"""Default seconds between two checks of a watched folder."""


@click.command()
@common.input_options
@click.option("--aligned", is_flag=True, help="Inputs are aligned 512x512 faces; no upscaling.")
@click.option("--overwrite", is_flag=True, help="Restore finished images again.")
@click.option(
    "--watch",
    is_flag=True,
    help="Keep running and process new files as they arrive; Ctrl-C to stop.",
)
@click.option(
    "--interval",
    type=click.FloatRange(0, min_open=True),
    help=f"Seconds between checks for new files with --watch (default: {INTERVAL:g}).",
)
@common.json_option
def command(
    aligned: bool, watch: bool, interval: float | None, as_json: bool, **options: Any
) -> None:
    """Restore images: files, folders with their subfolders, and globs.

    Finished images are skipped, so an interrupted run resumes; in folders, an image is restored
    again if it, the model or an option has changed. Several runs on one folder share the work. An
    image that cannot be restored does not stop the others; it is reported at the end, and the exit
    code is 1.
    """
    if interval is not None and not watch:
        raise OptionError("`interval` requires `watch`")
    if watch:
        _watch(options, aligned, interval or INTERVAL, as_json)
    else:
        common.run_once(options, as_json, aligned=aligned)


def _watch(options: dict[str, Any], aligned: bool, interval: float, as_json: bool) -> None:
    def ready() -> None:
        common.say(f"watching {', '.join(options['inputs'])}; press Ctrl-C to stop")

    def show(result: Result) -> None:
        if result.status != "skipped" or result.notes:
            why = f": {result.error}" if result.error else ""
            common.say(f"{result.status}: {result.input}{why}")
            common.say_notes(result)

    run = common.folder_run(
        options, aligned=aligned, watch=interval, on_result=show, on_ready=ready
    )
    # What stops a service or a container stops it like Ctrl-C.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run.run()
    except KeyboardInterrupt:
        pass
    except ResharpError:
        if run.begun:
            common.sum_up(run.report(), as_json)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    common.sum_up(run.report(), as_json)

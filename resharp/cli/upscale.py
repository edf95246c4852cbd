"""``resharp upscale``: files, folders and globs."""

from __future__ import annotations

import signal
from typing import Any

import click

from resharp.cli import common
from resharp.errors import OptionError, ResharpError
from resharp.folders import Result

INTERVAL = 1.0
"""Seconds between two looks at a watched folder."""


@click.command()
@common.input_options
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
    aligned: bool, watch: bool, interval: float | None, as_json: bool, **options: Any
) -> None:
    """Restore pictures: files, folders (with what is below them) and globs.

    What is done already is skipped, so an interrupted run goes on where it stopped; in folders it
    is redone if its input, the model or an option has changed. Several runs on one folder share
    the work. A picture that cannot be restored is reported at the end, does not stop the others,
    and makes the exit code 1.
    """
    if interval is not None and not watch:
        raise OptionError("--interval is about --watch: give that too, or leave it out")
    if watch:
        _watch(options, aligned, interval or INTERVAL, as_json)
    else:
        common.run_once(options, as_json, aligned=aligned)


def _watch(options: dict[str, Any], aligned: bool, interval: float, as_json: bool) -> None:
    def ready() -> None:
        common.say(f"watching {', '.join(options['inputs'])}: Ctrl-C ends it")

    def told(result: Result) -> None:
        if result.status != "skipped" or result.notes:
            why = f": {result.error}" if result.error else ""
            common.say(f"{result.status}: {result.input}{why}")
            common.say_notes(result)

    run = common.folder_run(
        options, aligned=aligned, watch=interval, on_result=told, on_ready=ready
    )
    # What stops a service or a container ends it as Ctrl-C does.
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

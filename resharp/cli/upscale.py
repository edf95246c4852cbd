"""``resharp upscale``: files, folders and globs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from stat import S_ISREG
from typing import Any

import click

from resharp.cli import common
from resharp.cli.common import config_of
from resharp.cli.streams import is_closed
from resharp.errors import OptionError, OutputError, ResharpError
from resharp.folders import Output, Result
from resharp.fsutil import write_whole
from resharp.images import check_result, decode, encode, load, load_stream, writable
from resharp.images.formats import available
from resharp.outputs import InputFiles, refusal
from resharp.paths import expanded
from resharp.pipeline.restorer import RestoreConfig

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
    """Restore images: files, folders with their subfolders, and globs; - is standard input.

    Finished images are skipped, so an interrupted run resumes; in folders, an image is restored
    again if it, the model or an option has changed. Several runs on one folder share the work. An
    image that cannot be restored does not stop the others; it is reported at the end, and the exit
    code is 1.
    """
    if interval is not None and not watch:
        raise OptionError("`interval` requires `watch`")
    if "-" in (options["output"], *options["inputs"]):
        if watch or as_json:
            name = "watch" if watch else "json"
            raise OptionError(f"`{name}` is not possible with standard input or output")
        restore_stream(config_of(options, aligned=aligned), **options)
    elif watch:
        _watch(options, aligned, interval or INTERVAL, as_json)
    else:
        common.run_once(options, as_json, aligned=aligned)


def restore_stream(
    config: RestoreConfig,
    inputs: Sequence[str],
    output: str | None,
    suffix: str | None,
    format_: str | None,
    quality: int | None,
    overwrite: bool,
    max_pixels: int | None = None,
    allow_truncated: bool = False,
    **others: Any,
) -> None:
    """Restore one image from standard input, to standard output, or both.

    Raises:
        OptionError: there are several inputs, or the output is missing, a terminal, or the input.
        ResharpError: the image cannot be read, restored or written; nothing has been written then.
    """
    if len(inputs) > 1:
        raise OptionError(f"standard input and output (-) are for one image, got {len(inputs)}")
    if output is None:
        raise OptionError("standard input needs an `output`: a file, or - for standard output")
    (source,) = inputs
    for name, stream, used in (("input", sys.stdin, source), ("output", sys.stdout, output)):
        if used == "-" and is_closed(stream):
            raise OptionError(f"standard {name} is closed: redirect it, or name a file")
    stdout: Any = sys.stdout and sys.stdout.buffer
    if output == "-" and stdout.isatty():
        raise OptionError("standard output is a terminal: redirect it, or name a file as `output`")
    path = None if output == "-" else output
    named = Output.from_args(path, suffix, format_, config.scale)
    name, reading = "standard input", InputFiles()
    with suppress(OSError):  # a stream of another program that calls this one may be no file
        if source == "-":
            reading.add(Path(name), sys.stdin.fileno())
        else:
            reading.add(expanded(source))
        is_file = output == "-" and S_ISREG(os.fstat(stdout.fileno()).st_mode)
        if is_file and reading.find(stdout.fileno()) is not None:
            raise OptionError("standard output is the input file: redirect it to another file")
    if source == "-":
        data = load_stream(sys.stdin.buffer, name, max_pixels=max_pixels)
    else:
        name, data = source, load(expanded(source), max_pixels=max_pixels)
    picture = decode(data, name, max_pixels=max_pixels, allow_truncated=allow_truncated)
    usual = next(one.suffixes[0] for one in available() if one.name == picture.format)
    ending = f".{named.format}" if named.format else usual
    target = None
    if named.path is not None:
        ending = named.path.suffix if named.is_file else ending
        target = named.path if named.is_file else named.of(Path(f"stdin{ending}"), Path())
        ending = target.suffix
        if error := reading.refusal(target):
            raise OptionError(error)
        error = refusal(target, ours=False, typed=named.is_file, overwrite=overwrite)
        if error:
            raise OutputError(error)
    ending = ending if ending.lower() in writable() else ".png"
    with config.open() as restorer, closing(common.ProgressBar()) as bar:
        height, width = picture.pixels.shape[:2]
        check_result(ending, height, width, restorer.info.scale)
        pixels, _ = restorer.with_count(picture.pixels, progress=bar)
    made, notes = encode(pixels, picture.metadata, format=ending, quality=quality)
    if target is not None:
        write_whole(target, made, parents=True)
    else:
        stdout.write(made)
        stdout.flush()
    for note in notes:
        common.say(f"note: {name}: {note}")


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
    try:
        run.run()
    except KeyboardInterrupt:
        pass
    except ResharpError as error:
        if run.begun:
            common.sum_up(run.report(), as_json, error)
        raise
    common.sum_up(run.report(), as_json)

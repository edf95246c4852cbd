"""What several commands share: options, and what the user sees of a run over pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from resharp.errors import ResharpError
from resharp.folders import FolderOptions, FolderReport, FolderRun, Output, Result
from resharp.optional import require
from resharp.pipeline.restorer import RestoreConfig
from resharp.runtime import DEFAULT_MODEL

F = TypeVar("F", bound=Callable[..., Any])
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def _tile(ctx: click.Context, parameter: click.Parameter, value: str) -> int | str:
    """``auto`` or a number of pixels."""
    if value == "auto":
        return value
    if not value.isdecimal():
        raise click.BadParameter(f"{value!r} is neither 'auto' nor a number of pixels")
    return int(value)


def _gpus(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Numbers with commas between them."""
    parts = [] if value is None else value.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(f"{value!r} is no list of numbers: 0,1 say")
    return tuple(int(part) for part in parts)


_CONFIG = (
    click.option("-m", "--model", default=DEFAULT_MODEL, show_default=True, help="Model, bundle."),
    click.option("--scale", type=float, help="Output over input size (default: the model's)."),
    click.option("--denoise", type=float, help="Denoise strength 0..1, for realesr-general-x4v3."),
    click.option(
        "--tile", default="auto", show_default=True, callback=_tile, help="Largest tile, in pixels."
    ),
    click.option(
        "--tta",
        type=click.Choice(["1", "2", "4", "8"]),
        default="1",
        show_default=True,
        callback=lambda ctx, parameter, value: int(value),
        help="Mean over so many flips and turns, in as many times the time.",
    ),
    click.option(
        "--backend", default="auto", show_default=True, help="auto, tensorrt, torch, onnx."
    ),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N."),
    click.option("--gpus", callback=_gpus, metavar="N,N", help="GPUs to spread the work over."),
    click.option("--workers", type=click.IntRange(1), help="Pictures in work at once per device."),
    click.option("--threads", type=click.IntRange(1), help="CPU threads for each picture."),
    click.option("--store", type=click.Path(), help="Folder of the store."),
    click.option("--face", help="Restore faces with gfpgan-1.4, codeformer or restoreformer."),
    click.option(
        "--fidelity", type=float, help="CodeFormer: 0 beauty .. 1 likeness (default: 0.5)."
    ),
    click.option(
        "--face-weight", type=float, help="Share of the restored face, 0..1 (default: 1)."
    ),
    click.option("--only-center", is_flag=True, help="Only the face nearest to the middle."),
    click.option("--weights-dir", type=click.Path(), help="Folder of the face detector."),
)
_INPUTS = (
    click.argument("inputs", nargs=-1, required=True, metavar="INPUT..."),
    click.option(
        "-o", "--output", type=click.Path(path_type=Path), help="File or folder of results."
    ),
    *_CONFIG,
    click.option("--suffix", help="Added to names (default: none with -o; else _restored, _x2)."),
    click.option("--format", "format_", help="png, jpg, webp, tiff, ... (default: the input's)."),
    click.option("--quality", type=click.IntRange(1, 100), help="Of JPEG, WebP and AVIF."),
)


def add_options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """A decorator that gives a command several options."""

    def added(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return added


config_options = add_options(*_CONFIG)
"""What :func:`config_of` reads, and ``gpus`` and ``workers``."""
input_options = add_options(*_INPUTS)
"""What :func:`folder_run` reads, but for ``overwrite``."""


def config_of(options: dict[str, Any], *, aligned: bool = False) -> RestoreConfig:
    """What was asked; the options are taken out of ``options``.

    Raises:
        OptionError: it makes no sense.
    """
    known = [one.name for one in fields(RestoreConfig) if one.name in options]
    return RestoreConfig(aligned=aligned, **{name: options.pop(name) for name in known})


def folder_run(
    options: dict[str, Any], *, aligned: bool = False, watch: float | None = None, **how: Any
) -> FolderRun:
    """The run over pictures that a command's options ask for; ``how`` goes to the run itself.

    Raises:
        OptionError: it makes no sense.
    """
    config = config_of(options, aligned=aligned)
    names = (options["suffix"], options["format_"])
    output = Output.from_args(options["output"], *names, config.scale)
    own = ("quality", "overwrite", "gpus", "workers")
    chosen = FolderOptions(watch=watch, **{one: options[one] for one in own if one in options})
    return FolderRun(options["inputs"], output, config, chosen, **how)


class ProgressBar:
    """A bar on the terminal, made when there is something to show."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, done: float, total: int, name: str) -> None:
        """See :data:`OnProgress`."""
        if self._bar is None:
            tqdm = require("tqdm", feature="The progress bar", extra="").tqdm
            form = "{percentage:3.0f}%|{bar}| {desc} [{elapsed}<{remaining}]"
            self._bar = tqdm(total=total, bar_format=form, disable=None, leave=False)
        self._bar.total = total
        text = f"{name} ({min(int(done + 1e-6) + 1, total)}/{total})"
        self._bar.set_description_str(text, False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Take it off the terminal."""
        if self._bar is not None:
            self._bar.close()


def run_once(options: dict[str, Any], as_json: bool, **how: Any) -> None:
    """Run with a bar, and print what became of all; exit code 1 if one failed."""
    bar = ProgressBar()
    run = folder_run(options, progress=bar, **how)
    try:
        with closing(bar):
            done = run.run()
    except (KeyboardInterrupt, ResharpError) as error:
        if run.begun:  # the disk is full, say: what was done before is done
            report(run.report(), as_json)
        if isinstance(error, ResharpError):
            raise
        say("stopped: what is finished is kept, and the same command goes on")
        raise click.exceptions.Exit(INTERRUPTED) from None
    report(done, as_json)
    if done.failed:
        raise click.exceptions.Exit(1)


def report(done: FolderReport, as_json: bool) -> None:
    if as_json:
        sum_up(done, as_json)
    for result in done.results:
        say_notes(result)
        if result.error:
            say(f"failed: {result.input}: {result.error}")
    if not as_json:
        sum_up(done, as_json)


def sum_up(done: FolderReport, as_json: bool) -> None:
    click.echo(json.dumps(done.as_dict(), indent=2) if as_json else printable(done.summary()))


def say_notes(result: Result) -> None:
    for note in result.notes:
        say(f"note: {result.output}: {note}")


def say(text: str) -> None:
    click.echo(printable(text), err=True)


def printable(text: str) -> str:
    """Without the bytes of file names that are no text, which no stream takes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

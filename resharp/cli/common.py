"""What several commands share: options, and what the user sees of a run over images."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from resharp.checks import shown
from resharp.cli import JSON
from resharp.cli.interrupts import code_of
from resharp.cli.wording import printable, with_flags
from resharp.errors import OptionError, ResharpError
from resharp.folders import FolderOptions, FolderReport, FolderRun, Output, Plan, Result
from resharp.optional import require
from resharp.outputs import JournalOption
from resharp.pipeline.restorer import RestoreConfig
from resharp.runtime import DEFAULT_MODEL
from resharp.types import BackendName, Precision, Tta

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])
STOPPED = "Interrupted. Finished work is kept; run the same command to resume."
folder_type = click.Path(file_okay=False, path_type=Path)
store_option = click.option(
    "--store",
    type=folder_type,
    metavar="DIR",
    help="Folder of exported models and engines (default: in RESHARP_HOME).",
)
weights_dir_option = click.option(
    "--weights-dir",
    type=folder_type,
    metavar="DIR",
    help="Folder of checkpoints (default: in RESHARP_HOME).",
)
denoise_option = click.option(
    "--denoise", type=float, help="Denoise strength 0..1, for realesr-general-x4v3."
)
offline_option = click.option("--offline", is_flag=True, default=None, help="Forbid downloads.")


def _noted(ctx: click.Context, parameter: click.Parameter, value: bool) -> bool:
    """Record that an error must be printed as JSON too."""
    ctx.meta[JSON] = value
    return value


json_option = click.option("--json", "as_json", is_flag=True, callback=_noted, help="Print JSON.")


def print_json(data: Any) -> None:
    """Print the results of a command as JSON; a later error is not printed as JSON."""
    click.echo(json.dumps(data, indent=2))
    context = click.get_current_context(silent=True)
    if context is not None:
        context.meta[JSON] = False


def _tile(ctx: click.Context, parameter: click.Parameter, value: str) -> int | str:
    """Parse ``auto``, ``whole`` or a number of pixels."""
    if value in ("auto", "whole"):
        return value
    if not value.isdecimal() or len(value) > 18:
        raise click.BadParameter(f"{shown(value)} is not 'auto', 'whole' or a number of pixels.")
    return int(value)


_CONFIG = (
    click.option(
        "-m",
        "--model",
        default=DEFAULT_MODEL,
        show_default=True,
        help="Model name or bundle folder.",
    ),
    click.option("--scale", type=float, help="Output size over input size (default: the model's)."),
    denoise_option,
    click.option(
        "--tile",
        default="auto",
        show_default=True,
        callback=_tile,
        help="Largest tile in pixels, 'auto' or 'whole'.",
    ),
    click.option(
        "--tta",
        type=click.Choice([str(count) for count in get_args(Tta)]),
        default="1",
        show_default=True,
        callback=lambda ctx, parameter, value: int(value),
        help="Average over N flips and rotations; N times slower.",
    ),
    click.option(
        "--backend",
        type=click.Choice(get_args(BackendName)),
        default="auto",
        show_default=True,
        help="Library that runs the model.",
    ),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="Device: auto, cpu, cuda, cuda:1, or cuda:0,1 to share the work among GPUs.",
    ),
    click.option(
        "--precision",
        type=click.Choice(get_args(Precision)),
        default="auto",
        show_default=True,
        help="Use FP16 on a GPU where it is safe, or never.",
    ),
    click.option(
        "--memory-fraction",
        type=float,
        default=RestoreConfig.memory_fraction,
        show_default=True,
        help="Fraction of the free device memory for automatic tiles.",
    ),
    click.option("--workers", type=click.IntRange(1), help="Images in flight per device."),
    click.option("--threads", type=click.IntRange(1), help="CPU threads per image."),
    store_option,
    click.option("--face", help="Restore faces with gfpgan-v1.4, codeformer or restoreformer."),
    click.option(
        "--fidelity",
        type=float,
        help="CodeFormer: 0 = best quality, 1 = closest to the input (default: 0.5).",
    ),
    click.option("--face-weight", type=float, help="Opacity of restored faces, 0..1 (default: 1)."),
    click.option("--only-center", is_flag=True, help="Restore only the most central face."),
    weights_dir_option,
)
journal_option = click.option(
    "--journal",
    type=click.Choice(get_args(JournalOption)),
    default="auto",
    show_default=True,
    help="Where finished work is recorded: beside the output, in the cache folder, or auto: the "
    "former for folders of images.",
)
max_pixels_option = click.option(
    "--max-pixels",
    type=click.IntRange(1),
    metavar="N",
    help="Largest image or frame in pixels (default: RESHARP_MAX_PIXELS, else by memory).",
)
_INPUTS = (
    click.argument("inputs", nargs=-1, required=True, metavar="INPUT..."),
    click.option("-o", "--output", help="Output file or folder; - for standard output."),
    *_CONFIG,
    click.option(
        "--suffix", help="Suffix of output names (default: none with -o, else _restored or _x2)."
    ),
    click.option(
        "--format", "format_", help="Output format: png, jpg, webp, ... (default: the input's)."
    ),
    click.option("--quality", type=click.IntRange(1, 100), help="JPEG, WebP and AVIF quality."),
    click.option(
        "--allow-truncated",
        is_flag=True,
        help="Restore the readable part of truncated images.",
    ),
    journal_option,
    max_pixels_option,
)


class OrderedGroup(click.Group):
    """A group that lists its commands in the order of their definition."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(self.commands)


def add_options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Return a decorator that gives a command several options."""

    def added(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return added


config_options = add_options(*_CONFIG)
"""The options that :func:`config_of` reads, and ``workers``."""
input_options = add_options(*_INPUTS)
"""The options that :func:`folder_run` reads, except ``overwrite``."""


def config_of(options: dict[str, Any], *, aligned: bool = False) -> RestoreConfig:
    """Take the options of a config out of ``options`` and return the config.

    Raises:
        OptionError: an option is invalid.
    """
    known = [one.name for one in fields(RestoreConfig) if one.name in options]
    values = {name: options.pop(name) for name in known}
    paths = {name: str(one) for name, one in values.items() if isinstance(one, Path)}
    return RestoreConfig(aligned=aligned, **{**values, **paths})


def folder_run(
    options: dict[str, Any], *, aligned: bool = False, watch: float | None = None, **how: Any
) -> FolderRun:
    """Return the run over images that a command's options describe.

    Args:
        options: options of the command.
        aligned: inputs are aligned faces.
        watch: seconds between two looks for new files.
        how: further arguments of :class:`FolderRun`.

    Raises:
        OptionError: an option is invalid.
    """
    if "-" in (options["output"], *options["inputs"]):
        raise OptionError("`-` is for one image: use 'resharp upscale - -o -'")
    config = config_of(options, aligned=aligned)
    names = (options["suffix"], options["format_"])
    output = Output.from_args(options["output"], *names, config.scale)
    own = ("quality", "overwrite", "allow_truncated", "workers", "journal", "max_pixels")
    chosen = FolderOptions(watch=watch, **{one: options[one] for one in own if one in options})
    return FolderRun(options["inputs"], output, config, chosen, **how)


class Bar:
    """A progress bar that never gets in the way: it is created when drawn, and dropped if it fails.

    Args:
        how: arguments of tqdm.
    """

    def __init__(self, **how: Any) -> None:
        self._how, self._dropped = how, False
        self._bar: Any = None

    def draw(self, show: Callable[[Any], object], **how: Any) -> None:
        """Draw the bar; errors of the terminal or tqdm are logged and not raised.

        Args:
            show: sets the bar's values.
            how: further arguments for its creation.
        """
        if not self._dropped:
            self._guarded(lambda: show(self._created(how)))

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self._bar is not None:
            self._guarded(self._bar.close)

    def _created(self, how: dict[str, Any]) -> Any:
        if self._bar is None:
            tqdm = require("tqdm", feature="The progress bar", extra="").tqdm
            self._bar = tqdm(**self._how, **how, disable=None, leave=False)
        return self._bar

    def _guarded(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:
            self._bar, self._dropped = None, True
            logger.debug("the progress bar cannot be drawn: %s", error)
            # tqdm may not have released its lock, on which the next bar would block.
            if "tqdm" in sys.modules:
                sys.modules["tqdm"].tqdm.set_lock(threading.RLock())


class ProgressBar:
    """A bar on the terminal, created when there is something to show."""

    def __init__(self) -> None:
        self.names: Callable[[], Sequence[str]] = tuple
        """Returns the names of the images in flight."""
        self._bar = Bar(bar_format="{percentage:3.0f}%|{bar}| {desc} [{elapsed}<{remaining}]")

    def __call__(self, done: float, total: float) -> None:
        """Show how many images of how many are done."""
        at = min(int(done + 1e-6) + 1, round(total))
        text = f"{' '.join(self.names()[-1:])} ({at}/{total:.0f})".lstrip()

        def show(bar: Any) -> None:
            bar.total = total
            bar.set_description_str(printable(text), False)
            bar.update(done - bar.n)

        self._bar.draw(show, total=total)

    def close(self) -> None:
        """Remove the bar from the terminal."""
        self._bar.close()


def run_once(options: dict[str, Any], as_json: bool, **how: Any) -> None:
    """Run with a progress bar and print the outcome; exit with code 1 if an image failed."""
    bar = ProgressBar()
    run = folder_run(options, progress=bar, on_plan=say_plan, **how)
    bar.names = lambda: run.active
    try:
        with closing(bar):
            done = run.run()
    except (KeyboardInterrupt, ResharpError) as error:
        failed = error if isinstance(error, ResharpError) else None
        done = run.report()
        if run.begun and (as_json or done.results):  # e.g. the disk filled up after some results
            report(done, as_json, failed)
        if isinstance(error, ResharpError):
            raise
        say(STOPPED)
        raise click.exceptions.Exit(code_of(error)) from None
    report(done, as_json)
    if done.failed:
        raise click.exceptions.Exit(1)


def say_plan(plan: Plan) -> None:
    """Say which earlier results are going to be replaced."""
    if plan.redone:
        results = (
            "1 earlier result was" if plan.redone == 1 else f"{plan.redone} earlier results were"
        )
        say(
            f"{results} made from a different input, model or options, and will be redone; "
            f"{len(plan.todo) - plan.redone} more to restore, {plan.finished} left as they are"
        )


def report(done: FolderReport, as_json: bool, error: ResharpError | None = None) -> None:
    """Print the notes, failures and summary of a run; with JSON, also why it ended early."""
    if as_json:
        sum_up(done, as_json, error)
    for result in done.results:
        say_notes(result)
        if result.error:
            say(f"failed: {result.input}: {result.error}")
    if not as_json:
        sum_up(done, as_json)


def sum_up(done: FolderReport, as_json: bool, error: ResharpError | None = None) -> None:
    """Print the summary of a run; with JSON, also why it ended early."""
    if as_json:
        data = done.as_dict()
        for result in data["results"]:
            result["error"] = with_flags(result["error"])
            result["notes"] = [with_flags(note) for note in result["notes"]]
        if error is not None:
            data |= {"error": with_flags(str(error)), "code": error.code}
        print_json(data)
    else:
        click.echo(printable(with_flags(done.summary())))


def say_notes(result: Result) -> None:
    """Print the notes of a result."""
    for note in result.notes:
        say(f"note: {result.output}: {note}")


def say(text: str) -> None:
    """Print a line of a library's text to standard error."""
    click.echo(printable(with_flags(text)), err=True)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells in columns as wide as their longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())

"""``resharp video``: one video, or a sequence of pictures."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from typing import Any, TypeVar

import click

from resharp.cli.common import INTERRUPTED, add_options, config_of, config_options
from resharp.errors import ResharpError
from resharp.optional import require
from resharp.pipeline.staged_pipeline import StageReport
from resharp.video import CODECS, VideoOptions, VideoProgress, VideoReport, restore_video

LEVELS = 1.0
"""What ``--skip-duplicates`` alone stands for."""
F = TypeVar("F", bound=Callable[..., Any])


def _fraction(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Fraction | None:
    """A number or a ratio: ``23.976``, ``24000/1001``."""
    try:
        return None if value is None else Fraction(value)
    except (ValueError, ZeroDivisionError) as error:
        raise click.BadParameter(f"{value!r} is no number like 24 or 24000/1001") from error


def _seconds(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Fraction | None:
    """Seconds, or ``[hours:]minutes:seconds``."""
    if value is None:
        return None
    try:
        total = Fraction(0)
        for part in value.split(":"):
            total = total * 60 + Fraction(part)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no time like 83.5 or 1:23.5") from error
    return total


_OPTIONS = (
    click.option(
        "--fps", callback=_fraction, help="Constant frame rate (default: every timestamp)."
    ),
    click.option(
        "--codec",
        type=click.Choice(["auto", *CODECS]),
        default="auto",
        show_default=True,
        help="auto: h264, hevc for more than 8 bits.",
    ),
    click.option("--crf", type=float, help="Quality, lower is better (h264 18, hevc 20, av1 26)."),
    click.option("--preset", help="Of the encoder (default: a fast one)."),
    click.option("--encoder", help="Of libav, in place of the codec's usual one: h264_nvenc."),
    click.option("--start", callback=_seconds, help="Begin there: seconds, or minutes:seconds."),
    click.option("--end", callback=_seconds, help="Stop before: seconds, or minutes:seconds."),
    click.option(
        "--skip-duplicates",
        is_flag=False,
        flag_value=LEVELS,
        type=float,
        metavar="[LEVELS]",
        help=f"Show a result again where frames differ by so little (default: {LEVELS:g} of 255).",
    ),
    click.option(
        "--segment",
        type=click.IntRange(1),
        default=VideoOptions().segment,
        show_default=True,
        help="Frames that are finished together.",
    ),
    click.option(
        "--encoder-threads",
        type=click.IntRange(1),
        help="Of the encoder (default: 1.5 for each core).",
    ),
)


video_options = add_options(*_OPTIONS)
"""The options of :class:`VideoOptions`."""


def show(run: Callable[[Shown], VideoReport], as_json: bool) -> None:
    """Run, with a bar or lines of JSON, and print what became of it.

    Args:
        run: takes what shows progress and notes.
        as_json: print JSON.
    """
    shown = _JsonLines() if as_json else Shown()
    # SVT-AV1 greets on the standard error otherwise.
    os.environ.setdefault("SVT_LOG", "1")
    try:
        with closing(shown):
            report = run(shown)
    except KeyboardInterrupt as error:
        shown.stopped()
        raise click.exceptions.Exit(INTERRUPTED) from error
    except ResharpError as error:
        shown.failed(error)
        raise
    shown.done(report)


@click.command()
@click.argument("source", metavar="IN")
@click.option("-o", "--output", required=True, metavar="OUT", help="File, folder or %06d.png.")
@config_options
@video_options
@click.option("--overwrite", is_flag=True, help="Make a result anew that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print progress and result as JSON lines.")
def command(source: str, output: str, overwrite: bool, as_json: bool, **options: Any) -> None:
    """Restore a video: its timestamps, sound, subtitles, chapters and colors are kept.

    IN and OUT are video files, or numbered pictures: frames/%06d.png. An interrupted run goes on
    where it stopped when the same command is given again.
    """
    config = config_of(options)
    gpus, workers = options.pop("gpus"), options.pop("workers")

    def run(shown: Shown) -> VideoReport:
        return restore_video(
            source,
            output,
            config,
            options=VideoOptions(**options),
            gpus=gpus,
            workers=workers,
            overwrite=overwrite,
            progress=shown.progress,
            log=shown.log,
        )

    show(run, as_json)


def waiting(stages: tuple[StageReport, ...], seconds: float) -> dict[str, float]:
    """Share of the time that each stage has waited for another, 0..1."""
    return {
        one.name: round(min((one.starved + one.blocked) / max(one.threads * seconds, 1e-9), 1), 3)
        for one in stages
    }


class Shown:
    """What the user sees of a run: a progress bar, and words."""

    def __init__(self) -> None:
        self.out = sys.stdout
        """Of results, whatever others make of it meanwhile: a cluster prints there."""
        self._bar: Any = None

    def close(self) -> None:
        """Take the bar away; before anything is printed about the end."""
        if self._bar is not None:
            self._bar.close()

    def progress(self, progress: VideoProgress) -> None:
        """Show how far it is."""
        if self._bar is None:
            tqdm = require("tqdm", feature="The progress bar", extra="").tqdm
            self._bar = tqdm(
                total=progress.total or None,
                initial=progress.began_at,
                unit="frame",
                disable=None,
                leave=False,
            )
        shares = waiting(progress.stages, progress.seconds)
        text = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        self._bar.set_postfix_str(f"waiting: {text}", refresh=False)
        self._bar.update(progress.done - self._bar.n)

    def log(self, text: str) -> None:
        """Show what the user should know."""
        click.echo(f"note: {text}", err=True)

    def stopped(self) -> None:
        """After Ctrl-C."""
        click.echo("stopped: what is finished is kept, and the same command goes on", err=True)

    def failed(self, error: ResharpError) -> None:
        """After an error; click prints it."""

    def done(self, report: VideoReport) -> None:
        """At the end."""
        if report.skipped:
            click.echo("1 skipped (done before)", file=self.out)
            return
        rate = (report.frames - report.resumed_at) / max(report.seconds, 1e-9)
        repeated = f", {report.repeated} repeated" if report.repeated else ""
        before = f", {report.resumed_at} of them before" if report.resumed_at else ""
        click.echo(
            f"{report.frames} frames{before}{repeated}, {report.description}, {rate:.2f} frames/s: "
            f"{report.target} ({report.width}x{report.height})",
            file=self.out,
        )


class _JsonLines(Shown):
    """An object of JSON for each event, for machines."""

    def progress(self, progress: VideoProgress) -> None:
        self._print(
            event="progress",
            done=progress.done,
            total=progress.total or None,
            fps=round(progress.rate, 3),
            left=None if progress.left is None else round(progress.left, 1),
            waiting=waiting(progress.stages, progress.seconds),
        )

    def log(self, text: str) -> None:
        self._print(event="note", text=text)

    def stopped(self) -> None:
        self._print(event="stopped")

    def failed(self, error: ResharpError) -> None:
        self._print(event="failed", error=str(error), kind=type(error).__name__)

    def done(self, report: VideoReport) -> None:
        names = ("frames", "restored", "repeated", "resumed_at", "width", "height")
        self._print(
            event="done",
            output=str(report.target),
            status="skipped" if report.skipped else "restored",
            **{name: getattr(report, name) for name in names},
            seconds=round(report.seconds, 3),
            waiting=waiting(report.stages, report.seconds),
            **{"with": report.description},
            notes=list(report.notes),
        )

    def _print(self, **event: Any) -> None:
        click.echo(json.dumps(event), file=self.out)

"""``resharp video``: one video, or a sequence of images."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from typing import Any, TypeVar

import click

from resharp.checks import shown
from resharp.cli.common import (
    STOPPED,
    Bar,
    add_options,
    config_of,
    config_options,
    journal_option,
    max_pixels_option,
    say,
)
from resharp.cli.interrupts import code_of
from resharp.cli.wording import printable, with_flags
from resharp.errors import OutputError, ResharpError
from resharp.pipeline.staged_pipeline import StageReport
from resharp.video import CODECS, VideoOptions, VideoReport, restore_video

LEVELS = 1.0
"""The value of ``--skip-duplicates`` without one."""
F = TypeVar("F", bound=Callable[..., Any])


def _fraction(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Fraction | None:
    """Parse a number or a ratio: ``23.976``, ``24000/1001``."""
    try:
        return None if value is None else Fraction(value)
    except (ValueError, ZeroDivisionError) as error:
        raise click.BadParameter(
            f"{shown(value)} is not a number such as 24 or 24000/1001."
        ) from error


def _seconds(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Fraction | None:
    """Parse seconds, or ``[hours:]minutes:seconds``."""
    if value is None:
        return None
    try:
        total = Fraction(0)
        for part in value.split(":"):
            total = total * 60 + Fraction(part)
    except (ValueError, ZeroDivisionError) as error:
        raise click.BadParameter(f"{shown(value)} is not a time such as 83.5 or 1:23.5.") from error
    return total


_OPTIONS = (
    click.option(
        "--fps", callback=_fraction, help="Constant frame rate (default: keep every timestamp)."
    ),
    click.option(
        "--codec",
        type=click.Choice(["auto", *CODECS]),
        default="auto",
        show_default=True,
        help="Video codec; auto is h264, hevc for more than 8 bits, or av1 for .webm.",
    ),
    click.option(
        "--crf", type=float, help="Quality, lower is better (default: h264 18, hevc 20, av1 26)."
    ),
    click.option("--preset", help="Encoder preset (default: a fast one)."),
    click.option(
        "--encoder", help="FFmpeg encoder to use instead of the default, e.g. h264_nvenc."
    ),
    click.option(
        "--pixel-format",
        metavar="NAME",
        help="FFmpeg's pixel format, e.g. yuv444p (default: one that players support).",
    ),
    click.option(
        "--stream",
        type=click.IntRange(0),
        metavar="INDEX",
        help="Video stream to restore, as ffprobe counts (default: the one that players play).",
    ),
    click.option("--start", callback=_seconds, help="Start time: seconds, or minutes:seconds."),
    click.option("--end", callback=_seconds, help="End time: seconds, or minutes:seconds."),
    click.option(
        "--skip-duplicates",
        is_flag=False,
        flag_value=LEVELS,
        type=float,
        metavar="[LEVELS]",
        help=f"Repeat a result if frames differ by at most LEVELS of 255 (default: {LEVELS:g}).",
    ),
    click.option(
        "--segment",
        type=click.IntRange(1),
        default=VideoOptions.segment,
        show_default=True,
        help="Frames that are finished together.",
    ),
    click.option(
        "--encoder-threads",
        type=click.IntRange(1),
        help="Encoder threads (default: 1.5 per core).",
    ),
    journal_option,
    max_pixels_option,
)


video_options = add_options(*_OPTIONS)
"""The options of :class:`VideoOptions`."""


def show(run: Callable[[Shown], VideoReport], as_json: bool) -> None:
    """Run with a progress bar, or with lines of JSON, and print the outcome.

    Args:
        run: called with the object that shows progress and notes.
        as_json: print JSON.
    """
    shown = _JsonLines() if as_json else Shown()
    # Otherwise SVT-AV1 prints a banner to standard error.
    os.environ.setdefault("SVT_LOG", "1")
    try:
        with closing(shown):
            report = run(shown)
    except KeyboardInterrupt as error:
        shown.stopped()
        raise click.exceptions.Exit(code_of(error)) from error
    except ResharpError as error:
        shown.failed(error)
        raise
    shown.done(report)


@click.command()
@click.argument("source", metavar="IN")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUT",
    help="Output file (also .gif, .webp, .apng), folder or pattern such as %06d.png.",
)
@config_options
@video_options
@click.option("--overwrite", is_flag=True, help="Overwrite an existing output.")
@click.option("--json", "as_json", is_flag=True, help="Print progress and result as JSON lines.")
def command(source: str, output: str, overwrite: bool, as_json: bool, **options: Any) -> None:
    """Restore a video; its timestamps, audio, subtitles, chapters and colors are kept.

    IN and OUT are video files, animated images, or numbered images such as frames/%06d.png. Run
    the same command again to resume an interrupted run.
    """

    def run(shown: Shown) -> VideoReport:
        config, workers = config_of(options), options.pop("workers")
        return restore_video(
            source,
            output,
            config=config,
            workers=workers,
            overwrite=overwrite,
            progress=shown.progress,
            on_stages=shown.on_stages,
            log=shown.log,
            **options,
        )

    show(run, as_json)


class Shown:
    """What the user sees of a run: a progress bar and notes."""

    def __init__(self) -> None:
        self.out = sys.stdout
        """Where results are printed, even if standard output is redirected later, for a cluster."""
        self.waiting: dict[str, float] = {}
        """Fraction of the time, 0..1, that each stage has waited for another."""
        self._began = time.monotonic()
        self._first: float | None = None  # frames that earlier runs have finished
        self._bar = Bar(unit="frame")

    def close(self) -> None:
        """Remove the bar, before anything is printed about the end."""
        self._bar.close()

    def on_stages(self, stages: tuple[StageReport, ...]) -> None:
        """Take what each stage has done so far."""
        self.waiting = waiting(stages, self.seconds)

    def progress(self, done: float, total: float) -> None:
        """Show how many frames of how many are done."""
        if self._first is None:
            self._first, self._began = done, time.monotonic()
        self.update(done, total)

    @property
    def seconds(self) -> float:
        """Seconds since the first frame of this run."""
        return max(time.monotonic() - self._began, 1e-9)

    def rate(self, done: float) -> float:
        """Return the frames per second of this run."""
        return (done - (self._first or 0)) / self.seconds

    def update(self, done: float, total: float) -> None:
        """Draw the bar."""
        text = ", ".join(f"{name} {share:.0%}" for name, share in self.waiting.items())

        def show(bar: Any) -> None:
            bar.set_postfix_str(f"waiting: {text}", refresh=False)
            bar.update(done - bar.n)

        self._bar.draw(show, total=total or None, initial=done)

    def log(self, text: str) -> None:
        """Show a note."""
        say(f"note: {text}")

    def stopped(self) -> None:
        """Say that the run was interrupted."""
        say(STOPPED)

    def failed(self, error: ResharpError) -> None:
        """Do nothing: click prints the error."""

    def done(self, report: VideoReport) -> None:
        """Print the outcome."""
        if report.skipped:
            click.echo("1 skipped (already finished)", file=self.out)
            return
        rate = (report.frames - report.resumed_at) / max(report.seconds, 1e-9)
        repeated = f", {report.repeated} repeated" if report.repeated else ""
        plural = "" if report.frames == 1 else "s"
        before = f", {report.resumed_at} of them before" if report.resumed_at else ""
        text = (
            f"{report.frames} frame{plural}{before}{repeated}, {report.description}, "
            f"{rate:.2f} frames/s: {report.target} ({report.width}x{report.height})"
        )
        click.echo(printable(text), file=self.out)


class _JsonLines(Shown):
    """An object of JSON for each event, for machines."""

    def __init__(self) -> None:
        super().__init__()
        self._unprinted: OutputError | None = None

    def update(self, done: float, total: float) -> None:
        rate = self.rate(done)
        known = rate > 0 and total >= done
        self._print(
            event="progress",
            done=done,
            total=total or None,
            fps=round(rate, 3),
            left=round((total - done) / rate, 1) if known else None,
            waiting=self.waiting,
        )

    def log(self, text: str) -> None:
        self._print(event="note", text=with_flags(text))

    def stopped(self) -> None:
        self._print(event="stopped")

    def failed(self, error: ResharpError) -> None:
        kind = type(error).__name__
        self._print(event="failed", error=with_flags(str(error)), kind=kind, code=error.code)

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
            notes=[with_flags(note) for note in report.notes],
        )
        if self._unprinted is not None:
            raise self._unprinted

    def _print(self, **event: Any) -> None:
        try:
            click.echo(json.dumps(event), file=self.out)
        except OutputError as error:  # e.g. a full disk, which does not stop the work
            self._unprinted = error


def waiting(stages: tuple[StageReport, ...], seconds: float) -> dict[str, float]:
    """Return the fraction of the time, 0..1, that each stage has waited for another."""
    return {
        one.name: round(min((one.starved + one.blocked) / max(one.threads * seconds, 1e-9), 1), 3)
        for one in stages
    }

"""``resharp upscale``: files, folders and globs."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from resharp.errors import OptionError, ResharpError
from resharp.optional import require
from resharp.runtime import DEFAULT_MODEL
from resharp.runtime.folders import (
    FolderOptions,
    FolderRun,
    Hooks,
    Report,
    Result,
    Target,
    default_suffix,
)
from resharp.runtime.recipe import Recipe, plain_path
from resharp.runtime.settings import Settings

INTERVAL = 1.0
"""Seconds between two looks at a watched folder."""


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


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File or folder of results.")
@click.option("-m", "--model", default=DEFAULT_MODEL, show_default=True, help="Model, or bundle.")
@click.option("--scale", type=float, help="Output over input size (default: the model's).")
@click.option("--denoise", type=float, help="Denoise strength 0..1, for realesr-general-x4v3.")
@click.option("--suffix", help="Added to names (default: none with -o; else _restored, _x2).")
@click.option("--format", "format_", help="png, jpg, webp, tiff, ... (default: the input's).")
@click.option("--quality", type=click.IntRange(1, 100), help="Of JPEG, WebP and AVIF.")
@click.option(
    "--tile", default="auto", show_default=True, callback=_tile, help="Largest tile, in pixels."
)
@click.option(
    "--views",
    type=click.Choice(["1", "2", "4", "8"]),
    default="1",
    show_default=True,
    help="Mean over so many flips and turns, in as many times the time.",
)
@click.option("--backend", default="auto", show_default=True, help="auto, tensorrt, torch, onnx.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N.")
@click.option("--gpus", callback=_gpus, metavar="N,N", help="Share the pictures among these GPUs.")
@click.option("--workers", type=click.IntRange(1), help="Pictures in work at once on each device.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option("--engines", type=click.Path(path_type=Path), help="Folder of the store.")
@click.option("--face", help="Restore faces with gfpgan-1.4, codeformer or restoreformer.")
@click.option("--fidelity", type=float, help="CodeFormer: 0 beauty .. 1 likeness (default: 0.5).")
@click.option("--face-weight", type=float, help="Share of the restored face, 0..1 (default: 1).")
@click.option("--only-center", is_flag=True, help="Only the face nearest to the middle.")
@click.option("--aligned", is_flag=True, help="Inputs are aligned 512x512 faces; no upscaling.")
@click.option("--weights", type=click.Path(path_type=Path), help="Folder of the face detector.")
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
    gpus: tuple[int, ...],
    workers: int | None,
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
    recipe = _recipe(**options)
    if suffix is None:
        suffix = default_suffix(output, recipe.settings.scale)
    target = Target(output=output, suffix=suffix, format=_plain(format_))
    how = FolderOptions(
        quality=quality,
        overwrite=overwrite,
        gpus=gpus,
        workers=workers,
        watch=(interval or INTERVAL) if watch else None,
    )
    if watch:
        _watch(inputs, target, recipe, how, as_json)
    else:
        _once(inputs, target, recipe, how, as_json)


def _recipe(
    views: str,
    face: str | None,
    fidelity: float | None,
    face_weight: float | None,
    only_center: bool,
    aligned: bool,
    weights: Path | None,
    engines: Path | None,
    **settings: Any,
) -> Recipe:
    return Recipe(
        settings=Settings(engines=plain_path(engines), **settings),
        views=int(views),
        face=face,
        fidelity=fidelity,
        face_weight=face_weight,
        only_center=only_center,
        aligned=aligned,
        weights=plain_path(weights),
    )


def _once(
    inputs: tuple[str, ...], target: Target, recipe: Recipe, how: FolderOptions, as_json: bool
) -> None:
    with ExitStack() as stack:
        run = FolderRun(inputs, target, recipe, how, Hooks(progress=_bar(stack)))
        try:
            report = run.run()
        except ResharpError:
            stack.close()
            if run.begun:  # the disk is full, say: what was done before is done
                _report(run.report(), as_json)
            raise
    _report(report, as_json)
    if report.failed:
        raise click.exceptions.Exit(1)


def _watch(
    inputs: tuple[str, ...], target: Target, recipe: Recipe, how: FolderOptions, as_json: bool
) -> None:
    def ready() -> None:
        _say(f"watching {', '.join(inputs)}: Ctrl-C ends it")

    def told(result: Result) -> None:
        if result.status != "skipped" or result.notes:
            _say(f"{result.status}: {result.input}" + (f": {result.error}" if result.error else ""))
            _say_notes(result)

    run = FolderRun(inputs, target, recipe, how, Hooks(on_result=told, on_ready=ready))
    # What stops a service or a container ends it as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run.run()
    except KeyboardInterrupt:
        pass
    except ResharpError:
        if run.begun:
            _sum_up(run.report(), as_json)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    _sum_up(run.report(), as_json)


def _bar(stack: ExitStack) -> Callable[[float, int, str], None]:
    """A bar on the terminal, made when there is something to show."""
    bars: list[Any] = []

    def show(done: float, total: int, name: str) -> None:
        if not bars:
            tqdm = require("tqdm", feature="The progress bar", extra="").tqdm
            form = "{percentage:3.0f}%|{bar}| {desc} [{elapsed}<{remaining}]"
            bars.append(
                stack.enter_context(tqdm(total=total, bar_format=form, disable=None, leave=False))
            )
        (bar,) = bars
        bar.total = total
        bar.set_description_str(f"{name} ({min(int(done + 1e-6) + 1, total)}/{total})", False)
        bar.update(done - bar.n)

    return show


def _report(report: Report, as_json: bool) -> None:
    if as_json:
        _sum_up(report, as_json)
    for result in report.results:
        _say_notes(result)
        if result.error:
            _say(f"failed: {result.input}: {result.error}")
    if not as_json:
        _sum_up(report, as_json)


def _sum_up(report: Report, as_json: bool) -> None:
    text = json.dumps(report.as_dict(), indent=2) if as_json else _printable(report.summary())
    click.echo(text)


def _say_notes(result: Result) -> None:
    for note in result.notes:
        _say(f"note: {result.output}: {note}")


def _say(text: str) -> None:
    click.echo(_printable(text), err=True)


def _printable(text: str) -> str:
    """Without the bytes of file names that are no text, which no stream takes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _plain(format_: str | None) -> str | None:
    return None if format_ is None else format_.lower().lstrip(".")

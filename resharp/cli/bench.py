"""``resharp bench``: throughput against memory, with parity before every number."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from resharp.checks import shown
from resharp.cli.common import (
    OrderedGroup,
    json_option,
    print_json,
    print_table,
    say,
    store_option,
)
from resharp.cli.interrupts import code_of
from resharp.errors import OptionError, ResharpError

if TYPE_CHECKING:
    from resharp.bench.capacity import Capacity
    from resharp.bench.compare import Comparison
    from resharp.bench.records import Record, Records

FOLDER = Path("resharp-bench")
"""Default folder of runs."""

_file = click.Path(dir_okay=False, path_type=Path)


@click.group(cls=OrderedGroup)
def bench() -> None:
    """Measure how fast each backend is here, and how much memory it takes.

    \b
    resharp bench run --quick && resharp bench report
    """  # noqa: D301  # \b is a character


@bench.command(short_help="Measure the backends.")
@click.option(
    "--quick", is_flag=True, help="Run the suite 'quick': under two minutes on two cores."
)
@click.option(
    "--suite",
    help="Suite: quick, cpu, gpu, ..., or a .json file (default: gpu if there is one, else cpu).",
)
@click.option("--models", "-m", multiple=True, help="Exported models, or the suite's random ones.")
@click.option(
    "--backends", "-b", multiple=True, help="Backends: onnx,torch, ...; baselines are always run."
)
@click.option("--output", "-o", type=_file, help=f"Records file (default: in {FOLDER}/).")
@store_option
def run(
    quick: bool,
    suite: str | None,
    models: tuple[str, ...],
    backends: tuple[str, ...],
    output: Path | None,
    store: Path | None,
) -> None:
    """Measure each case: compare it with FP32, then alternate it with a baseline."""
    if quick and suite:
        raise OptionError("`quick` is a suite of its own: leave out `suite`")
    records, path = _measure("quick" if quick else suite, models, backends, output, store)
    _summary(records)
    say(f"records: {path}; plots: resharp bench report {path}")
    if not records.measured():
        raise ResharpError("nothing could be measured; the reasons are above")


@bench.command(short_help="Compare two runs.")
@click.argument("old", type=_file)
@click.argument("new", type=_file)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, max_open=True),
    help="Largest loss of speed that is not a regression (default: 0.1).",
)
@json_option
def compare(old: Path, new: Path, threshold: float | None, as_json: bool) -> None:
    """Compare two runs; the exit code is 1 if a backend of resharp got worse."""
    from resharp.bench import compare as comparing
    from resharp.bench.records import read

    limit = comparing.THRESHOLD if threshold is None else threshold
    found = comparing.compare(read(old), read(new), limit)
    for warning in found.warnings:
        say(f"warning: {warning}")
    if as_json:
        print_json(asdict(found) | {"regressed": bool(found.regressions)})
    else:
        _changes(found)
    if found.regressions:
        names = ", ".join(change.id for change in found.regressions)
        raise ResharpError(f"worse than {old}: {names}")


@bench.command(short_help="Write an HTML report of a run.")
@click.argument("records", type=_file, required=False)
@click.option(
    "--output",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    help="Output folder (default: next to the records).",
)
def report(records: Path | None, output: Path | None) -> None:
    """Write report.html and plots of a run (default: the latest)."""
    from resharp.bench.records import newest, read
    from resharp.bench.report import write_report

    path = records or newest(FOLDER)
    for written in write_report(read(path), output or path.with_suffix("")):
        click.echo(written)


@bench.command(short_help="Estimate speed for an amount of memory.")
@click.option("--model", "-m", default="resharp-x4", show_default=True, help="Model name.")
@click.option("--memory", required=True, help="Memory of the GPU or the host, e.g. 8GB or 7.5GiB.")
@click.option("--size", default="1920x1080", show_default=True, help="Image size to estimate for.")
@click.option(
    "--records", type=_file, help="Records file (default: the latest run with the model)."
)
@store_option
@json_option
def capacity(
    model: str,
    memory: str,
    size: str,
    records: Path | None,
    store: Path | None,
    as_json: bool,
) -> None:
    """Estimate what an amount of memory is enough for: largest tile, speed, images per hour.

    The figures come from records, or from a short run if there are none.
    """
    from resharp.bench.capacity import capacities, parse_memory
    from resharp.bench.records import read

    wanted, (width, height) = parse_memory(memory), _size(size)
    if records is not None:
        found, path = read(records), records
    else:
        short = _by_device("capacity-")
        found, path = _recent(model, short) or _measure(short, (model,), (), None, store)
    answers = capacities(found.measured(), model, wanted)
    if as_json:
        data = [asdict(a) | {"images_per_hour": a.per_hour(height, width)} for a in answers]
        print_json({"records": str(path), "answers": data})
        return
    click.echo(f"{model}, {memory}, images of {width}x{height} (from {path})")
    for answer in answers:
        click.echo(_answer(answer, height, width))


def _measure(
    suite: str | None,
    models: Sequence[str],
    backends: Sequence[str],
    output: Path | None,
    store: Path | None,
) -> tuple[Records, Path]:
    from resharp.bench import cases
    from resharp.bench.benchmark import Benchmark
    from resharp.bench.records import read

    chosen = cases.load(suite or _by_device(""))
    picked = cases.choose(chosen, _split(models), _split(backends))
    if output is not None and os.path.lexists(output):
        try:
            read(output)
        except ResharpError:
            text = (
                f"{output} exists and is no file of records, so it is not replaced: choose another"
            )
            raise OptionError(f"{text} `output`") from None
    path = output or FOLDER / f"run-{datetime.now():%Y%m%d-%H%M%S}.jsonl"
    try:
        return Benchmark(chosen, picked, path, store, say).run(), path
    except KeyboardInterrupt as error:
        say(f"Interrupted. Finished measurements are in {path}")
        raise click.exceptions.Exit(code_of(error)) from None


def _by_device(prefix: str) -> str:
    from resharp.gpu.devices import has_gpu

    return f"{prefix}{'gpu' if has_gpu() else 'cpu'}"


def _recent(model: str, suite: str) -> tuple[Records, Path] | None:
    """Return the latest run that shows how a model's memory grows on the suite's device."""
    from resharp.bench.capacity import capacities
    from resharp.bench.records import read

    for path in sorted(FOLDER.glob("run-*.jsonl"), reverse=True):
        try:
            found = read(path)
            answers = capacities(found.measured(), model, 0)
        except OptionError as error:  # e.g. of another version, or about other models
            say(f"skipped: {error}")
            continue
        if any(one.line and one.on_gpu == suite.endswith("gpu") for one in answers):
            return found, path
    return None


def _split(values: Sequence[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise OptionError(f"`size` must be WIDTHxHEIGHT, e.g. 1920x1080, got {shown(text)}")
    return int(width), int(height)


def _summary(records: Records) -> None:
    rows: list[Sequence[str]] = [("case", "parity", "MP/s", "x baseline", "noise", "memory")]
    rows += [_line(record) for record in (*records.twins(), *records.measured())]
    print_table(rows)
    for record in records.cases:
        if record.reason:
            say(f"{record.case.id}: {record.status}: {record.reason}")


def _line(record: Record) -> Sequence[str]:
    parity, taken = record.parity, record.peak_memory
    ratio = f"{record.ratio.median:.3f}" if record.ratio else "1"
    return (
        record.case.id + (" (again)" if record.twin else ""),
        f"{parity.psnr:.1f} dB" if parity else "",
        "" if record.megapixels is None else f"{record.megapixels:.4g}",
        ratio,
        "" if record.noise is None else f"{100 * record.noise:.1f} %",
        "" if taken is None else f"{taken / 2**20:.0f} MiB",
    )


def _changes(found: Comparison) -> None:
    rows: list[Sequence[str]] = [("case", "speed, new / old", "noise", "verdict", "")]
    for change in found.changes:
        ratio = "" if change.ratio is None else f"{change.ratio:.3f}"
        noise = "" if change.noise is None else f"{100 * change.noise:.1f} %"
        rows.append((change.id, ratio, noise, change.verdict, change.note))
    print_table(rows)
    for which, count in found.only.items():
        if count:
            say(f"{count} cases only in the {which} run")


def _answer(answer: Capacity, height: int, width: int) -> str:
    what = f"{answer.subject}, {'GPU' if answer.on_gpu else 'host'} memory"
    if answer.best is None or answer.best.actual is None:
        return f"{what}: does not fit; the smallest measurement took {answer.needed / 1e9:.2f} GB"
    actual, speed = answer.best.actual, answer.megapixels
    largest = "unknown (one size measured)" if answer.largest_tile is None else answer.largest_tile
    options = [f"tile {actual.tile}"]
    options += [f"threads {answer.threads}"] if answer.threads else []
    options += [f"batch {actual.batch}"] if actual.batch and actual.batch > 1 else []
    options += [f"lanes {actual.lanes}"] if actual.lanes and actual.lanes > 1 else []
    return (
        f"{what}: largest tile {largest}; fastest measured: {', '.join(options)}, "
        f"{speed:.3g} MP/s, {answer.per_hour(height, width):.0f} images per hour"
    )

"""``python -m benchmarks.tuned``: settings found by ``export-engines --tune``, against defaults."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from benchmarks.common import json_option, report
from resharp.bench.cases import Budget, Case
from resharp.bench.measure.estimates import paired_ratio
from resharp.bench.measure.paired_timing import alternate
from resharp.bench.parity_check import make_reference, open_case
from resharp.bench.worker_process import WorkerProcess
from resharp.gpu.devices import device_name
from resharp.runtime import DEFAULT_MODEL, resolve

SIZES = ((480, 700), (640, 420), (300, 900))
"""(height, width) of the images, none of which was used for tuning."""
BUDGET = Budget(pairs=9, most_pairs=31, seconds=15.0, limit=40.0)


@click.command()
@click.option("-m", "--model", default=DEFAULT_MODEL, show_default=True)
@click.option("--backend", type=click.Choice(["onnx", "torch"]), default="onnx", show_default=True)
@click.option("--store", type=click.Path(file_okay=False, path_type=Path))
@json_option
def main(model: str, backend: str, store: Path | None, json_file: Path | None) -> None:
    """Compare the tuned settings with the defaults on three images, pair by pair, on the CPU."""
    bundle = resolve(model, store=store)
    tuning = bundle.manifest.tuning(backend, device_name("cpu"))
    if tuning is None:
        raise click.ClickException(
            f"{model} is not tuned for {backend} on this CPU: "
            f"run 'export-engines {model} --tune' first"
        )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for height, width in SIZES:
            reference = make_reference(bundle, height, width, Path(folder), lambda line: None)
            default = Case(model=model, subject=backend, height=height, width=width)
            tuned = Case(
                model=model,
                subject=backend,
                height=height,
                width=width,
                tile=tuning.tile or "auto",
                threads=tuning.threads,
            )
            with WorkerProcess() as one, WorkerProcess() as two:
                open_case(one, default, reference)
                open_case(two, tuned, reference)
                times = alternate(one, two, BUDGET)
            ratio = paired_ratio(times.first, times.second)
            interval = f"{ratio.low:.3f}..{ratio.high:.3f}"
            rows.append((f"{width}x{height}", ratio.median, interval, len(times.first)))
    columns = ("picture", "times the default's speed", "interval", "pairs")
    report(f"{model}, {backend}, {tuning}", columns, rows, {"gain stored": tuning.gain}, json_file)


if __name__ == "__main__":
    main()

"""``python -m benchmarks.gpu.bars RECORDS``: performance targets on a GPU, checked against a run.

The records come from ``resharp bench run --suite gpu``. ``make gpu`` does both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from resharp.bench.records import Record, Records, read

BASELINE = "upstream"
AHEAD = {"srvgg-16x64-random": 3.0, "rrdbnet-23-random": 1.5}
"""Minimum speed of the best setting of each subject, relative to Real-ESRGAN's script."""
MOST_OVER_DEVICE = 1.10
"""Maximum end-to-end time of a single image, relative to the time of the network alone."""
LEAST_SHARE = {"rrdbnet-23-random": 0.40}
"""Minimum rate of the network while it runs, as a fraction of the matrix-product rate."""


@dataclass(frozen=True)
class Bar:
    """One performance target and the measured value."""

    text: str
    value: float | None
    bar: float
    least: bool
    """Whether ``bar`` is a minimum rather than a maximum."""

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.text}: not measured"
        met = self.value >= self.bar if self.least else self.value <= self.bar
        sign = "at least" if self.least else "at most"
        return f"{self.text}: {'met' if met else 'MISSED'} ({self.value:.3g}, {sign} {self.bar:g})"


def bars(records: Records) -> Iterator[Bar]:
    """Yield every target for each subject that ran on the GPU."""
    for model, ahead in AHEAD.items():
        for subject, cases in _by_subject(records, model).items():
            name = f"{model}, {subject}"
            ratios = [case.ratio.median for case in cases if case.ratio is not None]
            text = f"{name}: speed relative to {BASELINE}"
            yield Bar(text, max(ratios, default=None), ahead, True)
            over = [one for case in cases if (one := _over_device(case)) is not None]
            text = f"{name}: time of a single image relative to the network alone"
            yield Bar(text, min(over, default=None), MOST_OVER_DEVICE, False)
            if model in LEAST_SHARE:
                shares = [one for case in cases if (one := _share(case, records)) is not None]
                text = f"{name}: fraction of the matrix rate while the network runs"
                yield Bar(text, max(shares, default=None), LEAST_SHARE[model], True)


def _by_subject(records: Records, model: str) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records.measured():
        if record.case.model == model and record.on_gpu and not record.case.is_baseline:
            groups.setdefault(record.case.subject, []).append(record)
    return groups


def _device_seconds(record: Record) -> float | None:
    return record.stages.compute if record.stages is not None else None


def _over_device(record: Record) -> float | None:
    device = _device_seconds(record)
    if record.case.lanes != 1 or not device or record.seconds is None:
        return None
    return record.seconds.median / device


def _share(record: Record, records: Records) -> float | None:
    device, rate = _device_seconds(record), records.run.matrix_rate.get("cuda fp16")
    rates = record.rates
    if not device or rate is None or rates is None or rates.flops is None:
        return None
    return rates.flops / rates.frames / device / rate


@click.command()
@click.argument("records", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def main(records: Path, json_file: Path | None) -> None:
    """Report which performance targets a run on a GPU meets."""
    found = [str(bar) for bar in bars(read(records))]
    if not found:
        raise click.ClickException(
            f"{records} has no case that ran on a GPU: run 'resharp bench run --suite gpu'"
        )
    click.echo("\n".join(found))
    if json_file is not None:
        json_file.write_text(json.dumps({"bars": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

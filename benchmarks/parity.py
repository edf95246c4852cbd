"""``python -m benchmarks.parity PHOTOS -m MODEL``: torch FP32 against onnx on real photos."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from benchmarks.common import json_option, load, photos_argument, quarter, report
from resharp import Upscaler
from resharp.runtime import DEFAULT_MODEL


@click.command()
@photos_argument
@click.option("-m", "--model", default=DEFAULT_MODEL, show_default=True)
@click.option("--limit", default=1, show_default=True, help="Allowed difference in levels of 255.")
@click.option("--share", default=5e-4, show_default=True, help="Fraction of values that may vary.")
@json_option
def main(photos: Path, model: str, limit: int, share: float, json_file: Path | None) -> None:
    """Restore every photo at a quarter of its size with both backends on the CPU and compare."""
    rows = []
    with (
        Upscaler(model, backend="torch", device="cpu") as one,
        Upscaler(model, backend="onnx", device="cpu") as two,
    ):
        for name, photo in load(photos).items():
            small = quarter(photo)
            gap = np.abs(one(small).astype(np.int16) - two(small))
            rows.append((name, int(gap.max()), float(np.count_nonzero(gap)) / gap.size))
        name = one.manifest.name
    summary = {
        "largest difference (levels)": max(int(row[1]) for row in rows),
        "largest share that differs": max(float(row[2]) for row in rows),
    }
    columns = ("photo", "largest difference (levels)", "share of values that differ")
    report(f"Parity torch = onnx, {name}", columns, rows, summary, json_file)
    if any(row[1] > limit or row[2] > share for row in rows):
        raise click.ClickException(
            f"torch and onnx differ by more than {limit} levels or in more than {share:g} of values"
        )


if __name__ == "__main__":
    main()

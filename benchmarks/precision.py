"""``python -m benchmarks.precision PHOTOS -m MODEL``: typed graphs against FP32 on real photos.

Runs the graph that TensorRT would get with onnxruntime on the CPU (bf16: with PyTorch). This shows
the cost of the arithmetic alone; an engine is checked on its GPU at its first use.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np

from benchmarks.common import json_option, load, photos_argument, quarter, report
from resharp.export.engine.typed_graph import typed_graph
from resharp.models.precision import PRECISIONS
from resharp.runtime import DEFAULT_MODEL
from resharp.runtime.bundle_lookup import resolve


@click.command()
@photos_argument
@click.option("-m", "--model", default=DEFAULT_MODEL, show_default=True)
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp16", show_default=True)
@click.option("--whole", is_flag=True, help="Use the photos at full size instead of a quarter.")
@click.option("--limit", default=1, show_default=True, help="Allowed difference in levels of 255.")
@click.option("--floor", default=60.0, show_default=True, help="Required PSNR in dB.")
@json_option
def main(
    photos: Path,
    model: str,
    precision: str,
    whole: bool,
    limit: int,
    floor: float,
    json_file: Path | None,
) -> None:
    """Restore every photo with both uint8 graphs, untiled, and compare the bytes."""
    bundle = resolve(model)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        _, exact = typed_graph(bundle, "uint8", "fp32", Path(folder))
        _, typed = typed_graph(bundle, "uint8", precision, Path(folder))
        for name, photo in load(photos).items():
            batch = (photo if whole else quarter(photo))[None]
            gap = np.abs(typed(batch).astype(np.int16) - exact(batch))
            share = float(np.count_nonzero(gap)) / gap.size
            error = float(np.mean(np.square(gap, dtype=np.float64)))
            psnr = 10 * np.log10(255**2 / error) if error else 200.0
            rows.append((name, int(gap.max()), share, round(float(psnr), 2)))
    summary = {
        "largest difference (levels)": max(int(row[1]) for row in rows),
        "largest share that differs": max(float(row[2]) for row in rows),
        "lowest PSNR (dB)": min(float(row[3]) for row in rows),
    }
    columns = ("photo", "largest difference (levels)", "share of values that differ", "PSNR (dB)")
    report(f"{precision} = fp32, {bundle.manifest.name}", columns, rows, summary, json_file)
    if any(row[1] > limit or row[3] < floor for row in rows):
        raise click.ClickException(
            f"{precision} differs from fp32 by more than {limit} levels or is below {floor:g} dB"
        )


if __name__ == "__main__":
    main()

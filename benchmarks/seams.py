"""``python -m benchmarks.seams PHOTOS -m MODEL``: tiled results against untiled ones."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from benchmarks.common import json_option, load, photos_argument, quarter, report
from resharp import Upscaler
from resharp.runtime import DEFAULT_MODEL

TILES = (64, 96, 128, 160, 192)


@click.command()
@photos_argument
@click.option("-m", "--model", default=DEFAULT_MODEL, show_default=True)
@click.option("--count", default=3, show_default=True, help="Number of photos to use.")
@click.option("--limit", default=1, show_default=True, help="Allowed difference in levels of 255.")
@json_option
def main(photos: Path, model: str, count: int, limit: int, json_file: Path | None) -> None:
    """Restore photos at a quarter of their size, whole and tiled with the manifest's overlap."""
    rows = []
    pictures = {name: quarter(photo) for name, photo in list(load(photos).items())[:count]}
    with Upscaler(model, backend="onnx", tile=100_000) as whole:
        manifest = whole.manifest
        expected = {name: whole(picture) for name, picture in pictures.items()}
    for tile in TILES:
        with Upscaler(model, backend="onnx", tile=tile) as upscaler:
            for name, picture in pictures.items():
                gap = np.abs(upscaler(picture).astype(np.int16) - expected[name])
                share = float(np.count_nonzero(gap)) / gap.size
                rows.append((name, tile, int(gap.max()), share))
    worst = max(int(row[2]) for row in rows)
    curve = ", ".join(f"{overlap}: {error:g}" for overlap, error in manifest.overlap_curve)
    summary = {
        "overlap of the manifest": manifest.overlap,
        "largest difference (levels)": worst,
        "curve at export, overlap: error (levels)": curve,
    }
    columns = ("photo", "tile", "largest difference (levels)", "share of values that differ")
    report(f"Seams, {manifest.name}", columns, rows, summary, json_file)
    if worst > limit:
        raise click.ClickException(f"seams must be within {limit} levels, got {worst}")


if __name__ == "__main__":
    main()

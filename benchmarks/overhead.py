"""``python -m benchmarks.overhead PHOTO``: overhead of Upscaler over a bare onnxruntime session."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
import onnxruntime

from benchmarks.common import Image, json_option, report
from resharp import Upscaler
from resharp.runtime import DEFAULT_MODEL, Tile, plan, resolve


@click.command()
@click.argument("photo", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-m", "--model", default=DEFAULT_MODEL, show_default=True)
@click.option("--side", default=1024, show_default=True, help="Resize the photo to this square.")
@click.option("--tile", default=512, show_default=True)
@click.option("--pairs", default=7, show_default=True)
@json_option
def main(photo: Path, model: str, side: int, tile: int, pairs: int, json_file: Path | None) -> None:
    """Time both on the same tiles in turns and report the median of the paired ratios."""
    picture = cv2.imread(str(photo), cv2.IMREAD_COLOR)
    if picture is None:
        raise click.ClickException(f"cannot read {photo}")
    image = np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    bundle = resolve(model)
    manifest = bundle.manifest
    settings = onnxruntime.SessionOptions()
    session = onnxruntime.InferenceSession(
        str(bundle.path(manifest.graphs["uint8"])), settings, providers=["CPUExecutionProvider"]
    )
    tiles = plan(side, side, tile, manifest.overlap, manifest.size_multiple)
    windows = [
        np.ascontiguousarray(image[t.y : t.y + t.height, t.x : t.x + t.width])[None] for t in tiles
    ]
    name = session.get_inputs()[0].name

    def bare() -> list[Image]:
        return [session.run(None, {name: window})[0] for window in windows]

    with Upscaler(bundle, backend="onnx", tile=tile) as upscaler:
        _assert_equal(upscaler(image), bare(), tiles, manifest.scale)
        rows = []
        for index in range(pairs):
            both: list[Callable[[], object]] = [lambda: upscaler(image), bare]
            seconds = [0.0, 0.0]
            for which in (0, 1) if index % 2 else (1, 0):  # alternate which goes first
                seconds[which] = _time(both[which])
            rows.append((index, seconds[0], seconds[1], seconds[0] / seconds[1]))
    summary = {
        "tiles": len(tiles),
        "window": f"{tiles[0].width}x{tiles[0].height}",
        "median ratio": statistics.median(float(row[3]) for row in rows),
    }
    columns = ("pair", "Upscaler (s)", "bare session (s)", "ratio")
    report(f"Overhead of Upscaler, {model}, {side}x{side}", columns, rows, summary, json_file)


def _assert_equal(whole: Image, parts: list[Image], tiles: tuple[Tile, ...], scale: int) -> None:
    """Check that the cores of the bare results make up the whole image."""
    for part, tile in zip(parts, tiles, strict=True):
        top, left, bottom, right = tile.core
        inner = part[
            0,
            tile.top * scale : (tile.height - tile.bottom) * scale,
            tile.left * scale : (tile.width - tile.right) * scale,
        ]
        region = whole[top * scale : bottom * scale, left * scale : right * scale]
        assert (inner == region).all(), "Upscaler and the bare session disagree"


def _time(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

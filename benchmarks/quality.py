"""``python -m benchmarks.quality PHOTOS``: PSNR-Y gain of an x4 model over bicubic.

Measured on clean and on degraded inputs.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.common import json_option, load, photos_argument, report
from resharp import Ensemble, Upscaler
from resharp.runtime import DEFAULT_MODEL
from resharp.training.validate import clean_input, degraded_input, measure
from resharp.types import BackendName, Tta


@click.command()
@photos_argument
@click.option("-m", "--model", default=DEFAULT_MODEL, show_default=True)
@click.option("--backend", default="onnx", show_default=True)
@click.option("--tta", default=1, show_default=True, help="Flips and rotations to average.")
@json_option
def main(photos: Path, model: str, backend: BackendName, tta: Tta, json_file: Path | None) -> None:
    """Upscale each photo from a quarter of its size (INTER_AREA), clean and degraded.

    Degraded (worn) inputs have Gaussian noise of sigma 4 of 255 (seed 0), then JPEG at quality 75.
    PSNR is on BT.601 luma over the whole image without cropping; bicubic is cv2.INTER_CUBIC.
    """
    rows: list[tuple[str | float, ...]] = []
    with Upscaler(model, backend=backend) as upscaler:
        scale = upscaler.manifest.scale
        restore = Ensemble([upscaler], tta=tta)
        for name, photo in load(photos).items():
            clean = measure([photo], restore, clean_input, scale)
            worn = measure([photo], restore, degraded_input, scale)
            figures = [
                round(value, 3)
                for gain in (clean, worn)
                for value in (gain.bicubic, gain.network, gain.gain)
            ]
            rows.append((name, *figures))
    columns = ("photo", "bicubic", model, "gain", "worn bicubic", f"worn {model}", "worn gain")
    summary = {
        f"mean {columns[index]} (dB)": round(sum(float(row[index]) for row in rows) / len(rows), 3)
        for index in range(1, 7)
    }
    report("Quality: PSNR-Y in dB", columns, rows, summary, json_file)


if __name__ == "__main__":
    main()

"""``python -m benchmarks.memory``: peak memory of restoring a large image in its own process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click

from benchmarks.common import json_option, report
from resharp.runtime import DEFAULT_MODEL

CHILD = """
import json, pathlib, sys, time
import numpy as np
from resharp import Upscaler
model, backend, width, height, tile = sys.argv[1:6]

def peak():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) * 1024

ramp = np.linspace(0, 255, int(width)).astype(np.uint8)
image = np.broadcast_to(ramp[None, :, None], (int(height), int(width), 3)).copy()
tile = tile if tile == "auto" else int(tile)
with Upscaler(model, backend=backend, tile=tile) as upscaler:
    upscaler(image[:64, :64])
    before, start = peak(), time.perf_counter()
    out = upscaler(image)
    print(json.dumps({"before": before, "peak": peak(), "input": image.nbytes,
                      "output": out.nbytes, "seconds": time.perf_counter() - start,
                      "shape": out.shape}))
"""


@click.command()
@click.option("-m", "--model", default=DEFAULT_MODEL, show_default=True)
@click.option("--backend", default="onnx", show_default=True)
@click.option("--width", default=6000, show_default=True)
@click.option("--height", default=4000, show_default=True)
@click.option("--tile", default="auto", show_default=True)
@json_option
def main(
    model: str, backend: str, width: int, height: int, tile: str, json_file: Path | None
) -> None:
    """Restore an image of WIDTH x HEIGHT and report the peak memory of the process (Linux)."""
    command = [sys.executable, "-c", CHILD, model, backend, str(width), str(height), tile]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(done.stderr)
    found = json.loads(done.stdout)
    working = found["peak"] - found["before"] - found["output"]
    rows = [
        (name, round(value / 2**20))
        for name, value in (
            ("process before (libraries, model, input)", found["before"]),
            ("output, uint8", found["output"]),
            ("working memory beyond both", working),
            ("peak of the process", found["peak"]),
            ("a float32 copy of the output, never held", found["output"] * 4),
        )
    ]
    assert working < found["output"], "the working memory grows with the output"
    summary = {"output": "x".join(map(str, found["shape"])), "seconds": found["seconds"]}
    title = f"Memory: {width}x{height} with {model}, {backend}"
    report(title, ("what", "MiB"), rows, summary, json_file)


if __name__ == "__main__":
    main()

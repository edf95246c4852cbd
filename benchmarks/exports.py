"""``python -m benchmarks.exports``: time and memory of exports and engine builds at full size.

Official weights are not needed: networks of the official sizes with random weights take as long.
Each step runs in its own process, whose peak memory is read when it exits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.common import json_option, report
from resharp import models

SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "srvgg-x4v3": ("SRVGGNetCompact", {"num_conv": 32, "upscale": 4}),
    "rrdbnet-x4": ("RRDBNet", {"scale": 4}),
    "rrdbnet-x2": ("RRDBNet", {"scale": 2}),
    "swinir-m-x4": ("SwinIR", {"upscale": 4}),
    "swinir-s-x2": (
        "SwinIR",
        {
            "embed_dim": 60,
            "depths": "6,6,6,6",
            "num_heads": "6,6,6,6",
            "mlp_dim": 120,
            "upscale": 2,
            "upsampler": "pixelshuffledirect",
        },
    ),
    "swinir-l-x4": (
        "SwinIR",
        {
            "embed_dim": 240,
            "depths": ",".join(["6"] * 9),
            "num_heads": ",".join(["8"] * 9),
            "mlp_dim": 480,
            "upscale": 4,
            "upsampler": "nearest+conv",
            "resi_connection": "3conv",
        },
    ),
    "swinir-jpeg": (
        "SwinIR",
        {"window_size": 7, "img_range": 255, "upscale": 1, "upsampler": ""},
    ),
    "swinir-gray-denoise": ("SwinIR", {"in_chans": 1, "upscale": 1, "upsampler": ""}),
    "gfpgan": ("GFPGANv1Clean", {}),
    "codeformer": ("CodeFormer", {}),
    "restoreformer": ("RestoreFormer", {}),
}
EXPORT = "import sys; from resharp.export import export; export(sys.argv[1], store=sys.argv[2])"
BUILD = """
import json, sys
from pathlib import Path
from resharp.gpu import tensorrt as trt
from resharp.engines import Store
from resharp.engines.target import NAMED, Target
from resharp.export.engine import EngineOptions, build_engines
bundle = Store(Path(sys.argv[2])).find(sys.argv[1])
options = EngineOptions(variant=trt.RTX, dtypes=("uint8",))
(built,) = build_engines(bundle, Target(targets=NAMED), options)
graph = built.engine.graph
print(json.dumps([built.engine.spec.precision, built.engine.file.size, graph.psnr]))
"""


def measured(code: str, arguments: Sequence[str]) -> tuple[float, float, str]:
    """Run Python code in a process and return its seconds, peak MiB and output."""
    began = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    out = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise click.ClickException(f"the process failed with exit code {child.returncode}")
    return time.monotonic() - began, usage.ru_maxrss / 1024, out


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(SIZES)))
@click.option("--builds/--no-builds", default=True, help="Also build TensorRT-RTX engines.")
@json_option
def main(names: tuple[str, ...], builds: bool, json_file: Path | None) -> None:
    """Export each network (default: all) and build its engine."""
    rows = []
    for name in names or SIZES:
        architecture, parameters = SIZES[name]
        with tempfile.TemporaryDirectory() as folder:
            own = f"random-{name}"  # not a name in the catalog
            path, store = Path(folder, f"{own}.pth"), str(Path(folder, "store"))
            torch.manual_seed(0)
            network = models.find(architecture).build(**parameters)
            count = sum(one.numel() for one in network.parameters())
            torch.save({"params_ema": network.state_dict()}, path)
            del network
            seconds, peak, _ = measured(EXPORT, [str(path), store])
            row: tuple[Any, ...] = (name, round(count / 1e6, 2), round(seconds, 1), round(peak))
            if builds:
                again, high, out = measured(BUILD, [own, store])
                precision, size, psnr = json.loads(out.splitlines()[-1])
                row += (precision, round(again, 1), round(high), round(size / 1e6, 1), psnr)
        click.echo(" ".join(map(str, row)), err=True)
        rows.append(row)
    columns = ["network", "parameters (M)", "export (s)", "peak (MiB)"]
    if builds:
        columns += ["precision", "build (s)", "peak (MiB) of it", "engine (MB)", "graph (dB)"]
    report("Export and TensorRT-RTX build", columns, rows, {}, json_file)


if __name__ == "__main__":
    main()

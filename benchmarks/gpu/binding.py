"""``python -m benchmarks.gpu.binding``: two-lane streams with and without bound OpenMP threads.

``OMP_PROC_BIND=true`` binds the thread that imports PyTorch to one CPU, and threads started later
inherit that. The settings alternate, each runs twice, and every run has its own process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.checks import Checks
from resharp import Upscaler
from resharp.drawing import draw

SETTINGS = ("true", "false", "true", "false")
WARM, FRAMES, LIMIT = 10, 60, 30.0
SIZE, TINY = (540, 960), (48, 64)


def one(model: str, device: str) -> dict[str, Any]:
    """Measure the milliseconds per frame in this process."""
    size, tile, warm, count = (SIZE, 512, WARM, FRAMES) if device == "cuda" else (TINY, 32, 1, 2)
    frames = [draw(*size, seed=i) for i in range(4)]
    with Upscaler(model, backend="torch", device=device, tile=tile) as upscaler:
        for _ in upscaler.stream((frames[i % 4] for i in range(warm)), ahead=2):
            pass
        began = time.perf_counter()
        for _ in upscaler.stream((frames[i % 4] for i in range(count)), ahead=2):
            pass
        seconds = time.perf_counter() - began
        note = upscaler.explain()
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {"ms of a frame": round(seconds / count * 1e3, 2), "processors": there, "note": note}


def measured(command: Sequence[str], bound: str) -> Any:
    """Measure in a new process with a setting of ``OMP_PROC_BIND``.

    Raises:
        RuntimeError: the process failed; the message is the end of its error output.
    """
    done = subprocess.run(
        [*command, "--one"],
        env={**os.environ, "OMP_PROC_BIND": bound},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measure every setting."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="Name of a model or folder of a bundle.")
    parser.add_argument("--records", type=Path)
    parser.add_argument("--fake", action="store_true")
    parser.add_argument("--one", action="store_true")
    options = parser.parse_args()
    if options.one:
        sys.stdout.write(json.dumps(one(options.model, "cpu" if options.fake else "cuda")) + "\n")
        return
    command = [sys.executable, "-m", "benchmarks.gpu.binding", options.model]
    command += ["--fake"] if options.fake else []
    check = Checks(options.records, "binding")
    for bound in SETTINGS[:1] if options.fake else SETTINGS:
        check(f"OMP_PROC_BIND={bound}", partial(measured, command, bound))
    check.end()


if __name__ == "__main__":
    main()

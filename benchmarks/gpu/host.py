"""``python -m benchmarks.gpu.host``: machine facts, installed packages and import times.

Uses only the standard library; anything that could crash runs in its own process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from functools import partial
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu.checks import Checks, Skip

IMPORTS = ("numpy", "cv2", "torch", "onnxruntime", "cuda.bindings.driver", "pycuda", "resharp")
ASKED = (
    *("name", "driver_version", "memory.total", "memory.used", "pstate", "temperature.gpu"),
    *("clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw", "power.limit"),
    *("persistence_mode", "mig.mode.current", "ecc.mode.current", "compute_mode"),
)
SHORT = ("PERFORMANCE", "CLOCK", "POWER", "PIDS")
MOST = 3000
"""Maximum characters kept of a command's output."""
LIMIT = 20.0
"""Timeout of a command, in seconds."""
DRIVER = """
import json, time
from resharp.gpu.devices import cuda_free_memory, driver_version, gpus
found = gpus()
began = time.perf_counter()
free = cuda_free_memory(0)
print(json.dumps({
    "gpus": [str(one) for one in found], "driver": driver_version(), "free": free,
    "free took (s)": round(time.perf_counter() - began, 3),
}))
"""
IMPORT = """
import importlib, sys, time
began = time.perf_counter()
module = importlib.import_module(sys.argv[1])
print(f"{time.perf_counter() - began:.2f} s, {getattr(module, '__version__', '')}")
"""


def said(*command: str) -> str:
    """Run a command and return its output.

    Raises:
        Skip: the command does not exist.
        RuntimeError: the command failed; the message contains the end of its output.
    """
    if shutil.which(command[0]) is None:
        raise Skip(f"{command[0]} is not installed")
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=LIMIT, check=False
    )
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {(done.stderr or done.stdout)[-MOST:]}")
    return done.stdout


def card() -> dict[str, str]:
    """Return facts about the GPU from ``nvidia-smi``."""
    values = said("nvidia-smi", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader")
    return dict(zip(ASKED, (one.strip() for one in values.split(",")), strict=False))


def report() -> str:
    """Return a shortened ``nvidia-smi -q`` report."""
    return said("nvidia-smi", "-q", "-d", ",".join(SHORT))[:MOST]


def driver() -> Any:
    """Return the driver and the GPUs as resharp sees them."""
    return json.loads(said(sys.executable, "-c", DRIVER))


def place() -> dict[str, Any]:
    """Return process IDs, CPUs, memory, disk space and relevant environment variables."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    kept = ("NSpid", "Cpus_allowed_list", "Seccomp")
    memory = Path("/proc/meminfo")
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "pid": os.getpid(),
        "status": [line for line in lines if line.startswith(kept)],
        "processors": os.cpu_count(),
        "affinity": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory": memory.read_text().splitlines()[:3] if memory.exists() else [],
        "disk (bytes free)": shutil.disk_usage(".").free,
        "set": {k: v for k, v in os.environ.items() if k.startswith(("CUDA", "OMP_", "RESHARP"))},
    }


def packages() -> dict[str, str]:
    """Return all installed packages with their versions."""
    found = {one.metadata["Name"]: one.version for one in distributions()}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def tensorrt() -> dict[str, Any]:
    """Return the TensorRT modules and libraries on this machine."""
    modules = [name for name in ("tensorrt", "tensorrt_rtx") if find_spec(name)]
    try:
        lines = said("ldconfig", "-p").splitlines()
    except Skip as reason:
        lines = [str(reason)]
    return {"modules": modules, "libraries": [one.strip() for one in lines if "nvinfer" in one]}


def tools() -> dict[str, str | None]:
    """Return the paths of NVIDIA's tools and of compilers."""
    return {one: shutil.which(one) for one in ("compute-sanitizer", "ncu", "nsys", "nvcc", "cc")}


def imported(name: str) -> str:
    """Return the time of an import in a new process, and the version."""
    try:
        there = find_spec(name) is not None
    except ModuleNotFoundError:
        there = False
    if not there:
        raise Skip(f"{name} is not installed")
    return said(sys.executable, "-c", IMPORT, name).strip()


def main() -> None:
    """Collect and record all facts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=Path)
    parser.add_argument("--fake", action="store_true")
    options = parser.parse_args()
    check = Checks(options.records, "host")

    def real() -> Any:
        if options.fake:
            raise Skip("rehearsal without a GPU")
        return driver()

    for name, look in {"card": card, "driver": real, "report": report}.items():
        check(name, look)
    for look in (place, packages, tensorrt, tools):
        check(look.__name__, look)
    for name in IMPORTS if not options.fake else ("numpy", "resharp"):
        check(f"import {name}", partial(imported, name))
    check.end()


if __name__ == "__main__":
    main()

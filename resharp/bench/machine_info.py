"""What the figures of a run were taken on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import resharp
from resharp.bench.measure.nvml import Nvml, open_nvml
from resharp.errors import ResharpError
from resharp.gpu.devices import available_memory, cpu_name, driver_version, gpus, usable_threads

PACKAGES = (
    *("numpy", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu", "torch", "openvino"),
    *("ncnn", "tensorrt", "tensorrt-rtx", "tensorrt-rtx-cu13-libs", "cuda-python", "cuda-bindings"),
    *("pycuda", "nvidia-ml-py"),
)
COMMIT = "RESHARP_COMMIT"
"""Environment variable that names the commit where there is no git repository."""


def machine_info() -> dict[str, Any]:
    """The machine, the versions and the commit."""
    found: dict[str, Any] = {
        "cpu": cpu_name(),
        "threads": usable_threads(),
        "memory available (bytes)": available_memory(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "resharp": resharp.__version__,
        "commit": commit(),
        "packages": package_versions(),
    }
    gpu = gpu_info(0)
    return found | {"gpu": gpu} if gpu else found


def package_versions() -> dict[str, str]:
    """Versions of the packages that figures depend on, as far as they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def gpu_info(index: int) -> dict[str, Any]:
    """A GPU, its driver and its clocks as they are; empty where there is none."""
    try:
        gpu = gpus()[index]
    except (ResharpError, IndexError):
        return {}
    nvml = open_nvml(index)
    return {
        "name": gpu.name,
        "compute capability": gpu.capability,
        "memory (bytes)": gpu.memory,
        "CUDA of the driver": driver_version(),
        **(nvml.facts() if isinstance(nvml, Nvml) else {"nvml": nvml}),
    }


def commit() -> str:
    """Of the source tree that resharp was imported from, marked if changed. Where git knows of
    none, what ``RESHARP_COMMIT`` says; empty if that is not set either."""
    folder = Path(resharp.__file__).parent.parent
    git = shutil.which("git")
    name = _git(git, folder, "rev-parse", "HEAD") if git and (folder / ".git").exists() else ""
    if not git or not name:
        return os.environ.get(COMMIT, "").strip()
    changed = _git(git, folder, "status", "--porcelain", "--", "resharp")
    return f"{name[:12]}{'-changed' if changed else ''}"


def _git(git: str, folder: Path, *args: str) -> str:
    command = [git, "-C", str(folder), *args]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

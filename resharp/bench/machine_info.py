"""Facts about the machine, the packages and the commit of a run."""

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
from resharp.gpu.devices import cpu_name, driver_version, gpus, usable_threads
from resharp.memory import available_memory

PACKAGES = (
    *("numpy", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu", "torch", "openvino"),
    *("ncnn", "tensorrt", "tensorrt-rtx", "tensorrt-rtx-cu13-libs", "cuda-python", "cuda-bindings"),
    *("pycuda", "nvidia-ml-py"),
)
COMMIT = "RESHARP_COMMIT"
"""Environment variable with the commit, used if there is no git repository."""


def machine_info() -> dict[str, Any]:
    """Return facts about the machine, package versions and the commit."""
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
    """Return the versions of the installed packages that affect the figures."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def gpu_info(index: int) -> dict[str, Any]:
    """Return facts about a GPU, its driver and its current clocks; empty if it does not exist."""
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
    """Return the commit of the source tree of resharp, with ``-changed`` if it was modified.

    Without a git commit this is the value of ``RESHARP_COMMIT``, which defaults to empty.
    """
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

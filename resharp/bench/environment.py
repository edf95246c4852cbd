"""What the figures of a run were taken on."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import resharp
from resharp.bench.memory import Nvml
from resharp.errors import ResharpError
from resharp.gpu.devices import CudaDriver, cpu_name, driver_version, gpus, usable_threads
from resharp.gpu.host_memory import available_memory

PACKAGES = (
    *("numpy", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu", "torch", "openvino"),
    *("ncnn", "tensorrt", "tensorrt-rtx", "tensorrt-rtx-cu13-libs", "cuda-python", "cuda-bindings"),
    *("pycuda", "nvidia-ml-py"),
)
COMMIT = "RESHARP_COMMIT"
"""Environment variable that names the commit where there is no git repository."""


def environment() -> dict[str, Any]:
    """The machine, the versions and the commit."""
    found: dict[str, Any] = {
        "cpu": cpu_name(),
        "threads": usable_threads(),
        "memory available (bytes)": available_memory(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "resharp": resharp.__version__,
        "commit": commit(),
        "packages": {name: _version(name) for name in PACKAGES if _version(name)},
    }
    gpu = gpu_facts(0)
    if gpu:
        found["gpu"] = gpu
    return found


def gpu_facts(index: int) -> dict[str, Any]:
    """A GPU, its driver and its clocks as they are; empty where there is none."""
    try:
        card = gpus()[index]
    except (ResharpError, IndexError):
        return {}
    found: dict[str, Any] = {
        "name": card.name,
        "compute capability": card.capability,
        "memory (bytes)": card.memory,
        "CUDA of the driver": driver_version(),
    }
    nvml = open_nvml(index)
    return found | (nvml.facts() if isinstance(nvml, Nvml) else {"nvml": nvml})


def open_nvml(index: int) -> Nvml | str:
    """NVML for a CUDA device, or why there is none."""
    try:
        return Nvml(pci_bus(index))
    except (ResharpError, OSError) as error:
        return str(error)


def pci_bus(index: int) -> str:
    """PCI bus id of a CUDA device.

    Raises:
        CudaError: there is no driver or no such GPU.
    """
    driver, text = CudaDriver(), ctypes.create_string_buffer(64)
    driver.call("cuDeviceGetPCIBusId", text, 64, driver.number("cuDeviceGet", index))
    return text.value.decode()


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
    try:
        done = subprocess.run(
            [git, "-C", str(folder), *args],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""

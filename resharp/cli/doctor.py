"""``resharp doctor``: this machine, and the backends that work on it."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import numpy as np

from resharp import __version__
from resharp.cli import common
from resharp.cli.wording import with_flags
from resharp.gpu.devices import CudaError, device_name, driver_version, gpus
from resharp.gpu.tensorrt import rtx_refusal
from resharp.memory import available_memory
from resharp.paths import store_folder, weights_folder
from resharp.runtime.backends import BackendOptions
from resharp.runtime.bundle_lookup import DEFAULT_MODEL, resolve
from resharp.runtime.fallback import BackendAttempt, candidates, load_backend, probe

PACKAGES = (
    "numpy", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu", "torch", "onnx",
    "onnxscript", "safetensors", "tensorrt", "tensorrt-rtx", "tensorrt-rtx-cu13-bindings",
    "pycuda", "cuda-bindings",
)  # fmt: skip


@click.command()
@common.json_option
@common.store_option
@common.weights_dir_option
def command(as_json: bool, store: Path | None, weights_dir: Path | None) -> None:
    """Show which backends work here, and why the others do not.

    Each backend that is available restores a small image with the built-in model. The exit code is
    1 if none works.
    """
    attempts = [_try(attempt, store) for attempt in probe(candidates("auto", "auto"))]
    report: dict[str, Any] = {
        "resharp": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": device_name("cpu"),
        "memory_available": available_memory(),
        "gpus": _gpus(),
        "packages": {name: _version(name) for name in PACKAGES},
        "folders": {
            str(folder): _folder(folder)
            for folder in (weights_folder(weights_dir), store_folder(store))
        },
        "backends": [{**vars(one), "reason": with_flags(one.reason)} for one in attempts],
    }
    if as_json:
        common.print_json(report)
    else:
        click.echo(_text(report, attempts))
    if not any(attempt.works for attempt in attempts):
        click.echo("no backend works: run pip install 'resharp[cpu]'", err=True)
        raise click.exceptions.Exit(1)


def _try(attempt: BackendAttempt, store: Path | None) -> BackendAttempt:
    """Restore a small image: a successful import proves nothing."""
    if not attempt.works:
        return attempt
    try:
        bundle = resolve(DEFAULT_MODEL, store=store)
        bundle.verify()
        options = BackendOptions(device=attempt.device)
        with load_backend(attempt.backend)(bundle, options) as backend:
            out = backend.infer(np.full((1, 24, 32, 3), 128, np.uint8))
            works, note = True, backend.note
        off = int(np.abs(out.astype(int) - 128).max())
        if off > 16:
            works = False
            note = f"it changed a gray image by {off} levels: do not use it, and report this"
    except Exception as error:  # anything that a broken library raises is the answer
        works, note = False, str(error) or type(error).__name__
    return BackendAttempt(attempt.backend, attempt.device, works, note)


def _text(report: dict[str, Any], attempts: list[BackendAttempt]) -> str:
    lines = [
        f"resharp {report['resharp']}, Python {report['python']}, {report['system']}",
        f"CPU: {report['cpu']}; {report['memory_available'] / 2**30:.1f} GiB of memory available",
    ]
    lines += [f"GPU: {gpu}" for gpu in report["gpus"]]
    known = {name: found for name, found in report["packages"].items() if found}
    lines.append("packages: " + ", ".join(f"{name} {found}" for name, found in known.items()))
    lines += [f"folder: {folder} ({state})" for folder, state in report["folders"].items()]
    lines.append("backends, in the order that they are tried:")
    lines += [f"  {with_flags(str(attempt))}" for attempt in attempts]
    return "\n".join(lines)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpus() -> list[str]:
    found = []
    try:
        for gpu in gpus():
            refusal = rtx_refusal(gpu.name, gpu.capability)
            found.append(
                f"{gpu.name}, compute capability {gpu.capability}, {gpu.memory / 2**30:.0f} GiB, "
                f"driver for CUDA {driver_version()}; "
                f"{refusal or 'TensorRT and TensorRT-RTX can build engines for it'}"
            )
    except CudaError as error:
        return [str(error)]
    return found or ["none (the NVIDIA driver lists no GPU)"]


def _folder(folder: Path) -> str:
    place = folder
    while not os.path.exists(place):
        place = place.parent
    if not os.access(place, os.W_OK):
        return "not writable"
    free = shutil.disk_usage(place).free / 1e9
    return f"{'exists' if os.path.exists(folder) else 'created when needed'}, {free:.0f} GB free"

"""``export-engines --tune``: measures a model's settings on this machine and keeps the best."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from resharp.engines import Bundle
from resharp.gpu import tensorrt as variants
from resharp.gpu.devices import has_gpu
from resharp.runtime.bundle_lookup import FACE_TASKS
from resharp.types import Log

if TYPE_CHECKING:
    from resharp.bench.tune import Tuned


def builds(tune: bool, gpu: str | None, variant: str | None) -> bool:
    """Return whether to build engines.

    Without ``--tune`` always; with it, if this machine can use them or the user names what to build
    for.
    """
    if not tune or gpu is not None or variant is not None:
        return True
    return has_gpu() and bool(variants.installed())


def tune_model(bundle: Bundle, variant: str | None, memory: int | None, log: Log) -> None:
    """Tune one model for this machine's GPU, or its CPU, and keep the result.

    Args:
        bundle: the model.
        variant: variant of TensorRT whose engines were built; None if none were.
        memory: bytes that it may use; None for all that is free.
        log: called with a line for each step.

    Raises:
        BackendError: the model does not run here, or not in that memory.
        OutputError: the store cannot be written.
    """
    if bundle.manifest.task in FACE_TASKS:
        log(f"{bundle.manifest.name}: restores faces of one size, so there is nothing to tune")
        return
    from resharp.bench.tune import Tuner
    from resharp.engines.bundle import save_tuning

    on_cpu = "onnx" if find_spec("onnxruntime") else "torch"
    subject = variant or "torch" if has_gpu() else on_cpu
    log(f"{bundle.manifest.name}: tuning {subject}")
    found = Tuner(bundle, subject, memory, log).tune()
    save_tuning(bundle, found.tuning)
    for trial in found.front:
        size = "" if trial.peak is None else f"{trial.peak / 2**20:.0f} MiB, "
        ratio = f"{trial.ratio.median:.3f} times the default's speed"
        click.echo(f"front: {size}{ratio}: {trial.case.id}")
    click.echo(f"{bundle.manifest.name} on {found.tuning.device}: {_kept(found)}")


def _kept(found: Tuned) -> str:
    tuning = found.tuning
    names = ("tile", "batch", "lanes", "threads")
    settings = [f"{name} {getattr(tuning, name)}" for name in names if getattr(tuning, name)]
    gain = "" if tuning.gain is None else f", {tuning.gain:.3f} times as fast"
    return f"{', '.join(settings) or 'the defaults'}{gain}"

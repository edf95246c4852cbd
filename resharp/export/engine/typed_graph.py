"""The graph that TensorRT is given: strongly typed, so its precision is written in it."""

from __future__ import annotations

from pathlib import Path

from resharp import models
from resharp.engines import Bundle
from resharp.export.infer import Infer, in_onnxruntime, in_torch
from resharp.export.measure.peak import example
from resharp.export.onnx.trace import trace_for
from resharp.models.precision import with_precision

TYPING = 1
"""Part of the key: raised when the same precision comes out as another graph."""


def typed_graph(bundle: Bundle, dtype: str, precision: str, folder: Path) -> tuple[Path, Infer]:
    """The ONNX file of one precision, and the same on the CPU.

    ``fp32`` is the bundle's own graph, with its weights outside. The others are traced anew from
    the bundle's weights.

    Args:
        bundle: a whole bundle.
        dtype: ``uint8`` or ``float32``, in and out.
        precision: ``fp16``, ``mixed``, ``fp32`` or ``bf16``.
        folder: to write into.
    """
    if precision == "fp32":
        path = bundle.path(bundle.manifest.graphs[dtype])
        return path, in_onnxruntime(path)
    checkpoint = models.read_checkpoint(bundle.path(bundle.manifest.weights))
    exporter = bundle.manifest.versions.get("exporter", "legacy")
    return typed_checkpoint(checkpoint, dtype, precision, folder, exporter)


def typed_checkpoint(
    checkpoint: models.Checkpoint, dtype: str, precision: str, folder: Path, exporter: str
) -> tuple[Path, Infer]:
    """As :func:`typed_graph`, of a checkpoint that is in no store; ``fp32`` is traced too."""
    facts = checkpoint.facts
    network = with_precision(models.build(checkpoint), precision, example(facts))
    module = models.for_pictures(network, facts, dtype)
    path = folder / f"{dtype}-{precision}.onnx"
    trace_for(facts, module, dtype, path, exporter)
    # onnxruntime has no bfloat16 convolution on the CPU.
    return path, in_torch(module) if precision == "bf16" else in_onnxruntime(path)

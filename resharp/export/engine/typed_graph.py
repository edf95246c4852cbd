"""The graph that TensorRT is given, whose precision is written in it, and the FP32 reference.

The networks that TensorRT builds are strongly typed: each tensor has the type that the graph gives
it. So a precision other than fp32 is a graph of its own, and it is traced anew from the network:
which layers must stay float32 is known to the network's modules, not to an ONNX graph.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from resharp import models
from resharp.engines import Bundle, ParityResult
from resharp.engines.reference import Reference, compare_images
from resharp.errors import OptionError
from resharp.export.measure.costs import example, sample
from resharp.export.onnx.trace import trace
from resharp.export.parity import Infer, in_onnxruntime, in_torch
from resharp.models.precision import with_precision
from resharp.types import Array

TYPING = 1
"""Part of the key: raised when the same precision comes out as another graph."""
HEIGHT, WIDTH = 96, 128
"""Of the reference picture."""


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
    trace(module, dtype, path, exporter=exporter, facts=facts)
    # onnxruntime has no bfloat16 convolution on the CPU.
    return path, in_torch(module) if precision == "bf16" else in_onnxruntime(path)


def make_reference(bundle: Bundle, tile: int, picture: Array | None = None) -> Reference:
    """Run the FP32 graph in onnxruntime; export stores the result beside an engine.

    Args:
        bundle: a whole bundle.
        tile: largest side that the engine takes.
        picture: uint8 BGR photo, whose middle is used; None draws one.
    """
    manifest = bundle.manifest
    shown = sample(picture, manifest.fixed_size, min(HEIGHT, tile), min(WIDTH, tile))
    if shown.min() == shown.max():
        raise OptionError("the picture shows nothing in its middle: give another to --picture")
    infer = in_onnxruntime(bundle.path(manifest.graphs["float32"]))
    floats = shown.astype(np.float32) / np.float32(255)
    return Reference(shown, infer(floats[None], *manifest.extra_values())[0])


def compare(infer: Infer, reference: Reference, dtype: str) -> ParityResult:
    """How far a graph of either dtype is from the FP32 graph on the reference picture."""
    return compare_images(infer(reference.input(dtype)[None])[0], reference.restored)

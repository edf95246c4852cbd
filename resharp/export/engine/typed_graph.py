"""The graph of one precision that TensorRT builds an engine from, and the FP32 reference.

TensorRT's networks are strongly typed: each tensor has the type that the graph states. So each
precision other than fp32 needs its own graph, traced again from the network, because the network's
modules know which layers must stay float32 and an ONNX graph does not.
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
"""Part of the engine key, incremented when the same precision gives a different graph."""
HEIGHT, WIDTH = 96, 128
"""Size of the reference image, in pixels."""


def typed_graph(bundle: Bundle, dtype: str, precision: str, folder: Path) -> tuple[Path, Infer]:
    """Return the ONNX file of one precision, and a function that runs it on the CPU.

    ``fp32`` is the bundle's own graph, with external weights. The others are traced from the
    bundle's weights.

    Args:
        bundle: complete, undamaged bundle.
        dtype: dtype of input and output, ``uint8`` or ``float32``.
        precision: ``fp16``, ``mixed``, ``fp32`` or ``bf16``.
        folder: folder to write into.
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
    """Same as :func:`typed_graph`, for a checkpoint without a bundle; ``fp32`` is traced too."""
    facts = checkpoint.facts
    network = with_precision(models.build(checkpoint), precision, example(facts))
    module = models.for_images(network, facts, dtype)
    path = folder / f"{dtype}-{precision}.onnx"
    trace(module, dtype, path, exporter=exporter, facts=facts)
    # onnxruntime has no bfloat16 convolution on the CPU.
    return path, in_torch(module) if precision == "bf16" else in_onnxruntime(path)


def make_reference(bundle: Bundle, tile: int, picture: Array | None = None) -> Reference:
    """Run the FP32 graph in onnxruntime on an image; the result is stored next to an engine.

    Args:
        bundle: complete, undamaged bundle.
        tile: largest side in pixels that the engine accepts.
        picture: uint8 BGR photo, of which the center is used; None draws one.

    Raises:
        OptionError: all values in the center of the photo are equal.
    """
    manifest = bundle.manifest
    shown = sample(picture, manifest.fixed_size, min(HEIGHT, tile), min(WIDTH, tile))
    if shown.min() == shown.max():
        raise OptionError("the center of `image` has a single color: use another photo")
    infer = in_onnxruntime(bundle.path(manifest.graphs["float32"]))
    floats = shown.astype(np.float32) / np.float32(255)
    return Reference(shown, infer(floats[None], *manifest.extra_values())[0])


def compare(infer: Infer, reference: Reference, dtype: str) -> ParityResult:
    """Compare a graph of either dtype with the FP32 graph on the reference image."""
    return compare_images(infer(reference.input(dtype)[None])[0], reference.restored)

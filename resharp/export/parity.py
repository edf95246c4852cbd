"""The parity check: a graph is used only if it computes what PyTorch computes.

Exporters silently bake the example's batch size, height or width into the graphs of some networks,
so each graph runs on other n, h and w, on sizes that are not multiples of anything, and on the
smallest possible images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from resharp import models
from resharp.drawing import draw
from resharp.engines import GraphParity
from resharp.errors import ParityError, ResharpError
from resharp.models.spandrel_models import is_foreign
from resharp.types import Array

SHAPES = ((1, 24, 36), (3, 17, 23), (2, 31, 8), (1, 1, 1), (1, 3, 5), (4, 2, 2))
"""Inputs to compare, as (n, h, w). The example that was traced is not among them."""
COUNTS = (1, 3)
"""Batch sizes to compare for networks with a fixed size."""
NUMBERS = (1.0, 0.25)
"""Value of the extra inputs for each of :data:`COUNTS`."""
FLOAT_LIMIT = 2e-4
"""Largest difference allowed in the float graph, where white is 1."""
FACE_LIMIT = 5e-4
"""The same for networks with a fixed size: they normalize over the whole image many times, which
amplifies the differences from another order of summation (an eighth of a level of 255)."""
LEVEL_LIMIT = 1
"""Largest difference allowed in the uint8 graph, in levels: near-ties may round differently."""
DIFFERING_LIMIT = 5e-3
"""Fraction of uint8 values that may differ."""
_BLOCK = 32

Infer = Callable[..., Array]
"""Maps ``[n, h, w, 3]`` to ``[n, h*s, w*s, 3]`` of the same dtype. The values of the graph's extra
inputs, one number each, follow the images as arguments."""
Case = tuple[Array, tuple[float, ...]]
"""A uint8 batch, and the values of the graph's extra inputs."""


def in_onnxruntime(path: Path, *, lean: bool = False) -> Infer:
    """Open a graph in onnxruntime; with ``lean``, no memory is kept between runs.

    Raises:
        ParityError: onnxruntime cannot load the graph.
    """
    settings = onnxruntime.SessionOptions()
    settings.enable_cpu_mem_arena = not lean
    settings.log_severity_level = 4  # errors are raised anyway
    try:
        session = onnxruntime.InferenceSession(
            str(path), settings, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its errors have no common base class
        raise ParityError(f"onnxruntime cannot load the graph: {error}") from error
    names = [one.name for one in session.get_inputs()]

    def infer(batch: Array, *extra: float) -> Array:
        numbers = (np.array([number], np.float32) for number in extra)
        return np.asarray(session.run(None, dict(zip(names, (batch, *numbers), strict=True)))[0])

    return infer


def in_torch(module: nn.Module) -> Infer:
    """Return a function that runs a module in PyTorch on numpy arrays."""

    def infer(batch: Array, *extra: float) -> Array:
        numbers = (torch.tensor([number]) for number in extra)
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(batch), *numbers).numpy())

    return infer


def check_graphs(
    checkpoint: models.Checkpoint, network: nn.Module, graphs: Mapping[str, Infer]
) -> GraphParity:
    """Compare both graphs of a checkpoint, by dtype, with its network.

    Raises:
        ParityError: as for :func:`compare`.
    """
    facts = checkpoint.facts
    large = facts.fixed_size is not None  # and slow: the uint8 results are the float ones, rounded
    tried = cases(facts.fixed_size, len(facts.extra))
    if is_foreign(checkpoint.architecture):
        # A case of more than one block per axis, but not of whole blocks: a network that pads all
        # other cases to one block would otherwise run at one size only.
        sizes = (int(checkpoint.parameters[name]) for name in ("minimum", "multiple"))
        block = max(facts.size_multiple, _BLOCK, *sizes)
        tried += [(_batch((2, block + 9, 2 * block + 5)), ())]
    return compare(
        None if large else in_torch(models.for_images(network, facts, "uint8")),
        in_torch(models.for_images(network, facts, "float32")),
        graphs["uint8"],
        graphs["float32"],
        tried=tried,
        limit=FACE_LIMIT if large else FLOAT_LIMIT,
    )


def cases(side: int | None, extra: int) -> list[Case]:
    """Return the inputs on which a graph is compared.

    Args:
        side: fixed size of the network, if any; then only n varies, and never equals the traced n.
        extra: number of extra inputs; their values never equal the traced 0.5.
    """
    if side is None:
        return [(_batch(shape, index), ()) for index, shape in enumerate(SHAPES)]
    return [
        (_batch((n, side, side), index), (number,) * extra)
        for index, (n, number) in enumerate(zip(COUNTS, NUMBERS, strict=True))
    ]


def _batch(shape: tuple[int, int, int], index: int = 0) -> Array:
    """Return a uint8 ``[n, h, w, 3]`` batch of drawn images."""
    n, height, width = shape
    return np.stack([draw(height, width, seed=10 * index + k) for k in range(n)])


def compare(
    torch_uint8: Infer | None,
    torch_float: Infer,
    onnx_uint8: Infer,
    onnx_float: Infer,
    *,
    tried: Sequence[Case] | None = None,
    limit: float = FLOAT_LIMIT,
) -> GraphParity:
    """Run both graphs and both modules and compare their results.

    Args:
        torch_uint8: the uint8 module; None if the uint8 graph was made from the float graph, which
            is then run on the first case only, against the rounded result of ``torch_float``.
        torch_float: the float module.
        onnx_uint8: the uint8 graph.
        onnx_float: the float graph.
        tried: inputs to compare on; None takes those for networks of any size.
        limit: largest difference allowed in the float graph.

    Raises:
        ParityError: a graph or module fails on an input or returns NaN or infinity, the shapes
            differ, or a difference exceeds its limit.
    """
    worst, levels, differing, values = 0.0, 0, 0, 0
    tried = cases(None, 0) if tried is None else tried
    for index, (batch, extra) in enumerate(tried):
        floats = batch.astype(np.float32) / np.float32(255)
        expected, found = _both(torch_float, onnx_float, floats, extra)
        worst = max(worst, float(np.abs(expected - found).max()))
        if torch_uint8 is None and index:
            continue
        restore = torch_uint8 or _constant(np.rint(expected * 255).astype(np.uint8))
        expected, found = _both(restore, onnx_uint8, batch, extra)
        steps = np.abs(expected.astype(np.int16) - found.astype(np.int16))
        levels = max(levels, int(steps.max()))
        differing += int(np.count_nonzero(steps))
        values += steps.size
    figures = GraphParity(
        shapes=tuple((len(batch), *batch.shape[1:3]) for batch, _ in tried),
        float_max_abs=worst,
        uint8_max_levels=levels,
        uint8_differing=differing / values,
    )
    if worst > limit or levels > LEVEL_LIMIT or figures.uint8_differing > DIFFERING_LIMIT:
        raise ParityError(
            "the exported graph does not compute what PyTorch computes: "
            f"float error {worst:.2e} (limit {limit:.0e}), "
            f"{levels} levels of 255 (limit {LEVEL_LIMIT}), "
            f"{figures.uint8_differing:.2%} of values differ (limit {DIFFERING_LIMIT:.2%}). "
            "Nothing was stored: try the other `exporter`, and report the checkpoint."
        )
    return figures


def _constant(answer: Array) -> Infer:
    return lambda *_: answer


def _both(
    torch_infer: Infer, onnx_infer: Infer, batch: Array, extra: tuple[float, ...]
) -> tuple[Array, Array]:
    try:
        expected = torch_infer(batch, *extra)
    except (ResharpError, MemoryError):
        raise
    except Exception as error:
        raise ParityError(
            f"the network fails in PyTorch itself on input shape {batch.shape[:3]}: {error}"
        ) from error
    if not np.isfinite(expected).all():
        raise ParityError(
            f"the weights give NaN or infinity in PyTorch itself on input shape {batch.shape[:3]}: "
            "the checkpoint is damaged, or its training failed"
        )
    try:
        found = onnx_infer(batch, *extra)
    except Exception as error:
        raise ParityError(
            f"the exported graph fails on input shape {batch.shape[:3]}: {error}"
        ) from error
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise ParityError(
            f"on input shape {batch.shape[:3]} the exported graph returns {found.dtype} "
            f"{found.shape}, but PyTorch returns {expected.dtype} {expected.shape}"
        )
    if not np.isfinite(found).all():
        raise ParityError(
            f"the exported graph gives NaN or infinity on input shape {batch.shape[:3]}"
        )
    return expected, found

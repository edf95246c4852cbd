"""The parity gate: a graph is used only if it computes what PyTorch computes.

Exporters bake the batch, the height or the width of the example into some networks and say nothing,
so each graph runs on other n, other h and w, sizes that are no multiple of anything, and the
smallest pictures there are.
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
"""Inputs compared: (n, h, w). None is the example of the trace."""
COUNTS = (1, 3)
"""Batches compared, where the size is fixed."""
NUMBERS = (1.0, 0.25)
"""What the further inputs are with each of them."""
FLOAT_LIMIT = 2e-4
"""Largest difference allowed in the float graph; white is 1."""
FACE_LIMIT = 5e-4
"""The same for networks of one size: they normalise over the whole picture, again and again, and
what a sum in another order changes grows on the way (an eighth of a level of 255)."""
LEVEL_LIMIT = 1
"""Largest difference allowed in the uint8 graph: values on the edge of rounding may tip over."""
DIFFERING_LIMIT = 5e-3
"""Share of uint8 values that may tip over."""
_BLOCK = 32

Infer = Callable[..., Array]
"""``[n, h, w, 3]`` to ``[n, h*s, w*s, 3]``, of one dtype; the graph's further inputs, a number
each, follow the pictures."""
Case = tuple[Array, tuple[float, ...]]
"""A uint8 batch, and the graph's further inputs."""


def in_onnxruntime(path: Path, *, lean: bool = False) -> Infer:
    """A graph in onnxruntime; ``lean`` keeps no memory from run to run.

    Raises:
        ParityError: onnxruntime refuses the graph.
    """
    settings = onnxruntime.SessionOptions()
    settings.enable_cpu_mem_arena = not lean
    settings.log_severity_level = 4  # errors are raised too
    try:
        session = onnxruntime.InferenceSession(
            str(path), settings, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its errors have no class in common
        raise ParityError(f"onnxruntime refuses the graph: {error}") from error
    names = [one.name for one in session.get_inputs()]

    def infer(batch: Array, *extra: float) -> Array:
        numbers = (np.array([number], np.float32) for number in extra)
        return np.asarray(session.run(None, dict(zip(names, (batch, *numbers), strict=True)))[0])

    return infer


def in_torch(module: nn.Module) -> Infer:
    """A module in PyTorch."""

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
        ParityError: see :func:`compare`.
    """
    facts = checkpoint.facts
    large = facts.fixed_size is not None  # and slow: bytes are the floats, rounded
    tried = cases(facts.fixed_size, len(facts.extra))
    if is_foreign(checkpoint.architecture):
        # A case of more than one block in each axis, and no whole ones: a network that pads all of
        # the others to one block would else show one size only.
        sizes = (int(checkpoint.parameters[name]) for name in ("minimum", "multiple"))
        block = max(facts.size_multiple, _BLOCK, *sizes)
        tried += [(_batch((2, block + 9, 2 * block + 5)), ())]
    return compare(
        None if large else in_torch(models.for_pictures(network, facts, "uint8")),
        in_torch(models.for_pictures(network, facts, "float32")),
        graphs["uint8"],
        graphs["float32"],
        tried=tried,
        limit=FACE_LIMIT if large else FLOAT_LIMIT,
    )


def cases(side: int | None, extra: int) -> list[Case]:
    """What a graph is compared on.

    Args:
        side: the one size that it takes: then only n varies, and is never that of the trace.
        extra: numbers that it takes beside the pictures; none is the middle, which was traced.
    """
    if side is None:
        return [(_batch(shape, index), ()) for index, shape in enumerate(SHAPES)]
    return [
        (_batch((n, side, side), index), (number,) * extra)
        for index, (n, number) in enumerate(zip(COUNTS, NUMBERS, strict=True))
    ]


def _batch(shape: tuple[int, int, int], index: int = 0) -> Array:
    """uint8 ``[n, h, w, 3]``, cut from drawn pictures."""
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
    """Run both graphs and both modules.

    Args:
        torch_uint8: None, for a graph for bytes that was made around the one for floats: then it
            runs on the first case only, against what ``torch_float`` gives, rounded.
        torch_float: the module for floats.
        onnx_uint8: the graph for bytes.
        onnx_float: the graph for floats.
        tried: see :func:`cases`; None is those of a network of any size.
        limit: largest difference allowed in the float graph.

    Raises:
        ParityError: a graph fails on a shape, gives another shape or NaN, or is over a limit.
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
            "Nothing was stored: try the other --exporter, and report the checkpoint"
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
            f"the network fails in PyTorch itself on an input of {batch.shape[:3]}: {error}"
        ) from error
    if not np.isfinite(expected).all():
        raise ParityError(
            f"the weights give NaN or infinity in PyTorch itself on an input of {batch.shape[:3]}: "
            "the checkpoint is damaged, or its training had failed"
        )
    try:
        found = onnx_infer(batch, *extra)
    except Exception as error:
        raise ParityError(
            f"the exported graph fails on an input of {batch.shape[:3]}: {error}"
        ) from error
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise ParityError(
            f"on an input of {batch.shape[:3]} the exported graph gives {found.dtype} "
            f"{found.shape}, PyTorch gives {expected.dtype} {expected.shape}"
        )
    if not np.isfinite(found).all():
        raise ParityError(f"the exported graph gives NaN on an input of {batch.shape[:3]}")
    return expected, found

"""The parity gate: a graph is used only if it computes what PyTorch computes.

Exporters bake the batch, the height or the width of the example into some networks and say nothing,
so each graph runs on other n, other h and w, sizes that are no multiple of anything, and the
smallest pictures there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resharp.drawing import draw
from resharp.engines import GraphParity
from resharp.errors import ParityError, ResharpError
from resharp.export.infer import Infer
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

Case = tuple[Array, tuple[float, ...]]
"""A uint8 batch, and the graph's further inputs."""


def inputs(shapes: Sequence[tuple[int, int, int]] = SHAPES) -> list[Array]:
    """One uint8 batch for each of ``shapes``, cut from drawn pictures."""
    return [
        np.stack([draw(h, w, seed=10 * i + k) for k in range(n)])
        for i, (n, h, w) in enumerate(shapes)
    ]


def cases(side: int | None, extra: int) -> list[Case]:
    """What a graph is compared on.

    Args:
        side: the one size that it takes: then only n varies, and is never that of the trace.
        extra: numbers that it takes beside the pictures; none is the middle, which was traced.
    """
    if side is None:
        return [(batch, ()) for batch in inputs()]
    batches = inputs([(n, side, side) for n in COUNTS])
    return [(batch, (number,) * extra) for batch, number in zip(batches, NUMBERS, strict=True)]


def wide(block: int) -> list[Case]:
    """A case of more than one block in each axis, and no whole ones.

    A network that pads all of the others to one block would else show one size only.

    Args:
        block: side of what the network works on.
    """
    block = max(block, _BLOCK)
    return [(batch, ()) for batch in inputs([(2, block + 9, 2 * block + 5)])]


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
        rounded = torch_uint8 or _constant(np.rint(expected * 255).astype(np.uint8))
        expected, found = _both(rounded, onnx_uint8, batch, extra)
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
    _gate(figures, limit)
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


def _gate(figures: GraphParity, limit: float) -> None:
    over = (
        figures.float_max_abs > limit
        or figures.uint8_max_levels > LEVEL_LIMIT
        or figures.uint8_differing > DIFFERING_LIMIT
    )
    if over:
        raise ParityError(
            "the exported graph does not compute what PyTorch computes: "
            f"float error {figures.float_max_abs:.2e} (limit {limit:.0e}), "
            f"{figures.uint8_max_levels} levels of 255 (limit {LEVEL_LIMIT}), "
            f"{figures.uint8_differing:.2%} of values differ (limit {DIFFERING_LIMIT:.2%}). "
            "Nothing was stored: try the other --exporter, and report the checkpoint"
        )

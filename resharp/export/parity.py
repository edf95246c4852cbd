"""The parity gate: a graph is used only if it computes what PyTorch computes.

Exporters bake the batch, the height or the width of the example into some networks and say nothing,
so each graph runs on other n, other h and w, sizes that are no multiple of anything, and the
smallest pictures there are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resharp.engines import Parity
from resharp.errors import ParityError
from resharp.export.infer import Infer
from resharp.export.picture import draw

Array = NDArray[Any]

SHAPES = ((1, 24, 36), (3, 17, 23), (2, 31, 8), (1, 1, 1), (1, 3, 5), (4, 2, 2))
"""Inputs compared: (n, h, w). None is the example of the trace."""
FLOAT_LIMIT = 2e-4
"""Largest difference allowed in the float graph; white is 1."""
LEVEL_LIMIT = 1
"""Largest difference allowed in the uint8 graph: values on the edge of rounding may tip over."""
DIFFERING_LIMIT = 5e-3
"""Share of uint8 values that may tip over."""


def inputs() -> list[Array]:
    """One uint8 batch for each of :data:`SHAPES`, cut from drawn pictures."""
    return [
        np.stack([draw(h, w, seed=10 * i + k) for k in range(n)])
        for i, (n, h, w) in enumerate(SHAPES)
    ]


def compare(torch_uint8: Infer, torch_float: Infer, onnx_uint8: Infer, onnx_float: Infer) -> Parity:
    """Run both graphs and both modules on all of :func:`inputs`.

    Raises:
        ParityError: a graph fails on a shape, gives another shape or NaN, or is over a limit.
    """
    worst, levels, differing, values = 0.0, 0, 0, 0
    for batch in inputs():
        floats = batch.astype(np.float32) / np.float32(255)
        expected, found = _both(torch_float, onnx_float, floats)
        worst = max(worst, float(np.abs(expected - found).max()))
        expected, found = _both(torch_uint8, onnx_uint8, batch)
        steps = np.abs(expected.astype(np.int16) - found.astype(np.int16))
        levels = max(levels, int(steps.max()))
        differing += int(np.count_nonzero(steps))
        values += steps.size
    figures = Parity(
        shapes=SHAPES,
        float_max_abs=worst,
        uint8_max_levels=levels,
        uint8_differing=differing / values,
    )
    _gate(figures)
    return figures


def _both(torch_infer: Infer, onnx_infer: Infer, batch: Array) -> tuple[Array, Array]:
    expected = torch_infer(batch)
    if not np.isfinite(expected).all():
        raise ParityError(
            f"the weights give NaN or infinity in PyTorch itself on an input of {batch.shape[:3]}: "
            "the checkpoint is damaged, or its training had failed"
        )
    try:
        found = onnx_infer(batch)
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


def _gate(figures: Parity) -> None:
    over = (
        figures.float_max_abs > FLOAT_LIMIT
        or figures.uint8_max_levels > LEVEL_LIMIT
        or figures.uint8_differing > DIFFERING_LIMIT
    )
    if over:
        raise ParityError(
            "the exported graph does not compute what PyTorch computes: "
            f"float error {figures.float_max_abs:.2e} (limit {FLOAT_LIMIT:.0e}), "
            f"{figures.uint8_max_levels} levels of 255 (limit {LEVEL_LIMIT}), "
            f"{figures.uint8_differing:.2%} of values differ (limit {DIFFERING_LIMIT:.2%}). "
            "Nothing was stored: try --exporter dynamo, and report the checkpoint"
        )

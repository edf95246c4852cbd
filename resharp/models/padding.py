"""Padding at the bottom and right, inside a network that is to be exported."""

from __future__ import annotations

import torch
from torch import Tensor


def reflected(x: Tensor, tall: int, wide: int) -> Tensor:
    """``[n, c, h, w]`` to ``[n, c, tall, wide]``, by reflection without the edge itself.

    As upstream's ``F.pad(..., "reflect")``, but for any size: where a picture has fewer rows than
    are wanted, its first one is repeated. No branch, which a tracer would bake, and no remainder,
    through which TensorRT-RTX 1.7 cannot infer shapes. Under a tracer, sizes are tensors, or
    symbols.
    """
    rows = _sources(x.shape[2], tall, x.device)
    columns = _sources(x.shape[3], wide, x.device)
    return x.index_select(2, rows).index_select(3, columns)


def _sources(size: int, wanted: int, device: torch.device) -> Tensor:
    """Which row each row of the result is: 0, 1, ..., size - 1, size - 2, ..., 0, 0, ..."""
    index = torch.arange(wanted, device=device)
    return torch.minimum(index, 2 * (size - 1) - index).clamp(min=0)

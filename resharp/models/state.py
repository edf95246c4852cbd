"""The words that all of this room uses for a state dict, and safe looks into one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from torch import Tensor

State: TypeAlias = Mapping[str, Tensor]
Parameters: TypeAlias = dict[str, int | str]


def size(state: State, name: str, axis: int, default: int) -> int:
    """Length of one axis of a tensor, or ``default`` where there is no such tensor or axis.

    Inference must survive a damaged state dict: the comparison that follows says what is wrong.
    """
    tensor = state.get(name)
    return tensor.shape[axis] if tensor is not None and tensor.ndim > axis else default

"""Deep network interpolation: blends of two or more networks of the same architecture.

Source: "Deep Network Interpolation for Continuous Imagery Effect Transition" (Wang et al., CVPR
2019). Real-ESRGAN (BSD-3-Clause) uses it for its ``denoise_strength``: with strength s,
``s * realesr-general-x4v3 + (1 - s) * realesr-general-wdn-x4v3``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import fsum, isfinite

import torch
from torch import Tensor

from resharp.errors import CheckpointError, OptionError
from resharp.fsutil import sha256_of
from resharp.models.archs import find
from resharp.models.checkpoint import Checkpoint

TOLERANCE = 1e-6
"""Maximum deviation of the sum of the weights from 1."""


def blend(parts: Iterable[tuple[Checkpoint, float]]) -> Checkpoint:
    """Return the weighted mean of two or more checkpoints of one architecture.

    A weight below 0 or above 1 extrapolates; only the sum has to be 1. The mean is computed in
    float64. The result has no path; its ``sha256`` covers the hashes and weights of the parts, so
    equal blends have equal hashes.

    Raises:
        OptionError: there are fewer than two parts, the weights are not finite or do not sum to 1,
            or the architecture is one of spandrel's.
        CheckpointError: the checkpoints differ in architecture or parameters.
    """
    pairs = list(parts)
    _check_weights([weight for _, weight in pairs])
    first = pairs[0][0]
    for other, _ in pairs[1:]:
        _check_same(first, other)
    find(first.architecture)  # raises for spandrel's: their shapes are not known
    state = {
        name: _mean([(part.state[name], weight) for part, weight in pairs])
        for name in sorted(first.state)
    }
    recipe = "\n".join(f"{part.sha256} {weight!r}" for part, weight in pairs)
    sha256 = sha256_of(recipe.encode())
    return replace(
        first,
        parameters=dict(first.parameters),
        state=state,
        state_key="blend",
        path=None,
        sha256=sha256,
        notes=(),
    )


def _check_weights(weights: Sequence[float]) -> None:
    if len(weights) < 2:
        raise OptionError(f"a blend needs at least two checkpoints, got {len(weights)}")
    if not all(isfinite(weight) for weight in weights):
        raise OptionError(f"the weights of a blend must be finite, got {list(weights)}")
    if abs(fsum(weights) - 1) > TOLERANCE:
        raise OptionError(f"the weights of a blend must sum to 1, got {fsum(weights):g}: {weights}")


def _check_same(first: Checkpoint, other: Checkpoint) -> None:
    if first.architecture != other.architecture:
        raise CheckpointError(
            f"{first.architecture} and {other.architecture} cannot be blended: use checkpoints of "
            "the same architecture"
        )
    if first.parameters != other.parameters:
        different = ", ".join(
            f"{name} {first.parameters[name]} and {other.parameters[name]}"
            for name in first.parameters
            if first.parameters[name] != other.parameters[name]
        )
        raise CheckpointError(
            f"{first.architecture} checkpoints of different shape cannot be blended: {different}"
        )


def _mean(parts: Sequence[tuple[Tensor, float]]) -> Tensor:
    first = parts[0][0]
    if not first.is_floating_point():  # a table, equal in all networks of the same shape
        return first.clone()
    total = torch.zeros(first.shape, dtype=torch.float64)
    for tensor, weight in parts:
        total += tensor.double() * weight
    return total.float()

"""Several restorations of one picture, averaged: other models, and its own mirror images.

The self-ensemble of eight flips and turns is that of "Seven ways to improve example-based single
image super resolution" (Timofte et al., CVPR 2016).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from numbers import Real
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from resharp.errors import OptionError
from resharp.types import Image, Progress

TURNS = (1, 2, 4, 8)
"""Views of one picture: itself; also mirrored; in both directions; also turned by 90 degrees."""


class EnsembleMember(Protocol):
    """What an :class:`~resharp.Upscaler` is, and an ensemble too."""

    @property
    def scale(self) -> float:
        """Output size over input size."""

    def __call__(self, image: Image) -> Image:
        """Restore one picture."""

    def close(self) -> None:
        """Give every resource back."""


class Ensemble(AbstractContextManager["Ensemble"]):
    """The weighted mean of what several restorers make of a picture.

    It costs the sum of their times, and ``tta`` times that.

    Args:
        members: upscalers of one scale. They are closed with the ensemble.
        weights: one for each, not negative, not all zero; None: equal ones.
        tta: 1, 2, 4 or 8 flips and turns of the picture for each member.

    Raises:
        OptionError: no member, another scale, weights or tta that make no sense.
    """

    def __init__(
        self,
        members: Sequence[EnsembleMember],
        weights: Sequence[float] | None = None,
        tta: int = 1,
    ) -> None:
        if not members:
            raise OptionError("an ensemble needs at least one member")
        scales = {float(member.scale) for member in members}
        if len(scales) > 1:
            raise OptionError(
                f"members enlarge by {', '.join(f'{one:g}' for one in sorted(scales))}: give all "
                "the same scale, Upscaler(..., scale=4)"
            )
        if type(tta) is not int or tta not in TURNS:
            raise OptionError(f"tta is {tta!r}; it must be 1, 2, 4 or 8")
        self.members = tuple(members)
        """What the mean is of."""
        self._tta = tta
        self._weights = _shares(weights, len(members))
        self.scale = scales.pop()

    def __call__(self, image: Image, *, progress: Progress | None = None) -> Image:
        """Restore one picture; see :meth:`Upscaler.__call__`.

        Args:
            image: as for an upscaler.
            progress: called as (restorations done, restorations in all). Raising in it cancels.

        Returns:
            As an upscaler: the input's dtype and channels; means of integers are rounded.
        """
        image = np.asarray(image)
        total = sum(share > 0 for share in self._weights) * self._tta
        mean: NDArray[np.float32] | None = None
        done = 0
        for member, share in zip(self.members, self._weights, strict=True):
            if not share:
                continue
            for view in range(self._tta):
                found = _back(np.asarray(member(_view(image, view))), view)
                if total == 1:
                    return found
                part = np.multiply(found, np.float32(share / self._tta), dtype=np.float32)
                mean = part if mean is None else np.add(mean, part, out=mean)
                done += 1
                if progress is not None:
                    progress(done, total)
        assert mean is not None
        if np.issubdtype(image.dtype, np.integer):
            np.rint(mean, out=mean)
        return mean.astype(image.dtype)

    def close(self) -> None:
        """Close every member."""
        with ExitStack() as last:
            for member in self.members:
                last.callback(member.close)

    def __exit__(self, *error: object) -> None:
        self.close()


def _view(image: Image, number: int) -> Image:
    """One of eight: bit 0 mirrors left and right, bit 1 top and bottom, bit 2 turns."""
    if number & 1:
        image = image[:, ::-1]
    if number & 2:
        image = image[::-1]
    if number & 4:
        image = image.swapaxes(0, 1)
    return np.ascontiguousarray(image)


def _back(image: Image, number: int) -> Image:
    """The inverse of :func:`_view`."""
    if number & 4:
        image = image.swapaxes(0, 1)
    if number & 2:
        image = image[::-1]
    if number & 1:
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _shares(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    if weights is None:
        return (1 / count,) * count
    given: Sequence[object] = weights  # whatever a caller gave
    values = [float(one) if isinstance(one, Real) else math.nan for one in given]
    sensible = all(value >= 0 for value in values) and math.isfinite(sum(values))
    if len(values) != count or not sensible or not sum(values):
        raise OptionError(
            f"weights are {list(weights)!r}: give {count}, none negative and not all zero"
        )
    return tuple(value / sum(values) for value in values)

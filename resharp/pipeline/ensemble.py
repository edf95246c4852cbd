"""The average of several restorations of an image: by several models, and of flips and rotations.

The self-ensemble of eight flips and rotations comes from "Seven ways to improve example-based
single image super resolution" (Timofte et al., CVPR 2016).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from numbers import Real
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from resharp.checks import check_tta
from resharp.errors import OptionError
from resharp.runtime.streaming import OneByOne
from resharp.types import Image, Progress, Tta

TURNS = (1, 2, 4, 8)
"""Numbers of views: 1 is the image, 2 adds its mirror image, 4 vertical flips, 8 transposes."""


class EnsembleMember(Protocol):
    """The interface of an :class:`~resharp.Upscaler`, which an ensemble has too."""

    @property
    def scale(self) -> float:
        """Output size over input size."""

    def __call__(self, image: Image) -> Image:
        """Restore one image."""

    def close(self) -> None:
        """Release every resource."""


class Ensemble(OneByOne, AbstractContextManager["Ensemble"]):
    """The weighted mean of several restorers' results.

    It takes the sum of their times, multiplied by ``tta``.

    Args:
        members: upscalers of one scale, which are closed with the ensemble.
        weights: one per member, not negative and not all zero; None for equal weights.
        tta: flips and rotations to average over for each member: 1, 2, 4 or 8.

    Raises:
        OptionError: there is no member, the scales differ, or ``weights`` or ``tta`` is invalid.
    """

    def __init__(
        self,
        members: Sequence[EnsembleMember],
        weights: Sequence[float] | None = None,
        tta: Tta = 1,
    ) -> None:
        views = check_tta(tta)
        if not members:
            raise OptionError("an ensemble needs at least one member")
        scales = {float(member.scale) for member in members}
        if len(scales) > 1:
            raise OptionError(
                f"members have scales {', '.join(f'{one:g}' for one in sorted(scales))}: open all "
                "with the same scale, e.g. Upscaler(..., scale=4)"
            )
        self.members = tuple(members)
        """The restorers that are averaged."""
        self._tta = views
        self._weights = _shares(weights, len(members))
        self.scale = scales.pop()

    def __call__(self, image: Image, *, progress: Progress | None = None) -> Image:
        """Restore one image.

        Args:
            image: as for an :class:`~resharp.Upscaler`.
            progress: called with (restorations done, restorations in all) from this thread; raising
                cancels.

        Returns:
            An image with the input's dtype and channels; means of integers are rounded.
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
                    if progress is not None:
                        progress(1, 1)
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
    """Return one of eight views: bit 0 flips horizontally, bit 1 vertically, bit 2 transposes."""
    if number & 1:
        image = image[:, ::-1]
    if number & 2:
        image = image[::-1]
    if number & 4:
        image = image.swapaxes(0, 1)
    return np.ascontiguousarray(image)


def _back(image: Image, number: int) -> Image:
    """Undo :func:`_view`."""
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
    given: Sequence[object] = weights
    values = [float(one) if isinstance(one, Real) else math.nan for one in given]
    sensible = all(value >= 0 for value in values) and math.isfinite(sum(values))
    if len(values) != count or not sensible or not sum(values):
        raise OptionError(
            f"`weights` must be {count} numbers, none negative and not all zero, got "
            f"{list(weights)!r}"
        )
    return tuple(value / sum(values) for value in values)

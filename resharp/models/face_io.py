"""Face networks as pictures in, pictures out: as ``image_io``, but of one size and in -1..1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resharp.errors import ImageError


class _Face(nn.Module):
    """A network for aligned faces and the turn between its planes and BGR pixels.

    Args:
        network: takes float RGB planes ``[n, 3, side, side]`` in -1..1, and whatever else ``extra``
            names, a float32 tensor of one value each.
        side: of the pictures in and out.
    """

    dtype_in: torch.dtype

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network, self.side = network, side

    def _check(self, images: Tensor) -> None:
        if images.dtype is not self.dtype_in or images.ndim != 4:
            raise ImageError(
                f"faces are {self.dtype_in} [n, {self.side}, {self.side}, 3], not {images.dtype} "
                f"with {images.ndim} axes"
            )
        sizes = tuple(images.shape[1:])  # tensors under the legacy tracer, which must not be tested
        if all(type(size) is int for size in sizes) and sizes != (self.side, self.side, 3):
            raise ImageError(
                f"this network takes aligned faces of [n, {self.side}, {self.side}, 3], not of "
                f"{list(images.shape)}"
            )

    def _restore(self, unit: Tensor, extra: tuple[Tensor, ...]) -> Tensor:
        """float32 BGR pixels in 0..1 to the same."""
        planes = unit.permute(0, 3, 1, 2).flip(1) * 2 - 1
        types = (one.dtype for one in self.network.parameters() if one.is_floating_point())
        result: Tensor = self.network(planes.to(next(types, torch.float32)), *extra)
        bounded = result.float().clamp(-1, 1) * 0.5 + 0.5
        return bounded.flip(1).permute(0, 2, 3, 1)


class ByteFace(_Face):
    """uint8 BGR ``[n, side, side, 3]`` to the same.

    Casts, scaling and rounding (half to even) are float32; TensorRT takes no node but a cast on
    uint8, so that a cast comes first and last.

    Raises:
        ImageError: from ``forward``: another dtype, shape or size.
    """

    dtype_in = torch.uint8

    def forward(self, images: Tensor, fidelity: Tensor | None = None) -> Tensor:
        """Restore faces; n is free."""
        self._check(images)
        extra = () if fidelity is None else (fidelity,)
        restored = self._restore(images.float() * (1 / 255), extra)
        return (restored * 255).round().to(torch.uint8).contiguous()


class FloatFace(_Face):
    """float32 BGR ``[n, side, side, 3]`` in 0..1 to the same.

    Raises:
        ImageError: from ``forward``: another dtype, shape or size.
    """

    dtype_in = torch.float32

    def forward(self, images: Tensor, fidelity: Tensor | None = None) -> Tensor:
        """Restore faces; n is free."""
        self._check(images)
        return self._restore(images, () if fidelity is None else (fidelity,)).contiguous()

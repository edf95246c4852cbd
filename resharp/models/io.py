"""Image wrappers: color order, scaling and rounding as part of the network.

A backend then only moves bytes. Both ONNX exporters can trace all of these modules.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resharp.errors import CheckpointError, ImageError
from resharp.models.architecture import NetworkFacts

LUMA = (0.114, 0.587, 0.299)
"""Weights of blue, green and red in gray, as in OpenCV's ``COLOR_BGR2GRAY`` (ITU-R BT.601)."""
DTYPES = ("uint8", "float32")


def for_images(network: nn.Module, facts: NetworkFacts, dtype: str) -> nn.Module:
    """Wrap a network so that it maps BGR pixels ``[n, h, w, 3]`` to BGR pixels, in eval mode.

    Args:
        network: network returned by ``build``, in any precision.
        facts: facts of its checkpoint.
        dtype: pixel type: ``uint8``, or ``float32`` in 0..1.
    """
    small = dtype == "uint8"
    if facts.fixed_size is None:
        return (ByteImage if small else FloatImage)(network).eval()
    return (ByteFace if small else FloatFace)(network, facts.fixed_size).eval()


def planes(pixels: Tensor, facts: NetworkFacts) -> Tensor:
    """Convert float32 BGR ``[n, h, w, 3]`` in 0..1 to a network's ``[n, c, h, w]`` and range."""
    rgb = _swap(pixels.permute(0, 3, 1, 2))
    if facts.in_channels == 1:
        return rgb.mean(1, keepdim=True)
    return rgb if facts.fixed_size is None else rgb * 2 - 1


class _Wrapped(nn.Module):
    """A network that takes and returns pixels of one type."""

    dtype_in: torch.dtype

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def _dtype(self) -> torch.dtype:
        """Return the network's own dtype: that of its first floating-point parameter."""
        types = (one.dtype for one in self.network.parameters() if one.is_floating_point())
        return next(types, torch.float32)


class _Image(_Wrapped):
    """A network with conversion between its RGB or gray planes and BGR pixels.

    A one-channel network receives the luma and its output is repeated, so that every graph takes
    and returns three channels. Gray pixels (blue = green = red) lose nothing.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        inputs, outputs = (getattr(network, f"num_{way}_ch", None) for way in ("in", "out"))
        known = isinstance(inputs, int) and isinstance(outputs, int)  # spandrel's may lack them
        if known and (inputs, outputs) not in ((3, 3), (1, 1)):
            raise CheckpointError(
                f"this network takes {inputs} and returns {outputs} channels: only networks with "
                "3 and 3 (color) or 1 and 1 (gray) can be wrapped for images"
            )
        self.gray = (inputs, outputs) == (1, 1)

    def _check(self, images: Tensor) -> None:
        if images.dtype is not self.dtype_in or images.ndim != 4:
            raise ImageError(
                f"images must be {self.dtype_in} [n, h, w, 3], got {images.dtype} with "
                f"{images.ndim} axes"
            )
        channels = images.shape[3]  # a tensor under the legacy tracer: no `if` on its value
        if isinstance(channels, int) and channels != 3:
            raise ImageError(f"images must have 3 channels (BGR), got {channels}")

    def _pixels(self, planes: Tensor) -> Tensor:
        """Convert the network's planes to BGR pixels ``[n, h, w, 3]``."""
        bgr = torch.cat((planes, planes, planes), 1) if self.gray else _swap(planes)
        return bgr.permute(0, 2, 3, 1)


class ByteImage(_Image):
    """A network that maps uint8 BGR ``[n, h, w, 3]`` to uint8 BGR ``[n, h*s, w*s, 3]``.

    The network has 3 channels or 1. It computes in its own dtype (``.half()`` works); the last
    steps (multiply by 255, round half to even, clamp) are float32, which keeps half precision
    within one level.

    Raises:
        CheckpointError: from the constructor: the network is known to have other channels.
        ImageError: from ``forward``: the images have another dtype or shape.
    """

    dtype_in = torch.uint8

    def forward(self, images: Tensor) -> Tensor:
        """Restore images; n, h and w are dynamic."""
        self._check(images)
        # TensorRT accepts only casts on uint8, so a cast comes first and, below, last.
        if self.gray:
            planes = (_luma(images.float()) * (1 / 255)).to(self._dtype())
        else:
            planes = _swap(images.to(self._dtype()).permute(0, 3, 1, 2)) * (1 / 255)
        result: Tensor = self.network(planes)
        levels = (result.float() * 255).round().clamp(0, 255)
        return self._pixels(levels).to(torch.uint8).contiguous()


class FloatImage(_Image):
    """A network that maps float32 BGR ``[n, h, w, 3]`` in 0..1 to ``[n, h*s, w*s, 3]`` in 0..1.

    For 16-bit and float images, which ``ByteImage`` would reduce to 8 bits. The network computes in
    its own dtype; the result is clamped.

    Raises:
        CheckpointError: from the constructor: the network is known to have other channels.
        ImageError: from ``forward``: the images have another dtype or shape.
    """

    dtype_in = torch.float32

    def forward(self, images: Tensor) -> Tensor:
        """Restore images; n, h and w are dynamic."""
        self._check(images)
        planes = _luma(images) if self.gray else _swap(images.permute(0, 3, 1, 2))
        result: Tensor = self.network(planes.to(self._dtype()))
        return self._pixels(result.float().clamp(0, 1)).contiguous()


class _Face(_Wrapped):
    """A network for aligned faces with conversion between its planes and BGR pixels.

    Args:
        network: takes float RGB planes ``[n, 3, side, side]`` in -1..1 and the inputs that
            ``NetworkFacts.extra`` names, each a float32 tensor with one value.
        side: side length of the images in and out, in pixels.
    """

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__(network)
        self.side = side

    def _check(self, images: Tensor) -> None:
        if images.dtype is not self.dtype_in or images.ndim != 4:
            raise ImageError(
                f"faces must be {self.dtype_in} [n, {self.side}, {self.side}, 3], got "
                f"{images.dtype} with {images.ndim} axes"
            )
        sizes = tuple(images.shape[1:])  # tensors under the legacy tracer: no `if` on values
        if all(type(size) is int for size in sizes) and sizes != (self.side, self.side, 3):
            raise ImageError(
                f"this network takes aligned faces [n, {self.side}, {self.side}, 3], got "
                f"{list(images.shape)}"
            )

    def _restore(self, unit: Tensor, fidelity: Tensor | None) -> Tensor:
        """Map float32 BGR pixels in 0..1 to restored pixels of the same kind."""
        planes = (_swap(unit.permute(0, 3, 1, 2)) * 2 - 1).to(self._dtype())
        extra = () if fidelity is None else (fidelity,)
        result: Tensor = self.network(planes, *extra)
        bounded = result.float().clamp(-1, 1) * 0.5 + 0.5
        return _swap(bounded).permute(0, 2, 3, 1)


class ByteFace(_Face):
    """A network for aligned faces that maps uint8 BGR ``[n, side, side, 3]`` to the same.

    Scaling and rounding (half to even) are float32; TensorRT accepts only casts on uint8, so a cast
    comes first and last.

    Raises:
        ImageError: from ``forward``: the faces have another dtype, shape or size.
    """

    dtype_in = torch.uint8

    def forward(self, images: Tensor, fidelity: Tensor | None = None) -> Tensor:
        """Restore faces; n is dynamic."""
        self._check(images)
        restored = self._restore(images.float() * (1 / 255), fidelity)
        return (restored * 255).round().to(torch.uint8).contiguous()


class FloatFace(_Face):
    """A network for aligned faces that maps float32 BGR ``[n, side, side, 3]`` in 0..1 to the same.

    Raises:
        ImageError: from ``forward``: the faces have another dtype, shape or size.
    """

    dtype_in = torch.float32

    def forward(self, images: Tensor, fidelity: Tensor | None = None) -> Tensor:
        """Restore faces; n is dynamic."""
        self._check(images)
        return self._restore(images, fidelity).contiguous()


def _swap(planes: Tensor) -> Tensor:
    """Convert BGR planes to RGB planes and back."""
    return planes.flip(1)


def _luma(pixels: Tensor) -> Tensor:
    """Convert float32 BGR ``[n, h, w, 3]`` to gray ``[n, 1, h, w]``."""
    # Not in half precision, in which LUMA does not sum to 1.
    blue, green, red = pixels.unbind(3)
    return (blue * LUMA[0] + green * LUMA[1] + red * LUMA[2]).unsqueeze(1)

"""Pictures in, pictures out: colour order, scaling and rounding as part of the network.

Wrapped so, a backend moves bytes and nothing else. Both modules trace with both ONNX exporters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resharp.errors import CheckpointError, ImageError
from resharp.models.rrdbnet import RRDBNet
from resharp.models.srvgg import SRVGGNetCompact


class _Picture(nn.Module):
    """A network and the turn between its RGB planes and BGR pixels."""

    reverse: Tensor
    dtype_in: torch.dtype

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        channels = _channels(network)
        if channels not in (None, (3, 3)):
            raise CheckpointError(
                f"this network takes {channels[0]} and gives {channels[1]} channels: only networks "
                "with 3 and 3 (colour) can be wrapped for pictures so far"
            )
        self.network = network

    def _check(self, images: Tensor) -> None:
        if images.dtype is not self.dtype_in or images.ndim != 4:
            raise ImageError(
                f"pictures are {self.dtype_in} [n, h, w, 3], not {images.dtype} with "
                f"{images.ndim} axes"
            )
        channels = images.shape[3]  # a tensor under the legacy tracer, which must not be tested
        if isinstance(channels, int) and channels != 3:
            raise ImageError(f"pictures have 3 channels (BGR) here, not {channels}")

    def _dtype(self) -> torch.dtype:
        """The network's own type: that of its first floating-point parameter."""
        types = (one.dtype for one in self.network.parameters() if one.is_floating_point())
        return next(types, torch.float32)


class ByteImage(_Picture):
    """uint8 BGR ``[n, h, w, 3]`` to uint8 BGR ``[n, h*s, w*s, 3]``, around a 3-channel network.

    The network computes in its own dtype (``.half()`` it freely); the last steps, times 255,
    round half to even and clamp, are float32, which keeps half precision within one level.

    Raises:
        CheckpointError: from the constructor: a known network without 3 channels.
        ImageError: from ``forward``: another dtype or shape.
    """

    dtype_in = torch.uint8

    def forward(self, images: Tensor) -> Tensor:
        """Restore pictures; n, h and w are free."""
        self._check(images)
        # TensorRT refuses any node but a cast on uint8: cast first and, below, last.
        planes = _swap(images.to(self._dtype()).permute(0, 3, 1, 2)) * (1 / 255)
        result: Tensor = self.network(planes)
        levels = (result.float() * 255).round().clamp(0, 255)
        return _swap(levels).permute(0, 2, 3, 1).to(torch.uint8).contiguous()


class FloatImage(_Picture):
    """float32 BGR ``[n, h, w, 3]`` in 0..1 to float32 BGR ``[n, h*s, w*s, 3]``, clamped to 0..1.

    For 16-bit and float pictures, which ``ByteImage`` would cut to 8 bits. The network computes in
    its own dtype.

    Raises:
        CheckpointError: from the constructor: a known network without 3 channels.
        ImageError: from ``forward``: another dtype or shape.
    """

    dtype_in = torch.float32

    def forward(self, images: Tensor) -> Tensor:
        """Restore pictures; n, h and w are free."""
        self._check(images)
        planes = _swap(images.permute(0, 3, 1, 2)).to(self._dtype())
        result: Tensor = self.network(planes)
        return _swap(result.float().clamp(0, 1)).permute(0, 2, 3, 1).contiguous()


def _swap(planes: Tensor) -> Tensor:
    """BGR planes to RGB planes and back."""
    return planes.flip(1)


def _channels(network: nn.Module) -> tuple[int, int] | None:
    """Channels in and out of a network of ours; ``None`` for a stranger's."""
    if isinstance(network, RRDBNet):
        return network.num_in_ch, network.num_out_ch
    if isinstance(network, SRVGGNetCompact):
        first, last = network.body[0], network.body[-1]
        assert isinstance(first, nn.Conv2d)
        assert isinstance(last, nn.Conv2d)
        return first.in_channels, last.out_channels // network.upscale**2
    return None

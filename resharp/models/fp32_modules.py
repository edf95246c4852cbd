"""Parts of a network that stay float32 whatever the rest becomes.

Two marks, which ``precision.py`` reads and nothing else needs to know of:

- ``keeps_float32``: what ``.half()``, ``.bfloat16()`` and ``.to(dtype)`` do not touch. The weights
  are never rounded on the way; moves to another device go through. Such a module casts what it
  takes and gives by itself.
- ``casts``: a module that computes in the type of its weights and returns the type of its input, so
  that ``mixed`` can convert it alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

ALL = ("",)


class KeepFP32(nn.Module):
    """A module that keeps float32: all of it, or the parameters and children that are named."""

    keeps_float32: ClassVar[tuple[str, ...]] = ALL
    """Names of own parameters and buffers; :data:`ALL` is everything, with all that is below."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # nn.Module's one door for .half(), .to() and .cuda(). An override keeps the weights out of
        # it; casting back afterwards would give rounded ones.
        names = self.keeps_float32
        kept = {id(getattr(self, name)) for name in names if name}

        def convert(tensor: Tensor) -> Tensor:
            converted = fn(tensor)
            if names != ALL and id(tensor) not in kept:
                return converted
            if converted.dtype is tensor.dtype or not tensor.is_floating_point():
                return converted
            return tensor.to(converted.device)

        super()._apply(convert, recurse)  # type: ignore[no-untyped-call]
        return self


class Float32Linear(KeepFP32, nn.Linear):
    """A linear layer in float32; gives float32."""

    def forward(self, x: Tensor) -> Tensor:
        """``[n, in]`` of any type to float32 ``[n, out]``."""
        return linear(x.float(), self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` for ``[n, in]``, as a convolution of one pixel.

    TensorRT-RTX 1.7 has no float32 matrix product for Turing (sm75), but float32 convolutions.
    """
    out = F.conv2d(x[:, :, None, None], weight[:, :, None, None], bias)
    return out[:, :, 0, 0]


class PixelLinear(nn.Linear):
    """``nn.Linear`` for ``[n, in]`` by :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """``[n, in]`` to ``[n, out]``."""
        return linear(x, self.weight, self.bias)


class Float32GroupNorm(KeepFP32, nn.GroupNorm):
    """Group normalisation whose sums are float32; gives its input's type."""

    def forward(self, x: Tensor) -> Tensor:
        """``[n, c, h, w]`` to the same."""
        out = F.group_norm(x.float(), self.num_groups, self.weight, self.bias, self.eps)
        return out.to(x.dtype)


def kept(network: nn.Module) -> set[str]:
    """Names of the modules that stay float32 as a whole, those within others included."""
    found: set[str] = set()
    for name, module in network.named_modules():
        if getattr(module, "keeps_float32", ()) == ALL:
            found |= {f"{name}.{inner}".strip(".") for inner, _ in module.named_modules()}
    return found


def casts(module: nn.Module) -> bool:
    """Whether a module computes in the type of its weights and gives that of its input."""
    return bool(getattr(module, "casts", False))

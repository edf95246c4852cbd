"""Parts of a network that stay float32 when the rest is converted.

Two class attributes mark them; elsewhere, only ``precision.py`` depends on them:

- ``keeps_float32``: tensors that ``.half()``, ``.bfloat16()`` and ``.to(dtype)`` do not convert.
  Their weights are never rounded; moves to another device work as usual. Such a module casts its
  own inputs and outputs.
- ``casts``: the module computes in the dtype of its weights and returns the dtype of its input, so
  that ``mixed`` can convert it alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

ALL = ("",)


class KeepFP32(nn.Module):
    """A module that keeps float32, either entirely or for the named parameters and buffers."""

    keeps_float32: ClassVar[tuple[str, ...]] = ALL
    """Names of own parameters and buffers that stay float32; :data:`ALL` includes all children."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # nn.Module implements .half(), .to() and .cuda() with this method. Overriding it leaves the
        # weights as they are; casting them back afterwards would keep the rounding.
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
    """A linear layer that computes in and returns float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[n, in]`` of any dtype to float32 ``[n, out]``."""
        return linear(x.float(), self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``F.linear`` of ``[n, in]`` as a convolution of one pixel.

    TensorRT-RTX 1.7 has float32 convolutions but no float32 matrix product for Turing (sm75).
    """
    out = F.conv2d(x[:, :, None, None], weight[:, :, None, None], bias)
    return out[:, :, 0, 0]


class PixelLinear(nn.Linear):
    """``nn.Linear`` for ``[n, in]``, computed by :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[n, in]`` to ``[n, out]``."""
        return linear(x, self.weight, self.bias)


class Float32GroupNorm(KeepFP32, nn.GroupNorm):
    """Group normalization that computes in float32 and returns the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``[n, c, h, w]``."""
        out = F.group_norm(x.float(), self.num_groups, self.weight, self.bias, self.eps)
        return out.to(x.dtype)


def kept(network: nn.Module) -> set[str]:
    """Return the names of modules that stay float32 entirely, including nested modules."""
    found: set[str] = set()
    for name, module in network.named_modules():
        if getattr(module, "keeps_float32", ()) == ALL:
            found |= {f"{name}.{inner}".strip(".") for inner, _ in module.named_modules()}
    return found


def casts(module: nn.Module) -> bool:
    """Return whether a module computes in its weights' dtype and returns its input's dtype."""
    return bool(getattr(module, "casts", False))

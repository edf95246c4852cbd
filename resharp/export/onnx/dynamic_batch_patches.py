"""Patches for spandrel's window networks that make their traces work for any batch size.

Swin Transformers and their many descendants merge windows with ``B = int(windows.shape[0] / ..)``,
and ``int`` makes both of torch's exporters silently bake the example's batch size into the graph:
other batches come out scrambled. While a network is traced, the functions that do so are replaced
by these, which let ``view`` infer it. The parity check uses the original network.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import Tensor, nn

PACKAGES = ("spandrel", "spandrel_extra_arches")


def window_reverse(windows: Tensor, window_size: int, h: int, w: int) -> Tensor:
    """Merge windows ``[b * windows, side, side, c]`` into ``[b, h, w, c]``."""
    return windows2img(windows, window_size, window_size, h, w)


def windows2img(windows: Tensor, tall: int, wide: int, h: int, w: int) -> Tensor:
    """Merge windows ``[b * windows, tall * wide, c]`` into ``[b, h, w, c]``."""
    channels = int(windows.shape[-1])
    x = windows.view(-1, h // tall, w // wide, tall, wide, channels)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, h, w, channels)


def window_reverse_of_pair(windows: Tensor, window_size: Any, img_size: Any) -> Tensor:
    """Same as :func:`window_reverse`, with sizes as pairs."""
    return windows2img(windows, *window_size, *img_size)


_REPLACED: dict[tuple[str, int], Callable[..., Tensor]] = {
    ("window_reverse", 4): window_reverse,
    ("window_reverse", 3): window_reverse_of_pair,
    ("windows2img", 5): windows2img,
}
"""Replacement functions, by name and number of parameters."""


@contextmanager
def any_batch(network: nn.Module) -> Iterator[None]:
    """Patch those functions in spandrel's modules that ``network`` uses, inside the context."""
    before: list[tuple[ModuleType, str, object]] = []
    names = {type(one).__module__ for one in network.modules()}
    own = sorted(name for name in names if name.partition(".")[0] in PACKAGES)
    for module in (sys.modules[name] for name in own if name in sys.modules):
        for (name, count), function in _REPLACED.items():
            theirs = getattr(module, name, None)
            if inspect.isfunction(theirs) and len(inspect.signature(theirs).parameters) == count:
                before.append((module, name, theirs))
                setattr(module, name, function)
    try:
        yield
    finally:
        for module, name, theirs in before:
            setattr(module, name, theirs)

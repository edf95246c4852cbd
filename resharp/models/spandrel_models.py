"""Networks of spandrel's architectures that map one image to one image.

resharp's own networks take precedence: only weights that fit none of them are passed to spandrel.
It receives a state dict that ``checkpoint_files.read`` has read, so only tensors of an untrusted
file are ever unpickled. Its network is wrapped so that any size works: spandrel states the sizes
that a network supports (a minimum, a multiple, squares), and the wrapper pads to them, by
reflection as in spandrel's own call and without a branch that a tracer would bake in.

spandrel (MIT) is an optional extra and is imported only for weights that fit no network of resharp.
``spandrel_extra_arches`` contains architectures under licenses that forbid commercial use: resharp
never installs it but supports its architectures if it can be imported.

The architecture of such a checkpoint is named e.g. ``spandrel:DAT``. Its parameters are the sizes,
to be overridden where spandrel states too little: ``minimum``, ``multiple``, ``square`` (0 or 1).
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn

from resharp.checks import shown
from resharp.errors import (
    CheckpointError,
    MissingExtraError,
    OptionError,
    ResharpError,
    UnknownArchitectureError,
)
from resharp.models.architecture import NetworkFacts, State
from resharp.models.archs.layers import reflected, rounded_up
from resharp.models.detect import Match
from resharp.optional import require

EXTRA_ARCHITECTURES = "spandrel_extra_arches"
PREFIX = "spandrel:"
"""Prefix of the names of spandrel's architectures."""
EXPORTERS = ("legacy", "dynamo")
"""Exporters to try, in this order: which one suits an unknown network cannot be predicted."""
SIZES = frozenset(("minimum", "multiple", "square"))
"""Names of the parameters that every spandrel network has."""
_MINIMA = (1, 2, 4, 8, 16, 32, 64, 128)
"""Minimum sizes to try when the one that spandrel states does not work."""
_LARGEST_WINDOW = 64
_CHARACTERS = 300
_COLORS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, kw_only=True, eq=False)
class SpandrelModel(Match):
    """A state dict that fits one of spandrel's architectures, under spandrel's tensor names."""

    network: nn.Module
    """Network with weights and padding; float32, on the CPU, in eval mode."""


def library(feature: str) -> Any:
    """Import ``spandrel`` and register the extra architectures if they are installed.

    Args:
        feature: feature that needs it, as the start of a sentence.

    Raises:
        MissingExtraError: spandrel is not installed or cannot be imported (it needs torchvision).
    """
    with quiet():
        try:
            spandrel: Any = require("spandrel", feature=feature, extra="spandrel")
        except RuntimeError as error:  # "operator torchvision::nms does not exist"
            raise MissingExtraError(
                f"{feature} needs spandrel, which cannot be imported ({error}): install the "
                "torchvision version that matches this torch"
            ) from error
        try:
            extra: Any = importlib.import_module(EXTRA_ARCHITECTURES)
            spandrel.MAIN_REGISTRY.add(*extra.EXTRA_REGISTRY, ignore_duplicates=True)
        except (ImportError, RuntimeError, OSError):  # not installed, or for another spandrel
            pass
    return spandrel


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress torch's warnings about the code of older networks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def is_foreign(architecture: str | None) -> bool:
    """Return whether an architecture is one of spandrel's."""
    return architecture is not None and architecture.startswith(PREFIX)


def label(architecture: str) -> str:
    """Return the architecture's name for messages, e.g. ``spandrel's DAT``."""
    return f"spandrel's {architecture.removeprefix(PREFIX)}"


def shorten(error: BaseException) -> str:
    """Return an error message on one line, cut to 300 characters: torch's can be very long."""
    lines = " ".join(_COLORS.sub("", str(error)).split()) or type(error).__name__
    return lines if len(lines) <= _CHARACTERS else f"{lines[:_CHARACTERS]}..."


def recognize(state: State, parameters: Mapping[str, int | str] | None = None) -> SpandrelModel:
    """Let spandrel identify the architecture of these weights and build the network.

    Args:
        state: tensors by name.
        parameters: sizes that override those that spandrel states.

    Raises:
        MissingExtraError: spandrel cannot be imported.
        UnknownArchitectureError: spandrel does not recognize the weights or cannot load them.
        CheckpointError: the network does not map one image to one image, or fails; the message
            names it and gives the reason.
        OptionError: a parameter does not exist or is not a valid size.
    """
    spandrel = library("Trying spandrel's architectures")
    own = dict(spandrel.canonicalize_state_dict(dict(state)))
    supports = spandrel.MAIN_REGISTRY.architectures("detection")
    found = next((one for one in supports if _detects(one, own)), None)
    if found is None:
        raise UnknownArchitectureError(f"spandrel {_version()} does not recognize them either")
    name = f"{PREFIX}{found.architecture.id}"
    descriptor = _loaded(spandrel, found.architecture, own, name)
    need = _sizes(descriptor, name, parameters or {})
    if "minimum" not in (parameters or {}):
        need["minimum"] = _smallest(descriptor, need, name)
    return _model(descriptor, name, need, own)


def restore(state: State, architecture: str, parameters: Mapping[str, int | str]) -> SpandrelModel:
    """Rebuild a network that :func:`recognize` identified, from what a bundle stores of it.

    Raises:
        MissingExtraError: spandrel cannot be imported.
        CheckpointError: spandrel lacks this architecture, or its network does not fit.
        OptionError: a parameter does not exist or is not a valid size.
    """
    spandrel = library(f"A network of {label(architecture)}")
    support = spandrel.MAIN_REGISTRY.get(architecture.removeprefix(PREFIX))
    if support is None:
        raise CheckpointError(
            f"spandrel {_version()} has no {architecture.removeprefix(PREFIX)}: try a newer "
            f"version or the package {EXTRA_ARCHITECTURES}"
        )
    own = dict(spandrel.canonicalize_state_dict(dict(state)))
    descriptor = _loaded(spandrel, support.architecture, own, architecture)
    return _model(descriptor, architecture, _sizes(descriptor, architecture, parameters), own)


class AnySize(nn.Module):
    """A network made to work for any size: pads at the bottom and right, and crops the output."""

    def __init__(
        self,
        network: nn.Module,
        call: Callable[[nn.Module, Tensor], Tensor],
        *,
        scale: int,
        channels: tuple[int, int],
        minimum: int = 1,
        multiple: int = 1,
        square: int = 0,
    ) -> None:
        super().__init__()
        self.network = network
        self.call = call
        self.scale = scale
        self.num_in_ch, self.num_out_ch = channels
        self.minimum, self.multiple, self.square = minimum, multiple, square

    def forward(self, planes: Tensor) -> Tensor:
        """Map float ``[n, c, h, w]`` in 0..1 to ``[n, c, h*s, w*s]``."""
        height, width = planes.shape[2], planes.shape[3]
        tall, wide = self._side(height), self._side(width)
        if self.square:
            tall = wide = _larger(tall, wide)
        if self.minimum > 1 or self.multiple > 1 or self.square:
            planes = reflected(planes, tall, wide)
        result = self.call(self.network, planes)
        return result[:, :, : height * self.scale, : width * self.scale]

    def _side(self, size: Any) -> Any:
        size = size if self.minimum == 1 else _larger(size, self.minimum)
        return size if self.multiple == 1 else rounded_up(size, self.multiple)


def _larger(one: Any, other: Any) -> Any:
    """Return the larger of two sizes, which are tensors or symbols under a tracer."""
    if isinstance(one, Tensor):
        return torch.clamp(one, min=other)
    return torch.sym_max(one, other)  # type: ignore[no-untyped-call]


def _version() -> str:
    try:
        return version("spandrel")
    except PackageNotFoundError:
        return "(unknown version)"


def _detects(support: Any, state: dict[str, Tensor]) -> bool:
    try:
        return bool(support.detect(state))
    except Exception:  # it inspects single tensors, which can be anything
        return False


def _loaded(spandrel: Any, architecture: Any, state: dict[str, Tensor], name: str) -> Any:
    """Load spandrel's descriptor of a network that maps one image to one image.

    It receives a copy of the dict, since some loaders remove the entries that they read.
    """
    try:
        with quiet():
            descriptor = architecture.load(dict(state))
    except ResharpError:
        raise
    except Exception as error:  # its code meets unexpected shapes or names
        raise UnknownArchitectureError(
            f"spandrel recognizes them as its {name.removeprefix(PREFIX)} but cannot load them: "
            f"{shorten(error)}"
        ) from error
    if reason := _unsuited(spandrel, descriptor):
        raise CheckpointError(f"these are weights of {label(name)}, which {reason}")
    return descriptor.float().eval()


def _unsuited(spandrel: Any, descriptor: Any) -> str:
    channels = (descriptor.input_channels, descriptor.output_channels)
    tiling = getattr(descriptor.tiling, "name", "")
    if not isinstance(descriptor, spandrel.ImageModelDescriptor):
        return f"needs more than an image ({descriptor.purpose.lower()}, with a mask)"
    if descriptor.purpose == "FaceSR":
        return "only restores aligned faces, for which resharp has its own networks"
    if channels not in ((3, 3), (1, 1)):
        return (
            f"takes {channels[0]} and returns {channels[1]} channels; only networks for color "
            "images (3 and 3) or gray images (1 and 1) can be exported"
        )
    if tiling == "INTERNAL":
        return "needs the whole image at once and cannot run in tiles"
    if not callable(getattr(descriptor, "_call_fn", None)):
        return f"has an interface that this release does not support (spandrel {_version()})"
    return ""


def _sizes(descriptor: Any, name: str, given: Mapping[str, int | str]) -> dict[str, int]:
    """Return the sizes that a network supports: those that spandrel states, unless overridden."""
    need = descriptor.size_requirements
    sizes = {
        "minimum": max(int(need.minimum), 1),
        "multiple": int(need.multiple_of),
        "square": int(need.square),
    }
    for key, value in given.items():
        if key not in sizes:
            raise OptionError(
                f"{label(name)} has no parameter {shown(key)}: use one of {', '.join(sizes)}"
            )
        least = 0 if key == "square" else 1
        if not isinstance(value, int) or value < least:
            raise OptionError(
                f"{key} of {label(name)} must be an integer of at least {least}, got {shown(value)}"
            )
        sizes[key] = int(value)
    return sizes


def _any_size(descriptor: Any, need: Mapping[str, int]) -> AnySize:
    network = AnySize(
        descriptor.model,
        descriptor._call_fn,  # the only part without a public name
        scale=int(descriptor.scale),
        channels=(descriptor.input_channels, descriptor.output_channels),
        **need,
    )
    return network.eval()


def _smallest(descriptor: Any, need: Mapping[str, int], name: str) -> int:
    """Return the smallest size that works: some networks fail at the minimum they state."""
    stated, failure = need["minimum"], "no size was tried"
    for least in (stated, *(size for size in _MINIMA if size > stated)):
        try:
            _try(_any_size(descriptor, {**need, "minimum": least}))
        except ResharpError:
            raise
        except Exception as error:  # its code can raise anything
            failure = shorten(error)
        else:
            return least
    raise CheckpointError(
        f"these are weights of {label(name)}, which fails in PyTorch itself on a batch of two "
        f"small images: {failure}"
    )


def _try(network: AnySize) -> None:
    for height, width in ((1, 1), (5, 3)):
        with torch.inference_mode(), quiet():
            found = network(torch.full((2, network.num_in_ch, height, width), 0.5))
        wanted = (2, network.num_out_ch, height * network.scale, width * network.scale)
        if tuple(found.shape) != wanted:
            raise ValueError(f"the output shape must be {wanted}, got {tuple(found.shape)}")


def _model(
    descriptor: Any, name: str, need: dict[str, int], state: dict[str, Tensor]
) -> SpandrelModel:
    network = _any_size(descriptor, need)
    facts = NetworkFacts(
        scale=network.scale,
        in_channels=network.num_in_ch,
        out_channels=network.num_out_ch,
        size_multiple=lcm(need["multiple"], _window(descriptor.model)),
        exporters=EXPORTERS,
    )
    return SpandrelModel(
        architecture=name, parameters={**need}, facts=facts, state=state, network=network
    )


def _window(network: nn.Module) -> int:
    """Return the side of the attention windows, to which tiles should be aligned; 1 if unknown.

    Networks that pad to whole windows by themselves state no multiple.
    """
    window = getattr(network, "window_size", 1)
    sides = tuple(window) if isinstance(window, tuple | list) else (window,)
    if not sides or not all(isinstance(side, int) and side > 0 for side in sides):
        return 1
    common = lcm(*sides)
    return common if common <= _LARGEST_WINDOW else 1

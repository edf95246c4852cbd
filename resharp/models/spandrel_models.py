"""Networks of spandrel's architectures: any that turns one picture into one picture.

They come after resharp's own: only weights that fit no network here are shown to spandrel. It is
given a state dict that ``checkpoint_files.read`` has read, so that nothing of a stranger's file is
unpickled but tensors. What it finds is wrapped so that any size works: spandrel states the sizes
that a network takes (a minimum, a multiple, squares), and the padding up to them is part of the
network here, by reflection as in spandrel's own call, without a branch that a tracer would bake.

spandrel (MIT) is an optional extra, and nothing imports it before weights are met that no network
here fits. ``spandrel_extra_arches`` holds architectures under licenses that forbid commercial use:
resharp never installs it; where it can be imported, its architectures are offered too.

A checkpoint of this kind is called ``spandrel:DAT``, say. Its parameters are the sizes, which can
be overruled where spandrel states too little: ``minimum``, ``multiple`` and ``square`` (0 or 1).
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
"""What the architectures' names begin with."""
EXPORTERS = ("legacy", "dynamo")
"""Tried in this order: which of them suits a stranger's network is not known."""
SIZES = frozenset(("minimum", "multiple", "square"))
"""The parameters of all of them."""
_MINIMA = (1, 2, 4, 8, 16, 32, 64, 128)
"""Sizes that are tried as the smallest, where spandrel states none that works."""
_LARGEST_WINDOW = 64
_CHARACTERS = 300
_COLORS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, kw_only=True, eq=False)
class SpandrelModel(Match):
    """A state dict that an architecture of spandrel fits; its names are spandrel's."""

    network: nn.Module
    """With the weights and the padding; float32, on the CPU, in eval mode."""


def library(feature: str) -> Any:
    """The module ``spandrel``, with the extra architectures registered where they are installed.

    Args:
        feature: what needs it, as the start of a sentence.

    Raises:
        MissingExtraError: it is not installed, or it cannot be imported: it needs torchvision.
    """
    with quiet():
        try:
            spandrel: Any = require("spandrel", feature=feature, extra="spandrel")
        except RuntimeError as error:  # "operator torchvision::nms does not exist"
            raise MissingExtraError(
                f"{feature} needs spandrel, which cannot be imported ({error}): install the "
                "torchvision that is made for this torch"
            ) from error
        try:
            extra: Any = importlib.import_module(EXTRA_ARCHITECTURES)
            spandrel.MAIN_REGISTRY.add(*extra.EXTRA_REGISTRY, ignore_duplicates=True)
        except (ImportError, RuntimeError, OSError):  # not installed, or of another spandrel
            pass
    return spandrel


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch says about the code of older networks from our users."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def is_foreign(architecture: str | None) -> bool:
    """Whether an architecture of that name is spandrel's."""
    return architecture is not None and architecture.startswith(PREFIX)


def label(architecture: str) -> str:
    """For messages: ``spandrel's DAT``."""
    return f"spandrel's {architecture.removeprefix(PREFIX)}"


def shorten(error: BaseException) -> str:
    """The first lines of a message, which torch's errors have many of."""
    lines = " ".join(_COLORS.sub("", str(error)).split()) or type(error).__name__
    return lines if len(lines) <= _CHARACTERS else f"{lines[:_CHARACTERS]}..."


def recognise(state: State, parameters: Mapping[str, int | str] | None = None) -> SpandrelModel:
    """Ask spandrel which of its architectures these weights are of.

    Args:
        state: tensors by name.
        parameters: sizes that overrule what spandrel states.

    Raises:
        MissingExtraError: spandrel cannot be imported.
        UnknownArchitectureError: it knows none either, or its network does not fit.
        CheckpointError: not a network from picture to picture; the message names it and says why.
        OptionError: no such parameter.
    """
    spandrel = library("Trying spandrel's architectures")
    own = dict(spandrel.canonicalize_state_dict(dict(state)))
    supports = spandrel.MAIN_REGISTRY.architectures("detection")
    found = next((one for one in supports if _detects(one, own)), None)
    if found is None:
        raise UnknownArchitectureError(f"spandrel {_version()} does not know them either")
    name = f"{PREFIX}{found.architecture.id}"
    descriptor = _loaded(spandrel, found.architecture, own, name)
    need = _sizes(descriptor, name, parameters or {})
    if "minimum" not in (parameters or {}):
        need["minimum"] = _smallest(descriptor, need, name)
    return _model(descriptor, name, need, own)


def restore(state: State, architecture: str, parameters: Mapping[str, int | str]) -> SpandrelModel:
    """The network that :func:`recognise` once found: what a bundle remembers of it.

    Raises:
        MissingExtraError: spandrel cannot be imported.
        CheckpointError: it has no such architecture, or its network does not fit.
        OptionError: no such parameter.
    """
    spandrel = library(f"A network of {label(architecture)}")
    support = spandrel.MAIN_REGISTRY.get(architecture.removeprefix(PREFIX))
    if support is None:
        raise CheckpointError(
            f"spandrel {_version()} has no {architecture.removeprefix(PREFIX)}: it may be in a "
            f"newer one, or in the package {EXTRA_ARCHITECTURES}"
        )
    own = dict(spandrel.canonicalize_state_dict(dict(state)))
    descriptor = _loaded(spandrel, support.architecture, own, architecture)
    return _model(descriptor, architecture, _sizes(descriptor, architecture, parameters), own)


class AnySize(nn.Module):
    """A network for some sizes, as one for all: padded at the bottom and right, and cropped."""

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
        """Float ``[n, c, h, w]`` in 0..1 to ``[n, c, h*s, w*s]``."""
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
    """The larger of two sizes, which may be a tracer's: tensors, or symbols."""
    if isinstance(one, Tensor):
        return torch.clamp(one, min=other)
    return torch.sym_max(one, other)  # type: ignore[no-untyped-call]


def _version() -> str:
    try:
        return version("spandrel")
    except PackageNotFoundError:
        return "as installed"


def _detects(support: Any, state: dict[str, Tensor]) -> bool:
    try:
        return bool(support.detect(state))
    except Exception:  # it looks at single tensors of what may be anything
        return False


def _loaded(spandrel: Any, architecture: Any, state: dict[str, Tensor], name: str) -> Any:
    """spandrel's descriptor of a network that turns one picture into one picture.

    A copy of the dict is given, since some take out what they read.
    """
    try:
        with quiet():
            descriptor = architecture.load(dict(state))
    except ResharpError:
        raise
    except Exception as error:  # shapes and names that its code did not expect
        raise UnknownArchitectureError(
            f"spandrel takes them for its {name.removeprefix(PREFIX)}, but cannot load them: "
            f"{shorten(error)}"
        ) from error
    if reason := _unsuited(spandrel, descriptor):
        raise CheckpointError(f"these are weights of {label(name)}, which {reason}")
    return descriptor.float().eval()


def _unsuited(spandrel: Any, descriptor: Any) -> str:
    channels = (descriptor.input_channels, descriptor.output_channels)
    tiling = getattr(descriptor.tiling, "name", "")
    if not isinstance(descriptor, spandrel.ImageModelDescriptor):
        return f"takes more than a picture ({descriptor.purpose.lower()}, with a mask)"
    if descriptor.purpose == "FaceSR":
        return "restores aligned faces only, which resharp does with networks of its own"
    if channels not in ((3, 3), (1, 1)):
        return (
            f"takes {channels[0]} and gives {channels[1]} channels; networks for color pictures "
            "(3 and 3) and gray ones (1 and 1) can be exported"
        )
    if tiling == "INTERNAL":
        return "needs the whole picture at once, so that it cannot run in tiles"
    if not callable(getattr(descriptor, "_call_fn", None)):
        return f"cannot be called as this release knows it (spandrel {_version()})"
    return ""


def _sizes(descriptor: Any, name: str, given: Mapping[str, int | str]) -> dict[str, int]:
    """The sizes that a network takes: as spandrel states them, unless overruled."""
    need = descriptor.size_requirements
    sizes = {
        "minimum": max(int(need.minimum), 1),
        "multiple": int(need.multiple_of),
        "square": int(need.square),
    }
    for key, value in given.items():
        if key not in sizes:
            raise OptionError(f"{label(name)} has no parameter {key!r}: it has {', '.join(sizes)}")
        least = 0 if key == "square" else 1
        if not isinstance(value, int) or value < least:
            raise OptionError(f"the parameter {key} of {label(name)} is {value!r}, not a size")
        sizes[key] = int(value)
    return sizes


def _any_size(descriptor: Any, need: Mapping[str, int]) -> AnySize:
    network = AnySize(
        descriptor.model,
        descriptor._call_fn,  # the one thing that it has no public name for
        scale=int(descriptor.scale),
        channels=(descriptor.input_channels, descriptor.output_channels),
        **need,
    )
    return network.eval()


def _smallest(descriptor: Any, need: Mapping[str, int], name: str) -> int:
    """The smallest size that works: some networks fail on smaller pictures and do not say so."""
    stated, failure = need["minimum"], "no size was tried"
    for least in (stated, *(size for size in _MINIMA if size > stated)):
        try:
            _try(_any_size(descriptor, {**need, "minimum": least}))
        except ResharpError:
            raise
        except Exception as error:  # whatever its code raises
            failure = shorten(error)
        else:
            return least
    raise CheckpointError(
        f"these are weights of {label(name)}, which fails in PyTorch itself on two small pictures "
        f"at a time: {failure}"
    )


def _try(network: AnySize) -> None:
    for height, width in ((1, 1), (5, 3)):
        with torch.inference_mode(), quiet():
            found = network(torch.full((2, network.num_in_ch, height, width), 0.5))
        wanted = (2, network.num_out_ch, height * network.scale, width * network.scale)
        if tuple(found.shape) != wanted:
            raise ValueError(f"{tuple(found.shape)} came out instead of {wanted}")


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
    """The side of its attention windows, which tiles should be aligned to; 1 where unknown.

    Networks that pad up to whole windows by themselves state no multiple.
    """
    window = getattr(network, "window_size", 1)
    sides = tuple(window) if isinstance(window, tuple | list) else (window,)
    if not sides or not all(isinstance(side, int) and side > 0 for side in sides):
        return 1
    common = lcm(*sides)
    return common if common <= _LARGEST_WINDOW else 1

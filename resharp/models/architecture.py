"""Descriptions of architectures: how to recognize and read state dicts, and network facts."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor, nn

State: TypeAlias = Mapping[str, Tensor]
Parameters: TypeAlias = dict[str, int | str]


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    """Architecture-independent facts about a network that the rest of resharp uses."""

    scale: int
    """Output size divided by input size."""
    in_channels: int
    """Number of input image channels."""
    out_channels: int
    """Number of output image channels."""
    size_multiple: int = 1
    """Image sizes that are multiples of this need no padding inside the network. Any size works,
    but a tile that does not start and end on multiples is padded where the image continues."""
    fixed_size: int | None = None
    """Required side length of the image in pixels, for networks that only restore aligned faces;
    None otherwise. These networks map -1..1 to -1..1, which ``io.py`` hides."""
    extra: tuple[tuple[str, float], ...] = ()
    """Inputs in addition to the image: names of numbers in 0..1, each with its default."""
    exporters: tuple[str, ...] = ("legacy",)
    """torch exporters to try, best first. ``legacy`` is fast but runs the network on the example;
    ``dynamo`` does not, which pays off when the example is large."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network architecture and how to read its state dicts."""

    build: Callable[..., nn.Module]
    """Module class, named as upstream; its defaults describe the official network."""
    matches: Callable[[State], bool]
    """Whether a state dict, in any naming, probably belongs to this architecture."""
    convert: Callable[[State], dict[str, Tensor]] = dict
    """Converts any known naming to the official one; unknown names are kept."""
    infer: Callable[[State], Parameters]
    """Infers the keyword arguments of ``build`` from official names. Never fails on a damaged state
    dict: the comparison that follows reports what is wrong."""
    facts: Callable[[Parameters], NetworkFacts]
    """Derives scale, channels and other facts from the parameters."""

    @property
    def name(self) -> str:
        """Name of the module class upstream."""
        return self.build.__name__

    @property
    def official(self) -> Parameters:
        """Parameters of the official network."""
        arguments = inspect.signature(self.build).parameters.values()
        return {argument.name: argument.default for argument in arguments}


def facts_named(
    *, scale: str, channels: tuple[str, str], multiple: str = ""
) -> Callable[[Parameters], NetworkFacts]:
    """Return an ``Architecture.facts`` function that reads the facts from named parameters.

    Args:
        scale: name of the scale parameter.
        channels: names of the parameters for input and output channels.
        multiple: name of the parameter for the size multiple; empty if any size will do.
    """
    inputs, outputs = channels
    return lambda parameters: NetworkFacts(
        scale=int(parameters[scale]),
        in_channels=int(parameters[inputs]),
        out_channels=int(parameters[outputs]),
        size_multiple=int(parameters[multiple]) if multiple else 1,
    )


def face_facts(side: int, *extra: tuple[str, float]) -> NetworkFacts:
    """Return the facts of a network that restores aligned faces of ``side * side`` pixels."""
    return NetworkFacts(
        scale=1,
        in_channels=3,
        out_channels=3,
        fixed_size=side,
        extra=extra,
        exporters=("dynamo",),
    )


def size(state: State, name: str, axis: int, default: int) -> int:
    """Return the length of one axis of a tensor, or ``default`` if the tensor or axis is missing.

    Inference must survive a damaged state dict: the comparison that follows reports what is wrong.
    """
    tensor = state.get(name)
    return tensor.shape[axis] if tensor is not None and tensor.ndim > axis else default


def indices(state: State, pattern: re.Pattern[str]) -> list[int]:
    """Return the number in the first group of ``pattern`` for every name that it matches."""
    return [int(found[1]) for name in state if (found := pattern.fullmatch(name))]

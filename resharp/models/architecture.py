"""What an architecture is: how its state dicts are recognized and read, and its network's facts."""

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
    """What the rest of resharp has to know of a network, whichever it is."""

    scale: int
    """Output size over input size."""
    in_channels: int
    """Channels of the input picture."""
    out_channels: int
    """Channels of the output picture."""
    size_multiple: int = 1
    """Sizes that are a multiple of this need no padding inside the network. Any size works, but
    tiles should begin and end on multiples, or their edges are padded where the picture goes on."""
    fixed_size: int | None = None
    """Side that pictures must have, for networks that restore aligned faces and take no other;
    these take and give -1..1, which ``io.py`` hides."""
    extra: tuple[tuple[str, float], ...] = ()
    """Inputs beside the picture, numbers in 0..1, and what they are where nobody says."""
    exporters: tuple[str, ...] = ("legacy",)
    """torch's exporters to try, best first: ``legacy`` is fast, and runs the network on the
    example; ``dynamo`` does not, which pays where the example is large."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One kind of network and how its state dicts are read."""

    build: Callable[..., nn.Module]
    """The module's class, named as upstream; its defaults are the official network."""
    matches: Callable[[State], bool]
    """Whether a state dict, in any naming, is likely one of this architecture."""
    convert: Callable[[State], dict[str, Tensor]] = dict
    """Any known naming to the official one; names it does not know stay as they are."""
    infer: Callable[[State], Parameters]
    """Keyword arguments of ``build``, from official names. Never fails on a damaged state dict: the
    comparison that follows says what is wrong."""
    facts: Callable[[Parameters], NetworkFacts]
    """Scale and channels, from the parameters."""

    @property
    def name(self) -> str:
        """The name of the module's class upstream."""
        return self.build.__name__

    @property
    def official(self) -> Parameters:
        """The parameters of the official network."""
        arguments = inspect.signature(self.build).parameters.values()
        return {argument.name: argument.default for argument in arguments}


def facts_named(
    *, scale: str, channels: tuple[str, str], multiple: str = ""
) -> Callable[[Parameters], NetworkFacts]:
    """``Architecture.facts`` of a network whose parameters of these names say them all.

    Args:
        scale: name of the parameter.
        channels: names of those for the channels in and out.
        multiple: name of that for the size multiple; empty where any size is alike.
    """
    inputs, outputs = channels
    return lambda parameters: NetworkFacts(
        scale=int(parameters[scale]),
        in_channels=int(parameters[inputs]),
        out_channels=int(parameters[outputs]),
        size_multiple=int(parameters[multiple]) if multiple else 1,
    )


def face_facts(side: int, *extra: tuple[str, float]) -> NetworkFacts:
    """Those of a network that restores aligned faces of ``side * side`` pixels."""
    return NetworkFacts(
        scale=1,
        in_channels=3,
        out_channels=3,
        fixed_size=side,
        extra=extra,
        exporters=("dynamo",),
    )


def size(state: State, name: str, axis: int, default: int) -> int:
    """Length of one axis of a tensor, or ``default`` where there is no such tensor or axis.

    Inference must survive a damaged state dict: the comparison that follows says what is wrong.
    """
    tensor = state.get(name)
    return tensor.shape[axis] if tensor is not None and tensor.ndim > axis else default


def indices(state: State, pattern: re.Pattern[str]) -> list[int]:
    """The number in the first group of ``pattern``, of every name that it matches."""
    return [int(found[1]) for name in state if (found := pattern.fullmatch(name))]

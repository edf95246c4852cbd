"""Detection of the network that a state dict belongs to, from names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resharp.checks import shown
from resharp.errors import OptionError, UnknownArchitectureError
from resharp.models.architecture import Architecture, NetworkFacts, Parameters, State
from resharp.models.archs import find, known, names

_SHOWN = 3
_LARGEST = 1024
"""Largest number that may override a smaller one inferred from the weights."""
_LONGEST = 64
"""The same for the numbers in a list, and for the length of the list."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Match:
    """A state dict that fits a network."""

    architecture: str
    """Name of an entry of :func:`known`, or of one of spandrel's, e.g. ``spandrel:DAT``."""
    parameters: Parameters
    """Keyword arguments that build the network; for spandrel's, the sizes that it supports."""
    facts: NetworkFacts
    """Facts about the network that the rest of resharp uses."""
    state: dict[str, Tensor]
    """Tensors by official name."""


def detect(state: State) -> tuple[str, Parameters]:
    """Return the architecture's name and the parameters of the network with these weights.

    Args:
        state: tensors by name, in any known naming, without a ``module.`` prefix.

    Raises:
        UnknownArchitectureError: no network fits exactly; the message names the closest.
    """
    match = identify(state)
    return match.architecture, match.parameters


def identify(
    state: State,
    *,
    architecture: str | None = None,
    parameters: Mapping[str, int | str] | None = None,
) -> Match:
    """Detect the network of these weights, with optional overrides, and rename the tensors.

    Args:
        state: tensors by name, in any known naming, without a ``module.`` prefix.
        architecture: name of the architecture, to override detection.
        parameters: individual parameters, to override inferred ones.

    Raises:
        OptionError: the architecture or a parameter does not exist, or a value is invalid.
        UnknownArchitectureError: no network fits exactly; the message names the closest.
    """
    kind = find(architecture) if architecture is not None else _matching(state)
    converted = kind.convert(state)
    wanted = _merged(kind, _told(kind, converted), parameters or {})
    if misfit := _misfit(kind, wanted, converted):
        raise UnknownArchitectureError(
            f"these weights fit no known network: {misfit}. If the file is complete, its network "
            f"is not one of {names()}"
        )
    return Match(
        architecture=kind.name, parameters=wanted, facts=kind.facts(wanted), state=converted
    )


def _matching(state: State) -> Architecture:
    for architecture in known():
        if architecture.matches(state):
            return architecture
    likeness, nearest = max(
        ((_likeness(one, state), one) for one in known()), key=lambda pair: pair[0]
    )
    message = f"these weights belong to no known network ({names()}): found {_listed(list(state))}"
    if likeness:
        converted = nearest.convert(state)
        message += f"; {_misfit(nearest, _told(nearest, converted), converted)}"
    raise UnknownArchitectureError(message)


def _likeness(architecture: Architecture, state: State) -> int:
    """Count the names, ignoring numbers, that a state dict shares with the official network."""
    expected = _expected(architecture, architecture.official)
    kinds = {re.sub(r"\d+", "N", name) for name in expected}
    return len(kinds & {re.sub(r"\d+", "N", name) for name in architecture.convert(state)})


def _told(kind: Architecture, converted: State) -> Parameters:
    return kind.infer(converted) if converted else kind.official


def _merged(kind: Architecture, inferred: Parameters, given: Mapping[str, int | str]) -> Parameters:
    for name, value in given.items():
        if name not in inferred:
            raise OptionError(
                f"{kind.name} has no parameter {shown(name)}: use one of {', '.join(inferred)}"
            )
        if type(value) is not type(inferred[name]):
            wanted = type(inferred[name]).__name__
            raise OptionError(
                f"the parameter {name} of {kind.name} must be of type {wanted}, got {shown(value)}"
            )
        _check_size(kind, name, value, inferred[name])
    return inferred | dict(given)


def _check_size(kind: Architecture, name: str, value: int | str, inferred: int | str) -> None:
    """Refuse numbers of blocks in damaged metadata that would take hours to build."""
    numbers = [int(one) for one in re.findall(r"\d{1,12}", str(value))]
    usual = [int(one) for one in re.findall(r"\d{1,12}", str(inferred))]
    most = max(_LARGEST if isinstance(value, int) else _LONGEST, *usual, 0)
    if max(numbers, default=0) > most or len(numbers) > max(_LONGEST, len(usual)):
        raise OptionError(
            f"the parameter {name} of {kind.name} must not exceed {most}, got {str(value)[:40]}"
        )


def _expected(kind: Architecture, parameters: Parameters) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the network's tensors without allocating them."""
    try:
        with torch.device("meta"):
            state = kind.build(**parameters).state_dict()
    except (ValueError, RuntimeError) as error:  # RuntimeError: sizes that overflow
        raise OptionError(f"cannot build {_described(kind, parameters)}: {error}") from error
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _misfit(kind: Architecture, parameters: Parameters, state: State) -> str:
    """Describe how a state dict differs from a network; empty if it does not."""
    expected = _expected(kind, parameters)
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    shapes = [
        f"{name} is {list(found[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    parts = (
        ("missing", [name for name in expected if name not in found]),
        ("unexpected", [name for name in found if name not in expected]),
        ("wrong shape", shapes),
    )
    differences = "; ".join(f"{title}: {_listed(items)}" for title, items in parts if items)
    return differences and f"the closest is {_described(kind, parameters)}, but {differences}"


def _listed(items: Sequence[str]) -> str:
    rest = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _described(kind: Architecture, parameters: Parameters) -> str:
    return f"{kind.name}({', '.join(f'{name}={value}' for name, value in parameters.items())})"

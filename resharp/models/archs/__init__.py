"""All supported architectures, one file each.

To add one, write a file with the module and its :class:`Architecture`, and add a line to
``ARCHITECTURES``. No other code depends on the architecture.
"""

from __future__ import annotations

from resharp.checks import shown
from resharp.errors import OptionError
from resharp.models.architecture import Architecture
from resharp.models.archs import codeformer, gfpgan, restoreformer, rrdbnet, srvgg, swinir

ARCHITECTURES: tuple[Architecture, ...] = (
    rrdbnet.ARCHITECTURE,
    srvgg.ARCHITECTURE,
    swinir.ARCHITECTURE,
    gfpgan.ARCHITECTURE,
    codeformer.ARCHITECTURE,
    restoreformer.ARCHITECTURE,
)
"""The first match wins, so architectures with more specific keys come first."""
_REGISTERED: list[Architecture] = []


def known() -> tuple[Architecture, ...]:
    """Return resharp's architectures and the registered ones, in the order that they are tried."""
    return (*ARCHITECTURES, *_REGISTERED)


def register(architecture: Architecture) -> None:
    """Add an architecture of your own for this process, so that its checkpoints can be exported.

    PyTorch restores with it only in processes that register it; exported graphs and engines need no
    registration. Registering a name again replaces the architecture.

    Raises:
        OptionError: resharp has an architecture of that name.
    """
    if any(one.name == architecture.name for one in ARCHITECTURES):
        raise OptionError(f"resharp has an architecture {architecture.name!r}: rename your class")
    _REGISTERED[:] = [*(one for one in _REGISTERED if one.name != architecture.name), architecture]


def names() -> str:
    """Return the names of all architectures, for messages."""
    return ", ".join(architecture.name for architecture in known())


def find(name: str) -> Architecture:
    """Return the architecture with exactly this name.

    Raises:
        OptionError: the architecture does not exist; the message lists the names.
    """
    for architecture in known():
        if architecture.name == name:
            return architecture
    raise OptionError(f"unknown architecture {shown(name)}: use one of {names()}")

"""All supported architectures, one file each.

To add one, write a file with the module and its :class:`Architecture`, and add a line to
``ARCHITECTURES``. No other code depends on the architecture.
"""

from __future__ import annotations

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


def names() -> str:
    """Return the names of all architectures, for messages."""
    return ", ".join(architecture.name for architecture in ARCHITECTURES)


def find(name: str) -> Architecture:
    """Return the architecture with exactly this name.

    Raises:
        OptionError: the architecture does not exist; the message lists the names.
    """
    for architecture in ARCHITECTURES:
        if architecture.name == name:
            return architecture
    raise OptionError(f"unknown architecture {name!r}: use one of {names()}")

"""Every network that a checkpoint may turn out to be, one file each.

To add one: a file with the module and its :class:`Architecture`, and a line in ``ARCHITECTURES``.
Nothing else asks which architecture it has.
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
"""The first that matches wins, so the one with the more particular keys comes first."""


def names() -> str:
    """The architectures' names, for messages."""
    return ", ".join(architecture.name for architecture in ARCHITECTURES)


def find(name: str) -> Architecture:
    """The architecture of that exact name.

    Raises:
        OptionError: there is none; the message lists them.
    """
    for architecture in ARCHITECTURES:
        if architecture.name == name:
            return architecture
    raise OptionError(f"no architecture is called {name!r}: there are {names()}")

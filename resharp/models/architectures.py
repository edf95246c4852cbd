"""Every network that a checkpoint may turn out to be.

To add one (SwinIR, GFPGAN, CodeFormer are to come): a file with the module, a file with its
``matches``, ``convert`` and ``infer``, and one entry in ``ARCHITECTURES``. Nothing else asks which
architecture it has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from resharp.errors import OptionError
from resharp.models import rrdbnet_keys, srvgg_keys
from resharp.models.rrdbnet import RRDBNet
from resharp.models.srvgg import SRVGGNetCompact
from resharp.models.state import Parameters, State


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the rest of resharp has to know of a network, whichever it is."""

    scale: int
    """Output size over input size."""
    in_channels: int
    """Channels of the input picture."""
    out_channels: int
    """Channels of the output picture."""
    size_multiple: int
    """Sizes that are a multiple of this need no padding inside the network. Any size works, but
    tiles should begin and end on multiples, or their edges are padded where the picture goes on."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One kind of network and how its state dicts are read."""

    name: str
    """The name of the module's class upstream."""
    matches: Callable[[State], bool]
    """Whether a state dict, in any naming, is likely one of this architecture."""
    convert: Callable[[State], dict[str, Tensor]]
    """Any known naming to the official one; names it does not know stay as they are."""
    infer: Callable[[State], Parameters]
    """Keyword arguments of ``build``, from official names. Never fails on a damaged state dict:
    it falls back to the official configuration, and the comparison says what is wrong."""
    build: Callable[..., nn.Module]
    """The module's class."""
    facts: Callable[[Parameters], Facts]
    """Scale and channels, from the parameters."""


def _rrdbnet_facts(parameters: Parameters) -> Facts:
    return Facts(
        scale=int(parameters["scale"]),
        in_channels=int(parameters["num_in_ch"]),
        out_channels=int(parameters["num_out_ch"]),
        size_multiple=int(parameters["unshuffle"]),
    )


def _srvgg_facts(parameters: Parameters) -> Facts:
    return Facts(
        scale=int(parameters["upscale"]),
        in_channels=int(parameters["num_in_ch"]),
        out_channels=int(parameters["num_out_ch"]),
        size_multiple=1,
    )


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        name="RRDBNet",
        matches=rrdbnet_keys.matches,
        convert=rrdbnet_keys.convert,
        infer=rrdbnet_keys.infer,
        build=RRDBNet,
        facts=_rrdbnet_facts,
    ),
    Architecture(
        name="SRVGGNetCompact",
        matches=srvgg_keys.matches,
        convert=srvgg_keys.convert,
        infer=srvgg_keys.infer,
        build=SRVGGNetCompact,
        facts=_srvgg_facts,
    ),
    # SwinIR, GFPGAN and CodeFormer go here. The first entry that matches wins, so the entry with
    # the more particular keys comes first.
)


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

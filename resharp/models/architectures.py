"""Every network that a checkpoint may turn out to be.

To add one: a file with the module, a file with its ``matches``, ``convert`` and ``infer``, and one
entry in ``ARCHITECTURES``. Nothing else asks which architecture it has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from resharp.errors import OptionError
from resharp.models.archs import (
    codeformer_keys,
    gfpgan_keys,
    restoreformer_keys,
    rrdbnet_keys,
    srvgg_keys,
    swinir_keys,
)
from resharp.models.archs.codeformer import FIDELITY, CodeFormer
from resharp.models.archs.gfpgan import GFPGANv1Clean
from resharp.models.archs.restoreformer import RestoreFormer
from resharp.models.archs.rrdbnet import RRDBNet
from resharp.models.archs.srvgg import SRVGGNetCompact
from resharp.models.archs.swinir import SwinIR
from resharp.models.state import Parameters, State


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
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
    fixed_size: int | None = None
    """Side that pictures must have, for networks that restore aligned faces and take no other;
    these take and give -1..1, which ``face_io`` hides."""
    extra: tuple[tuple[str, float], ...] = ()
    """Inputs beside the picture, numbers in 0..1, and what they are where nobody says."""


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
    facts: Callable[[Parameters], NetworkFacts]
    """Scale and channels, from the parameters."""
    exporter: str = "legacy"
    """torch's exporter that suits it: ``legacy`` is fast, and runs the network on the example;
    ``dynamo`` does not, which pays where the example is large."""


def _rrdbnet_facts(parameters: Parameters) -> NetworkFacts:
    return NetworkFacts(
        scale=int(parameters["scale"]),
        in_channels=int(parameters["num_in_ch"]),
        out_channels=int(parameters["num_out_ch"]),
        size_multiple=int(parameters["unshuffle"]),
    )


def _srvgg_facts(parameters: Parameters) -> NetworkFacts:
    return NetworkFacts(
        scale=int(parameters["upscale"]),
        in_channels=int(parameters["num_in_ch"]),
        out_channels=int(parameters["num_out_ch"]),
        size_multiple=1,
    )


def _swinir_facts(parameters: Parameters) -> NetworkFacts:
    return NetworkFacts(
        scale=int(parameters["upscale"]),
        in_channels=int(parameters["in_chans"]),
        out_channels=int(parameters["in_chans"]),
        size_multiple=int(parameters["window_size"]),
    )


def _gfpgan_facts(parameters: Parameters) -> NetworkFacts:
    return _face_facts(int(parameters["out_size"]))


def _codeformer_facts(parameters: Parameters) -> NetworkFacts:
    return _face_facts(int(parameters["img_size"]), (("fidelity", FIDELITY),))


def _restoreformer_facts(parameters: Parameters) -> NetworkFacts:
    return _face_facts(int(parameters["resolution"]))


def _face_facts(side: int, extra: tuple[tuple[str, float], ...] = ()) -> NetworkFacts:
    return NetworkFacts(
        scale=1, in_channels=3, out_channels=3, size_multiple=1, fixed_size=side, extra=extra
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
    Architecture(
        name="SwinIR",
        matches=swinir_keys.matches,
        convert=swinir_keys.convert,
        infer=swinir_keys.infer,
        build=SwinIR,
        facts=_swinir_facts,
    ),
    Architecture(
        name="GFPGANv1Clean",
        matches=gfpgan_keys.matches,
        convert=gfpgan_keys.convert,
        infer=gfpgan_keys.infer,
        build=GFPGANv1Clean,
        facts=_gfpgan_facts,
        exporter="dynamo",
    ),
    Architecture(
        name="CodeFormer",
        matches=codeformer_keys.matches,
        convert=codeformer_keys.convert,
        infer=codeformer_keys.infer,
        build=CodeFormer,
        facts=_codeformer_facts,
        exporter="dynamo",
    ),
    Architecture(
        name="RestoreFormer",
        matches=restoreformer_keys.matches,
        convert=restoreformer_keys.convert,
        infer=restoreformer_keys.infer,
        build=RestoreFormer,
        facts=_restoreformer_facts,
        exporter="dynamo",
    ),
    # The first entry that matches wins, so the entry with the more particular keys comes first.
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

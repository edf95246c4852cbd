from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from resharp.errors import OptionError, UnknownArchitectureError
from resharp.models import (
    ARCHITECTURES,
    Architecture,
    NetworkFacts,
    RRDBNet,
    SRVGGNetCompact,
    detect,
    find,
    register,
)
from resharp.models.archs import known
from resharp.models.detect import identify
from tests.models.nets import community_names, release_names, rrdbnet, run, srvgg

# Scales with BasicSR's pixel-unshuffle, and the older x1 and x2 without one.
KINDS = [(1, 4), (2, 2), (4, 1), (8, 1), (1, 1), (2, 1), (1, 2), (4, 2)]


@pytest.mark.parametrize(("scale", "unshuffle"), KINDS)
@pytest.mark.parametrize("naming", ["official", "release", "community", "community without .0"])
@pytest.mark.parametrize("blocks", [1, 3])
def test_every_naming_is_the_same_rrdbnet(
    scale: int, unshuffle: int, naming: str, blocks: int
) -> None:
    network = rrdbnet(scale, unshuffle=unshuffle, num_block=blocks)
    state: dict[str, Tensor] = network.state_dict()
    if naming == "release":
        state = release_names(state)
    elif naming != "official":
        state = community_names(state, inner=".0" if naming == "community" else "")
    match = identify(state)
    assert match.architecture == "RRDBNet"
    assert match.parameters == {
        "num_in_ch": 3,
        "num_out_ch": 3,
        "scale": scale,
        "num_feat": 8,
        "num_block": blocks,
        "num_grow_ch": 4,
        "unshuffle": unshuffle,
    }
    rebuilt = rrdbnet(scale, seed=9, unshuffle=unshuffle, num_block=blocks)
    rebuilt.load_state_dict(match.state, strict=True)
    assert torch.equal(run(rebuilt), run(network))


def test_community_numbers_are_those_of_the_old_sequential() -> None:
    """The positions as they are in people's files, written out for x4 with 23 blocks and for x1."""
    with torch.device("meta"):
        four = community_names(RRDBNet().state_dict())
        one = community_names(RRDBNet(scale=1, unshuffle=1, num_block=1).state_dict())
    weights = {name for name in four if name.endswith(".weight") and "RDB" not in name}
    assert weights == {
        *("model.0.weight", "model.1.sub.23.weight", "model.3.weight"),
        *("model.6.weight", "model.8.weight", "model.10.weight"),
    }
    assert {"model.2.weight", "model.4.weight"} <= set(one)
    assert detect(four)[1]["num_block"] == 23
    assert detect(one)[1]["scale"] == 1


@pytest.mark.slow
@given(
    scale=st.sampled_from((1, 2, 4, 8)),
    unshuffle=st.sampled_from((1, 2, 4)),
    channels=st.sampled_from((1, 3, 4)),
    features=st.integers(1, 9),
    blocks=st.integers(1, 12),
    growth=st.integers(1, 5),
    rename=st.sampled_from((dict, community_names, release_names)),
)
@settings(max_examples=30, deadline=None)
def test_rrdbnet_parameters_come_back(
    scale: int,
    unshuffle: int,
    channels: int,
    features: int,
    blocks: int,
    growth: int,
    rename: Any,
) -> None:
    parameters: dict[str, Any] = {
        "num_in_ch": channels,
        "num_out_ch": channels,
        "scale": scale,
        "num_feat": features,
        "num_block": blocks,
        "num_grow_ch": growth,
        "unshuffle": unshuffle,
    }
    with torch.device("meta"):
        state = rename(RRDBNet(**parameters).state_dict())
    assert detect(state) == ("RRDBNet", parameters)


@given(
    channels=st.sampled_from((1, 3, 4)),
    features=st.integers(1, 9),
    convolutions=st.integers(0, 6),
    upscale=st.integers(1, 8),
    activation=st.sampled_from(("prelu", "relu")),
)
@settings(max_examples=30, deadline=None)
def test_srvgg_parameters_come_back(
    channels: int, features: int, convolutions: int, upscale: int, activation: str
) -> None:
    parameters: dict[str, Any] = {
        "num_in_ch": channels,
        "num_out_ch": channels,
        "num_feat": features,
        "num_conv": convolutions,
        "upscale": upscale,
        "act_type": activation,
    }
    with torch.device("meta"):
        state = SRVGGNetCompact(**parameters).state_dict()
    assert detect(state) == ("SRVGGNetCompact", parameters)


@pytest.mark.parametrize(("convolutions", "parameters"), [(16, 621_424), (32, 1_213_296)])
def test_official_srvgg_sizes(convolutions: int, parameters: int) -> None:
    with torch.device("meta"):
        state = SRVGGNetCompact(num_conv=convolutions).state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == parameters
    assert detect(state)[1]["num_conv"] == convolutions


def test_an_activation_without_weights_is_told_and_can_be_overruled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    state = srvgg(act_type="leakyrelu").state_dict()
    with caplog.at_level(logging.WARNING):
        assert detect(state)[1]["act_type"] == "relu"
    assert "act_type=leakyrelu" in caplog.text
    match = identify(state, parameters={"act_type": "leakyrelu"})
    assert match.parameters["act_type"] == "leakyrelu"


def test_no_warning_for_prelu(caplog: pytest.LogCaptureFixture) -> None:
    detect(srvgg().state_dict())
    detect(rrdbnet().state_dict())
    assert not caplog.records


def test_esrgan_plus_is_named() -> None:
    state = community_names(rrdbnet().state_dict())
    state["model.1.sub.0.RDB1.conv1x1.weight"] = torch.zeros(4, 8, 1, 1)
    with pytest.raises(UnknownArchitectureError, match=r"ESRGAN\+.*conv1x1"):
        detect(state)


def damaged(name: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = rrdbnet().state_dict()
    if name == "missing":
        del state["conv_hr.bias"]
    elif name == "unexpected":
        state["conv_extra.weight"] = torch.zeros(1)
    elif name == "shape":
        state["conv_body.weight"] = torch.zeros(8, 8, 1, 1)
    elif name == "flat":
        state["conv_first.weight"] = torch.zeros(8)
    elif name == "gap":
        state["body.7.rdb1.conv1.weight"] = torch.zeros(4, 8, 3, 3)
    elif name == "other network":
        state |= srvgg().state_dict()
    return state


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("missing", r"missing: conv_hr\.bias"),
        ("unexpected", r"unexpected: conv_extra\.weight"),
        ("shape", r"conv_body\.weight is \[8, 8, 1, 1\] instead of \[8, 8, 3, 3\]"),
        ("flat", r"conv_first\.weight is \[8\] instead of"),
        ("gap", r"missing: body\.1\..*unexpected: body\.7\.rdb1"),
        ("other network", r"unexpected: body\.0\.weight.* more"),
    ],
)
def test_a_mixed_up_state_dict_is_compared_with_the_nearest(name: str, told: str) -> None:
    with pytest.raises(UnknownArchitectureError, match=told) as caught:
        detect(damaged(name))
    assert "RRDBNet(num_in_ch=3" in str(caught.value)
    assert len(str(caught.value)) < 900


def test_a_srvgg_with_an_odd_last_convolution_is_refused() -> None:
    state = srvgg().state_dict()
    state["body.6.weight"] = torch.zeros(50, 8, 3, 3)
    with pytest.raises(UnknownArchitectureError, match=r"body\.6\.weight is \[50, 8, 3, 3\]"):
        detect(state)


@pytest.mark.slow
def test_a_remnant_names_its_nearest() -> None:
    state = {name: t for name, t in rrdbnet().state_dict().items() if "rdb" not in name}
    with pytest.raises(UnknownArchitectureError, match=r"closest is RRDBNet.*missing: body\.0"):
        detect(state)


@pytest.mark.slow
def test_a_stranger_is_told_what_there_is() -> None:
    state = {"layers.0.attn.qkv.weight": torch.zeros(3, 3)}
    with pytest.raises(UnknownArchitectureError, match=r"no known network.*qkv") as caught:
        detect(state)
    assert all(architecture.name in str(caught.value) for architecture in ARCHITECTURES)
    assert "nearest" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"architecture": "SwinIRv2"}, r"unknown architecture 'SwinIRv2'.*RRDBNet"),
        ({"parameters": {"upscale": 4}}, r"RRDBNet has no parameter 'upscale'.*scale"),
        ({"parameters": {"scale": "4"}}, r"must be of type int"),
        ({"parameters": {"scale": 3}}, r"cannot build.*power of two"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        identify(rrdbnet().state_dict(), **options)


def test_a_wrong_architecture_by_hand_is_refused() -> None:
    with pytest.raises(UnknownArchitectureError, match="SRVGGNetCompact"):
        identify(rrdbnet().state_dict(), architecture="SRVGGNetCompact")


def test_architectures_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(torch.nn.Linear):
        pass

    monkeypatch.setattr("resharp.models.archs._REGISTERED", [])
    facts = NetworkFacts(scale=1, in_channels=1, out_channels=1)
    state = dict(Own(2, 3, bias=False).state_dict())
    one = Architecture(
        build=Own,
        matches=lambda state: set(state) == {"weight"},
        infer=lambda state: {"in_features": 2, "out_features": 3, "bias": 0},
        facts=lambda parameters: facts,
    )
    with pytest.raises(UnknownArchitectureError, match="belong to no known network"):
        detect(state)
    register(one)
    register(one)  # again, which replaces it
    assert detect(state)[0] == "Own"
    assert [item.name for item in known()].count("Own") == 1
    with pytest.raises(OptionError, match="resharp has an architecture 'RRDBNet'"):
        register(replace(find("RRDBNet"), matches=lambda state: False))

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from resharp.models import RRDBNet
from tests.models.nets import rrdbnet, run

SCALES = (1, 2, 4, 8)


def by_hand(state: Mapping[str, Tensor], x: Tensor, *, blocks: int, ups: int) -> Tensor:
    """The paper's figure 4 and the upsampling, straight from the weights."""

    def conv(name: str, y: Tensor) -> Tensor:
        return F.conv2d(y, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    def leaky(y: Tensor) -> Tensor:
        return torch.where(y > 0, y, 0.2 * y)

    first = trunk = conv("conv_first", x)
    for block in range(blocks):
        start = trunk
        for dense in (1, 2, 3):
            seen = trunk
            for index in (1, 2, 3, 4):
                name = f"body.{block}.rdb{dense}.conv{index}"
                seen = torch.cat((seen, leaky(conv(name, seen))), 1)
            trunk = trunk + 0.2 * conv(f"body.{block}.rdb{dense}.conv5", seen)
        trunk = start + 0.2 * trunk
    features = first + conv("conv_body", trunk)
    for index in range(1, ups + 1):
        doubled = features.repeat_interleave(2, 2).repeat_interleave(2, 3)
        features = leaky(conv(f"conv_up{index}", doubled))
    return conv("conv_last", leaky(conv("conv_hr", features)))


@pytest.mark.parametrize(("scale", "ups"), [(4, 2), (8, 3)])
def test_computes_what_the_paper_says(scale: int, ups: int) -> None:
    network = rrdbnet(scale, num_block=2)
    for tensor in network.state_dict().values():  # biases begin at 0 and would hide in a sum
        tensor.add_(torch.randn(tensor.shape) * 0.05)
    picture = torch.rand(2, 3, 5, 4)
    expected = by_hand(network.state_dict(), picture, blocks=2, ups=ups)
    torch.testing.assert_close(network(picture), expected, rtol=1e-4, atol=1e-5)


def official_names(blocks: int) -> list[str]:
    stems = ["conv_first"]
    stems += [
        f"body.{block}.rdb{dense}.conv{index}"
        for block in range(blocks)
        for dense in (1, 2, 3)
        for index in (1, 2, 3, 4, 5)
    ]
    stems += ["conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
    return [f"{stem}.{kind}" for stem in stems for kind in ("weight", "bias")]


@pytest.mark.parametrize(
    ("scale", "blocks", "tensors", "parameters"),
    [(4, 23, 702, 16_697_987), (2, 23, 702, 16_703_171), (4, 6, 192, 4_467_779)],
)
def test_has_the_official_names_and_sizes(
    scale: int, blocks: int, tensors: int, parameters: int
) -> None:
    with torch.device("meta"):
        state = RRDBNet(scale=scale, num_block=blocks).state_dict()
    assert list(state) == official_names(blocks)
    assert len(state) == tensors
    assert sum(tensor.numel() for tensor in state.values()) == parameters


@pytest.mark.parametrize(("scale", "channels"), [(1, 48), (2, 12), (4, 3), (8, 3)])
def test_first_convolution_takes_the_unshuffled_channels(scale: int, channels: int) -> None:
    network = rrdbnet(scale)
    assert network.conv_first.in_channels == channels
    assert ("conv_up3.weight" in network.state_dict()) == (scale == 8)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (2, 9), (8, 4)])
def test_any_size_works(scale: int, height: int, width: int) -> None:
    out = run(rrdbnet(scale), height, width)
    assert out.shape == (2, 3, height * scale, width * scale)
    assert bool(torch.isfinite(out).all())


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (7, 8)])
def test_odd_sizes_equal_the_picture_with_its_edge_reflected(
    scale: int, height: int, width: int
) -> None:
    network = rrdbnet(scale)
    picture = torch.rand(1, 3, height, width)
    factor = network.unshuffle
    rows, columns = (
        [i if i < size else max(2 * (size - 1) - i, 0) for i in range(-(-size // factor) * factor)]
        for size in (height, width)
    )
    padded = picture[:, :, rows][:, :, :, columns]
    expected = network(padded)[:, :, : height * scale, : width * scale]
    torch.testing.assert_close(network(picture), expected)


@given(
    scale=st.sampled_from(SCALES),
    unshuffle=st.sampled_from((1, 2, 4)),
    channels=st.sampled_from((1, 3, 4)),
    features=st.integers(1, 6),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
)
@settings(max_examples=25, deadline=None)
def test_every_configuration_keeps_its_promise_of_a_shape(
    scale: int, unshuffle: int, channels: int, features: int, height: int, width: int
) -> None:
    network = rrdbnet(
        scale, unshuffle=unshuffle, num_in_ch=channels, num_out_ch=channels, num_feat=features
    )
    out = run(network, height, width, channels)
    assert out.shape == (2, channels, height * scale, width * scale)


def test_a_deep_random_network_stays_sane() -> None:
    out = run(rrdbnet(4, num_block=23))
    assert 1e-4 < float(out.std()) < 10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_runs_in_half_precision(dtype: torch.dtype) -> None:
    network = rrdbnet(2).to(dtype)
    picture = torch.rand(1, 3, 3, 5)
    expected = rrdbnet(2)(picture)
    torch.testing.assert_close(network(picture.to(dtype)).float(), expected, atol=2e-2, rtol=0.1)


def test_keeps_its_input_and_trains() -> None:
    network = rrdbnet(2).train()
    picture = torch.rand(1, 3, 3, 5)
    before = picture.clone()
    network(picture).mean().backward()
    assert torch.equal(picture, before)
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in network.parameters())


@pytest.mark.parametrize("wrong", [{"scale": 3}, {"num_block": 0}, {"unshuffle": 3}])
def test_refuses_impossible_parameters(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"power of two|at least 1"):
        RRDBNet(**({"num_feat": 4} | wrong))

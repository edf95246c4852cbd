from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resharp.errors import CheckpointError, OptionError
from resharp.models import Checkpoint, blend, build
from tests.models.nets import checkpoint, rrdbnet, run, srvgg


@pytest.fixture
def twins(tmp_path: Path) -> tuple[Checkpoint, Checkpoint]:
    return (
        checkpoint(srvgg(seed=1), tmp_path, "general.pth"),
        checkpoint(srvgg(seed=2), tmp_path, "wdn.pth"),
    )


@given(strength=st.floats(0, 1))
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_is_the_weighted_mean(twins: tuple[Checkpoint, Checkpoint], strength: float) -> None:
    general, wdn = twins
    mixed = blend([(general, strength), (wdn, 1 - strength)])
    for name, tensor in mixed.state.items():
        assert tensor.dtype is torch.float32
        expected = strength * general.state[name] + (1 - strength) * wdn.state[name]
        torch.testing.assert_close(tensor, expected)


def test_ends_are_the_checkpoints_themselves(twins: tuple[Checkpoint, Checkpoint]) -> None:
    general, wdn = twins
    assert torch.equal(run(build(blend([(general, 1), (wdn, 0)]))), run(build(general)))
    assert torch.equal(run(build(blend([(general, 0), (wdn, 1)]))), run(build(wdn)))


def test_takes_more_than_two_and_may_go_beyond(twins: tuple[Checkpoint, Checkpoint]) -> None:
    general, wdn = twins
    mixed = blend([(general, 1.5), (wdn, -0.25), (wdn, -0.25)])
    name = "body.0.weight"
    expected = 1.5 * general.state[name] - 0.5 * wdn.state[name]
    torch.testing.assert_close(mixed.state[name], expected)


def test_describes_itself(twins: tuple[Checkpoint, Checkpoint]) -> None:
    general, wdn = twins
    mixed = blend([(general, 0.5), (wdn, 0.5)])
    assert (mixed.architecture, mixed.parameters) == (general.architecture, general.parameters)
    assert (mixed.facts.scale, mixed.facts.in_channels, mixed.facts.size_multiple) == (4, 3, 1)
    assert (mixed.path, mixed.state_key) == (None, "blend")
    assert mixed.sha256 == blend([(general, 0.5), (wdn, 0.5)]).sha256
    assert mixed.sha256 != blend([(general, 0.25), (wdn, 0.75)]).sha256
    assert mixed.parameters is not general.parameters


def test_leaves_the_parts_alone(twins: tuple[Checkpoint, Checkpoint]) -> None:
    general, wdn = twins
    before = {name: tensor.clone() for name, tensor in general.state.items()}
    blend([(general, 0.5), (wdn, 0.5)])
    assert all(torch.equal(general.state[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ([0.5, 0.6], r"must sum to 1, got 1\.1"),
        ([0.5, 0.5 - 3e-6], "must sum to 1"),
        ([float("nan"), 1.0], "finite"),
        ([float("inf"), float("-inf")], "finite"),
        ([1.0], "at least two checkpoints, got 1"),
        ([], "at least two checkpoints, got 0"),
    ],
)
def test_wrong_weights_are_refused(
    twins: tuple[Checkpoint, Checkpoint], weights: list[float], told: str
) -> None:
    with pytest.raises(OptionError, match=told):
        blend(list(zip(twins, weights, strict=False)))


def test_rounding_of_the_weights_is_forgiven(twins: tuple[Checkpoint, Checkpoint]) -> None:
    assert blend([(twins[0], 0.1 + 0.2), (twins[1], 0.7)]).facts.scale == 4


def test_strangers_are_refused(twins: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    larger = checkpoint(srvgg(num_conv=3), tmp_path)
    with pytest.raises(CheckpointError, match=r"different shape.*num_conv 2 and 3"):
        blend([(twins[0], 0.5), (larger, 0.5)])
    other = checkpoint(rrdbnet(), tmp_path)
    with pytest.raises(CheckpointError, match="SRVGGNetCompact and RRDBNet"):
        blend([(twins[0], 0.5), (other, 0.5)])

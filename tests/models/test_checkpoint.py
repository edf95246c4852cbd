from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from resharp.errors import CheckpointError, OutputError, UnknownArchitectureError
from resharp.models import (
    Checkpoint,
    blend,
    build,
    load_network,
    read_checkpoint,
    save_safetensors,
)
from tests.models.nets import checkpoint, community_names, rrdbnet, run, srvgg
from tests.shared import ANIMEVIDEO, needs_animevideo


def same(one: Checkpoint, other: Checkpoint) -> bool:
    """Equal in all that is not the file's own."""
    facts = ("architecture", "parameters", "facts")
    return (
        all(getattr(one, fact) == getattr(other, fact) for fact in facts)
        and set(one.state) == set(other.state)
        and all(torch.equal(tensor, other.state[name]) for name, tensor in one.state.items())
    )


def wrap(state: dict[str, Tensor], key: str) -> Any:
    return {key: state} if key else state


@pytest.mark.parametrize(
    "key", ["params_ema", "params", "state_dict", "model_state_dict", "generator", "model", ""]
)
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_come_back(tmp_path: Path, key: str, prefix: str, zipped: bool) -> None:
    network, path = rrdbnet(2), tmp_path / "net.pth"
    state = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    torch.save(wrap(state, key), path, _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(path)
    assert (found.state_key, found.path, found.architecture) == (key, path, "RRDBNet")
    assert (found.facts.scale, found.facts.in_channels, found.facts.out_channels) == (2, 3, 3)
    assert found.facts.size_multiple == 2
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert torch.equal(run(build(found)), run(network))


def test_averaged_weights_come_first(tmp_path: Path) -> None:
    plain, mean = srvgg(seed=1), srvgg(seed=2)
    path = tmp_path / "net.pth"
    torch.save({"params": plain.state_dict(), "params_ema": mean.state_dict()}, path)
    assert torch.equal(run(load_network(path)), run(mean))


def test_a_string_will_do_for_a_path(tmp_path: Path) -> None:
    checkpoint(srvgg(), tmp_path)
    assert read_checkpoint(str(tmp_path / "net.pth")).facts.scale == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    network = srvgg().to(dtype)
    found = checkpoint(network, tmp_path)
    for name, tensor in network.state_dict().items():
        assert found.state[name].dtype is torch.float32
        assert torch.equal(found.state[name], tensor.float())


def test_tensors_are_plain_whatever_they_were(tmp_path: Path) -> None:
    state = {
        name: tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        for name, tensor in srvgg().state_dict().items()
    }
    state["body.6.bias"] = torch.zeros(100)[:48]  # a part of a larger storage
    torch.save(state, tmp_path / "net.pth")
    found = read_checkpoint(tmp_path / "net.pth")
    assert all(tensor.is_contiguous() for tensor in found.state.values())
    assert found.state["body.6.bias"].untyped_storage().nbytes() == 48 * 4
    assert not any(tensor.requires_grad for tensor in found.state.values())


def test_what_is_no_tensor_is_left_out(tmp_path: Path) -> None:
    torch.save(srvgg().state_dict() | {"epoch": 3, "note": "x"}, tmp_path / "net.pth")
    assert read_checkpoint(tmp_path / "net.pth").architecture == "SRVGGNetCompact"


def test_a_built_network_is_its_own(tmp_path: Path) -> None:
    found = checkpoint(srvgg(), tmp_path)
    network = build(found)
    assert not network.training
    with torch.no_grad():
        for one in network.parameters():
            one.zero_()
    assert all(float(tensor.abs().sum()) > 0 for tensor in found.state.values() if tensor.ndim == 4)


def test_overrides_reach_the_network(tmp_path: Path) -> None:
    network = srvgg(act_type="leakyrelu")
    torch.save(network.state_dict(), tmp_path / "net.pth")
    found = read_checkpoint(
        tmp_path / "net.pth",
        architecture="SRVGGNetCompact",
        parameters={"act_type": "leakyrelu"},
    )
    assert torch.equal(run(build(found)), run(network))


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_safetensors_round_trip(tmp_path: Path, scale: int) -> None:
    first = checkpoint(rrdbnet(scale), tmp_path)
    save_safetensors(first, tmp_path / "net.safetensors")
    again = read_checkpoint(tmp_path / "net.safetensors")
    assert same(first, again)
    assert again.state_key == ""
    assert torch.equal(run(build(first)), run(build(again)))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["net.pth", "net.safetensors"]


def test_safetensors_remember_what_the_weights_do_not_tell(tmp_path: Path) -> None:
    torch.save(srvgg(act_type="leakyrelu").state_dict(), tmp_path / "net.pth")
    first = read_checkpoint(tmp_path / "net.pth", parameters={"act_type": "leakyrelu"})
    save_safetensors(first, tmp_path / "net.safetensors")
    assert read_checkpoint(tmp_path / "net.safetensors").parameters["act_type"] == "leakyrelu"
    overruled = read_checkpoint(tmp_path / "net.safetensors", parameters={"act_type": "relu"})
    assert overruled.parameters["act_type"] == "relu"


def test_a_blend_can_be_saved(tmp_path: Path) -> None:
    parts = [checkpoint(srvgg(seed=seed), tmp_path, f"{seed}.pth") for seed in (1, 2)]
    mixed = blend([(part, 0.5) for part in parts])
    save_safetensors(mixed, tmp_path / "mixed.safetensors")
    assert same(mixed, read_checkpoint(tmp_path / "mixed.safetensors"))


def test_safetensors_of_strangers_are_read_too(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    network, path = rrdbnet(4), tmp_path / "net.safetensors"
    state = {name: tensor.half() for name, tensor in community_names(network.state_dict()).items()}
    save_file(state, path, metadata={"architecture": "esrgan", "format": "pt"})
    assert read_checkpoint(path).architecture == "RRDBNet"
    path.rename(tmp_path / "misnamed.pth")
    assert read_checkpoint(tmp_path / "misnamed.pth").facts.scale == 4


@pytest.mark.slow
def test_equal_checkpoints_give_equal_bytes(tmp_path: Path) -> None:
    """In two processes as well: the order of a hash table may differ between them."""
    first = checkpoint(srvgg(), tmp_path)
    save_safetensors(first, tmp_path / "here.safetensors")
    code = (
        "import sys; from resharp.models import read_checkpoint, save_safetensors; "
        "save_safetensors(read_checkpoint(sys.argv[1]), sys.argv[2])"
    )
    there = tmp_path / "there.safetensors"
    subprocess.run([sys.executable, "-c", code, tmp_path / "net.pth", there], check=True)
    assert there.read_bytes() == (tmp_path / "here.safetensors").read_bytes()


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    found = checkpoint(srvgg(), tmp_path)
    (tmp_path / "taken").mkdir()
    for target in (tmp_path / "missing" / "net.safetensors", tmp_path / "taken"):
        with pytest.raises(OutputError, match="cannot be written"):
            save_safetensors(found, target)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["net.pth", "taken"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    state = srvgg().state_dict()
    state["body.2.weight"][0, 0, 0, 0] = value
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"net\.pth: body\.2\.weight contains NaN"):
        read_checkpoint(tmp_path / "net.pth")


def test_an_unknown_network_names_its_file(tmp_path: Path) -> None:
    torch.save({"params": {"qkv.weight": torch.zeros(2)}}, tmp_path / "net.pth")
    with pytest.raises(UnknownArchitectureError, match=r"net\.pth: .*qkv") as caught:
        read_checkpoint(tmp_path / "net.pth")
    assert isinstance(caught.value.__cause__, UnknownArchitectureError)


@needs_animevideo
@pytest.mark.shared
def test_the_official_animevideo_network() -> None:
    """Tagged cuda:0 in the file, and as described in its release notes."""
    found = read_checkpoint(ANIMEVIDEO)
    assert (found.architecture, found.state_key, found.facts.scale) == (
        "SRVGGNetCompact",
        "params",
        4,
    )
    assert found.parameters["num_conv"] == 16
    assert found.parameters["act_type"] == "prelu"
    assert sum(tensor.numel() for tensor in found.state.values()) == 621_424
    assert found.sha256.startswith("b8a8376811077954")
    assert all(tensor.device.type == "cpu" for tensor in found.state.values())

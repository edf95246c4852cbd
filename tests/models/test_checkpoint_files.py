from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from resharp.errors import CheckpointError
from resharp.models import read_checkpoint, save_safetensors
from tests.models.nets import checkpoint, srvgg


def saved(content: Any, *, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def archive(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        for name, data in members.items():
            target.writestr(name, data)
    return stream.getvalue()


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


STATE = srvgg().state_dict()
PAGE = b"\n<!DOCTYPE html><html><head><title>404</title></head></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 67040989\n"

BROKEN = {
    "empty": (b"", "is empty: download it again"),
    "text": (b"Not Found", r"not a checkpoint \(it starts with b'Not Found'\)"),
    "page": (PAGE, "web page.*direct download link"),
    "pointer": (POINTER, "Git LFS pointer.*git lfs pull"),
    "noise": (bytes(range(7, 250)), "is not a checkpoint"),
    "short": (b"\x80", "truncated or damaged"),
    "cut zip": (half(saved(STATE)), "truncated or damaged"),
    "cut pickle": (half(saved(STATE, zipped=False)), "truncated or damaged"),
    "other zip": (archive(**{"net.pth": saved(STATE)}), "unpack it"),
    "damaged zip": (archive(**{"net/data.pkl": b"\x80\x02}"}), "truncated or damaged"),
    "a list": (saved([torch.zeros(2)]), "contains a list, not a state dict"),
    "a tensor": (saved(torch.zeros(2)), "contains a Tensor, not a state dict"),
    "no tensors": (saved({}), "has no weights, found nothing"),
    "training state": (
        saved({"epoch": 1, "optimizers": [{"state": {}}]}),
        "has no weights, found epoch, optimizers.*training state",
    ),
    "two of a name": (
        saved({"a.weight": torch.zeros(1), "module.a.weight": torch.zeros(1)}),
        "contains a.weight twice",
    ),
    "sparse": (saved({"a": torch.zeros(2, 2).to_sparse()}), "a is sparse"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_says_what_to_do(tmp_path: Path, kind: str) -> None:
    content, told = BROKEN[kind]
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=told) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["cut zip", "cut pickle", "damaged zip"])
def test_the_cause_is_kept(tmp_path: Path, kind: str) -> None:
    (tmp_path / "net.pth").write_bytes(BROKEN[kind][0])
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path / "net.pth")
    assert caught.value.__cause__ is not None


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read .*net\.pth: No such file") as caught:
        read_checkpoint(tmp_path / "net.pth")
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(CheckpointError, match="cannot read"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("keep", [0.5, 0.02])
def test_cut_safetensors_are_told(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "net.safetensors"
    save_safetensors(checkpoint(srvgg(), tmp_path), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(CheckpointError, match="download it again"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "note",
    [
        *("no json", "{}", "1", '{"architecture": "x", "parameters": {}}'),
        '{"architecture": "SRVGGNetCompact", "parameters": {"upscole": 4}}',
        '{"architecture": "SRVGGNetCompact", "parameters": {"num_feat": 999999999999}}',
        '{"architecture": "SRVGGNetCompact", "parameters": {"act_type": "swish"}}',
    ],
)
def test_damaged_metadata_are_told(tmp_path: Path, note: str) -> None:
    from safetensors.torch import save_file

    save_file(dict(STATE), tmp_path / "net.safetensors", metadata={"resharp": note})
    with pytest.raises(CheckpointError, match=r"metadata of .* is damaged"):
        read_checkpoint(tmp_path / "net.safetensors")


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["zip", "old", "plain pickle", "newer pickle"])
def test_code_is_never_run(tmp_path: Path, how: str) -> None:
    trap = Trap(tmp_path / "sprung")
    content = {"params": STATE, "extra": trap}
    data = saved(content, zipped=how == "zip")
    if "pickle" in how:
        data = pickle.dumps(trap, protocol=2 if how == "plain pickle" else 4)
    pickle.loads(pickle.dumps(trap))
    assert trap.path.exists(), "the trap works"
    trap.path.unlink()
    (tmp_path / "net.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match="could run code") as caught:
        read_checkpoint(tmp_path / "net.pth")
    assert not trap.path.exists()
    assert "weights_only=False" not in str(caught.value)
    if how != "newer pickle":
        assert isinstance(caught.value.__cause__, pickle.UnpicklingError)


@pytest.mark.parametrize("zipped", [True, False])
def test_newer_pickles_of_tensors_are_told(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "net.pth"
    torch.save(STATE, path, pickle_protocol=4, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"pickle with protocol 4.*plain torch.save"):
        read_checkpoint(path)


def test_a_whole_pickled_network_is_told(tmp_path: Path) -> None:
    torch.save(srvgg(), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"SRVGGNetCompact.*only the state dict"):
        read_checkpoint(tmp_path / "net.pth")


def test_torchscript_is_told(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out, people's files are not
        traced: Any = torch.jit.trace(srvgg(), torch.rand(1, 3, 4, 4))  # type: ignore[no-untyped-call]
        traced.save(str(tmp_path / "net.pt"))
    with pytest.raises(CheckpointError, match="TorchScript program"):
        read_checkpoint(tmp_path / "net.pt")


def test_weights_of_a_gpu_load_without_one(tmp_path: Path) -> None:
    """A file whose tensors say cuda:0, which torch only reads here with a map_location."""
    path = tmp_path / "net.pth"
    location, cuda = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
    with zipfile.ZipFile(io.BytesIO(saved(STATE))) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl"):
                assert location in data
                data = data.replace(location, cuda)
            target.writestr(name, data)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(path, weights_only=True)
    found = read_checkpoint(path)
    assert all(torch.equal(found.state[name], tensor) for name, tensor in STATE.items())
    assert {tensor.device.type for tensor in found.state.values()} == {"cpu"}

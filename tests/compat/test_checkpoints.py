"""From upstream's ``model_path`` to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from resharp import weights
from resharp.compat import RealESRGANer, checkpoints
from resharp.compat.checkpoints import bundle_for, named
from resharp.engines import Bundle
from resharp.errors import CheckpointError, OptionError
from resharp.models import RRDBNet, SRVGGNetCompact
from resharp.weights import ModelEntry
from tests.compat.reference import Reference, farthest, picture
from tests.conftest import random_network, save_checkpoint

pytestmark = pytest.mark.slow

HASH = "0" * 64


def other_network() -> nn.Module:
    """The compact one with other weights."""
    network = random_network("compact")
    with torch.no_grad():
        for index, parameter in enumerate(network.parameters()):
            parameter.mul_(1.1 if index % 2 else 0.9)
    return network


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    networks = {"one": random_network("compact"), "two": other_network()}
    return [save_checkpoint(network, tmp_path / f"{k}.pth") for k, network in networks.items()]


def refuse(*args: object, **options: object) -> Bundle:
    raise AssertionError("exported again")


def test_a_file_is_exported_once(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = bundle_for(files[0])
    monkeypatch.setattr(checkpoints, "_export", refuse)
    assert bundle_for(str(files[0])).folder == first.folder
    assert bundle_for(first.folder).manifest == first.manifest
    assert bundle_for(first) is first
    assert first.manifest.name.startswith("one-")
    with pytest.raises(AssertionError):  # other bytes under the same name are another model
        bundle_for(save_checkpoint(other_network(), files[0]))


def test_a_damaged_bundle_is_made_anew(files: list[Path]) -> None:
    bundle = bundle_for(files[1])
    path = bundle.path(bundle.manifest.weights)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    again = bundle_for(files[1])
    again.verify()


def test_two_are_mixed_as_upstream_does(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ours = RealESRGANer(2, [str(file) for file in files], [0.3, 0.7], device="cpu")
    network = random_network("compact")
    one, two = random_network("compact").state_dict(), other_network().state_dict()
    network.load_state_dict({name: 0.3 * one[name] + 0.7 * two[name] for name in one})
    expected, _ = Reference(network=network, scale=2).enhance(picture("bgr"))
    assert farthest(ours.enhance(picture("bgr"))[0], expected) <= 1
    monkeypatch.setattr(checkpoints, "_export", refuse)
    assert bundle_for(files, [0.3, 0.7])
    with pytest.raises(AssertionError):
        bundle_for(files, [0.4, 0.6])


def test_a_share_of_one_is_the_file_itself(files: list[Path]) -> None:
    assert bundle_for(files, [1, 0]).manifest == bundle_for(files[0]).manifest


def test_networks_of_different_kinds_are_not_mixed(files: list[Path], tmp_path: Path) -> None:
    other = save_checkpoint(random_network("rrdb4"), tmp_path / "rrdb4.pth")
    with pytest.raises(CheckpointError, match="cannot be blended"):
        bundle_for([files[0], other], [0.5, 0.5])


@pytest.mark.parametrize(
    ("count", "shares", "says"),
    [
        (2, None, "two values of `dni_weight`"),
        (1, [1], "two checkpoints"),
        (2, [0.5], "two values of `dni_weight`"),
        (2, [0.5, 0.6], "must sum to 1"),
        (2, [float("nan"), 1], "must sum to 1"),
    ],
)
def test_bad_mixes(count: int, shares: Any, says: str, files: list[Path]) -> None:
    with pytest.raises(OptionError, match=says):
        bundle_for(files[:count], shares)


def test_the_general_model_and_its_twin_are_the_denoise_variant(tmp_path: Path) -> None:
    pair = [weights.find(f"realesr-general-{kind}x4v3") for kind in ("", "wdn-")]
    parts = [
        checkpoints._Part(path=tmp_path / one.file, sha256=str(one.sha256), share=s, official=one)
        for one, s in zip(pair, (0.3, 0.7), strict=True)
    ]
    assert checkpoints._name(parts, {}) == "realesr-general-x4v3-dn0.3"
    assert checkpoints._name(parts[:1], {}) == "realesr-general-x4v3"
    assert checkpoints._name(parts[::-1], {}).startswith("realesr-general-wdn-x4v3-")


def test_names_are_resolved_and_exported(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert named("resharp-x4").manifest.name == "resharp-x4"
    asked: list[tuple[str, float | None]] = []

    def exported(name: str, options: Any, **rest: object) -> str:
        asked.append((name, options.denoise))
        return "a bundle"

    monkeypatch.setattr("resharp.export.export", exported)
    assert named("RealESRGAN_x2plus") == "a bundle"  # type: ignore[comparison-overlap]
    assert named("realesr-general-x4v3", 0.5) == "a bundle"  # type: ignore[comparison-overlap]
    assert asked == [
        ("RealESRGAN_x2plus", None),
        ("realesr-general-x4v3", None),  # with its twin, for all strengths
        ("realesr-general-x4v3", 0.5),
    ]


def test_addresses(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[ModelEntry, str | None]] = []

    def fetch(
        entry: ModelEntry, folder: object = None, *, sha256: str | None, **rest: object
    ) -> Path:
        asked.append((entry, sha256))
        return files[0]

    monkeypatch.setattr(weights, "fetch", fetch)
    official = weights.find("realesrgan-x4plus")
    assert bundle_for(official.urls[0])
    assert asked.pop() == (official, None)
    assert bundle_for(f"https://models.example/My_Model.pth#sha256={HASH}")
    entry, sha256 = asked.pop()
    assert (entry.name, entry.file, sha256) == ("my-model", "My_Model.pth", HASH)
    assert entry.urls == ("https://models.example/My_Model.pth",)
    with pytest.raises(OptionError, match=r"My_Model\.pth#sha256=HASH"):
        bundle_for("https://models.example/My_Model.pth")
    with pytest.raises(OptionError, match="end with a file name"):
        bundle_for(f"https://models.example/#sha256={HASH}")
    assert not asked


def test_a_network_is_compared_with_the_weights(files: list[Path]) -> None:
    assert bundle_for(files[0], model=SRVGGNetCompact(num_feat=8, num_conv=3, upscale=2))
    with pytest.raises(OptionError, match=r"do not fit the SRVGGNetCompact .*body.0"):
        bundle_for(files[0], model=SRVGGNetCompact(num_feat=16, num_conv=3, upscale=2))
    with pytest.raises(OptionError, match="do not fit the RRDBNet"):
        bundle_for(files[0], model=RRDBNet(num_feat=8, num_block=1, num_grow_ch=4))


@pytest.mark.filterwarnings("ignore")
def test_an_activation_without_weights_comes_from_the_network(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = SRVGGNetCompact(num_feat=8, num_conv=3, upscale=2, act_type="leakyrelu").eval()
    file = save_checkpoint(network, tmp_path / "leaky.pth")
    expected, _ = Reference(network=network, scale=2).enhance(picture("bgr"))
    ours = RealESRGANer(2, file, model=network, device="cpu")
    assert farthest(ours.enhance(picture("bgr"))[0], expected) <= 1
    assert bundle_for(file, model=network).manifest.name != bundle_for(file).manifest.name


@pytest.mark.parametrize("content", [b"", b"<!doctype html>", b"\x80\x02}q\x00."])
def test_files_that_are_no_checkpoints(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "bad.pth"
    file.write_bytes(content)
    with pytest.raises(CheckpointError):
        bundle_for(file)


def test_a_model_path_that_is_none() -> None:
    with pytest.raises(OptionError, match="must be a file, name or list of two"):
        bundle_for(None)  # type: ignore[arg-type]

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from resharp import Upscaler, __version__
from resharp.drawing import draw
from resharp.engines import Bundle, Store
from resharp.errors import (
    BundleError,
    CheckpointError,
    OptionError,
    ParityError,
    UnknownArchitectureError,
    UnknownModelError,
)
from resharp.export import ExportOptions, export, parity
from resharp.weights import find, register
from tests.conftest import random_network, save_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_checkpoint(random_network("compact"), tmp_path / "My Net.pth")


@pytest.fixture(autouse=True)
def cached_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESHARP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RESHARP_OFFLINE", "1")


def test_a_file_becomes_a_bundle(checkpoint: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    bundle = export(checkpoint, log=steps.append)
    bundle.verify()
    manifest = bundle.manifest
    assert manifest.name == "my-net"
    assert bundle.folder == tmp_path / "home" / "store" / "my-net"
    assert (manifest.scale, manifest.channels, manifest.size_multiple) == (2, 3, 1)
    assert set(manifest.graphs) == {"uint8", "float32"}
    assert manifest.architecture == "SRVGGNetCompact"
    assert manifest.sources[0].name == "My Net.pth"
    assert manifest.parity is not None
    assert manifest.parity.uint8_max_levels <= 1
    assert manifest.overlap_curve[0][0] == 0
    assert 0 < manifest.overlap <= 6  # five 3x3 convolutions see five pixels far
    assert manifest.activation_bytes is not None
    assert 100 < manifest.activation_bytes < 20_000
    assert manifest.versions["opset"] == "20"
    assert "comparing the graphs with PyTorch" in steps


@pytest.mark.slow
def test_done_work_is_skipped_and_force_redoes_it(checkpoint: Path) -> None:
    steps: list[str] = []
    first = export(checkpoint)
    stamp = (first.folder / "manifest.json").stat().st_mtime_ns
    assert export(checkpoint, log=steps.append) == first
    assert steps == ["my-net is already exported: nothing to do"]
    assert (first.folder / "manifest.json").stat().st_mtime_ns == stamp
    export(checkpoint, ExportOptions(force=True))
    assert (first.folder / "manifest.json").stat().st_mtime_ns > stamp


@pytest.mark.slow
def test_damage_and_new_weights_are_exported_again(checkpoint: Path) -> None:
    first = export(checkpoint)
    weights = first.path(first.manifest.weights)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with pytest.raises(BundleError):
        Upscaler(first)
    export(checkpoint).verify()
    network = random_network("compact")
    with torch.no_grad():
        next(network.parameters()).add_(0.1)
    save_checkpoint(network, checkpoint)
    with pytest.raises(OptionError, match="made from other weights"):
        export(checkpoint)
    second = export(checkpoint, ExportOptions(force=True))
    assert second.manifest.sources != first.manifest.sources
    assert second.manifest.weights.sha256 != first.manifest.weights.sha256
    assert len(list(second.folder.glob("*.safetensors"))) == 2  # the old one may be open


def test_a_graph_that_fails_the_gate_is_not_stored(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "FLOAT_LIMIT", -1.0)
    with pytest.raises(ParityError, match="Nothing was stored"):
        export(checkpoint)
    assert Store(Path(os.environ["RESHARP_HOME"]) / "store").names() == ()


def test_an_interrupted_export_leaves_nothing(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(line: str) -> None:
        if line.startswith("storing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, log=interrupt)
    store = Path(os.environ["RESHARP_HOME"]) / "store"
    assert [path.name for path in store.iterdir()] == [".locks"]


def test_an_imported_checkpoint_is_exported_by_its_name(checkpoint: Path) -> None:
    register(checkpoint, name="mine", architecture="SRVGGNetCompact", parameters={}, scale=2)
    bundle = export("mine")
    assert bundle.manifest.name == "mine"
    with Upscaler("mine", backend="onnx") as upscaler:
        assert upscaler(draw(9, 12)).shape == (18, 24, 3)


@pytest.fixture
def twins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A general model and its denoising twin, of small networks, in place of the official files."""
    folder = tmp_path / "home" / "weights"
    folder.mkdir(parents=True)
    for index, name in enumerate(("realesr-general-x4v3", "realesr-general-wdn-x4v3")):
        torch.manual_seed(index)
        from resharp.models import SRVGGNetCompact

        network = SRVGGNetCompact(num_feat=8, num_conv=1, upscale=4)
        save_checkpoint(network, folder / find(name).file)
    monkeypatch.setattr(
        "resharp.weights.fetch", lambda entry, *_, **__: folder / entry.file, raising=True
    )


@pytest.mark.slow
@pytest.mark.usefixtures("twins")
def test_denoise_blends_the_twins(tmp_path: Path) -> None:
    picture = draw(24, 24).astype(np.float32) / 255
    results = {}
    for strength in (1.0, 0.25, 0.0):
        bundle = export("realesr-general-x4v3", ExportOptions(denoise=strength))
        assert sum(source.weight for source in bundle.manifest.sources) == pytest.approx(1)
        with Upscaler("realesr-general-x4v3", backend="onnx", denoise=strength) as upscaler:
            results[strength] = upscaler(picture)
    assert Store(tmp_path / "home" / "store").names() == (
        "realesr-general-x4v3",
        "realesr-general-x4v3-dn0",
        "realesr-general-x4v3-dn0.25",
    )
    assert np.abs(results[1.0] - results[0.0]).max() > 0.01
    assert np.abs(results[0.25] - results[0.0]).max() > 0.001
    assert np.abs(results[0.25] - results[1.0]).max() > 0.001


@pytest.mark.slow
@pytest.mark.usefixtures("twins")
def test_a_checkpoint_that_was_replaced_is_exported_again(tmp_path: Path) -> None:
    first = export("realesr-general-x4v3")
    file = tmp_path / "home" / "weights" / find("realesr-general-wdn-x4v3").file
    shutil.copy(file, tmp_path / "home" / "weights" / find("realesr-general-x4v3").file)
    second = export("realesr-general-x4v3")
    assert second.manifest.weights.sha256 != first.manifest.weights.sha256


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        ("realesrgan-x4pluss", {}, UnknownModelError, "realesrgan-x4plus"),
        ("realesrgan-x4plus", {"denoise": 0.5}, OptionError, "has no denoise strength"),
        ("nowhere.pth", {}, CheckpointError, "there is no file"),
        ("yunet", {}, OptionError, "is the face detector and needs no export"),
    ],
)
def test_what_cannot_be_exported(
    source: str, options: dict[str, float], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        export(source, ExportOptions(**options))  # type: ignore[arg-type]


def test_a_checkpoint_of_another_network_names_both(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"params": {"layers.0.attn.weight": torch.zeros(3, 3)}}, path)
    with pytest.raises(UnknownArchitectureError, match=r"layers\.0\.attn\.weight"):
        export(path)


def test_options_are_checked() -> None:
    with pytest.raises(OptionError, match="must be legacy or dynamo, got"):
        ExportOptions(exporter="script")


def test_a_bundle_can_be_moved_and_opened_by_its_folder(checkpoint: Path, tmp_path: Path) -> None:
    bundle = export(checkpoint)
    moved = tmp_path / "elsewhere"
    os.replace(bundle.folder, moved)
    with Upscaler(moved, backend="onnx") as upscaler:
        assert upscaler(draw(5, 5)).shape == (10, 10, 3)
    assert Bundle.open(moved) == replace(bundle, folder=moved)


def test_a_file_does_not_take_a_name_that_means_something_else(checkpoint: Path) -> None:
    for name, message in (
        ("resharp-x4", "is the built-in model"),
        ("realesrgan-x4plus", "in the catalogue, and .* is another file"),
        ("RealESRGAN_x4plus", "is another file"),
        ("No Name", "invalid model name"),
    ):
        with pytest.raises(OptionError, match=message):
            export(checkpoint, ExportOptions(name=name))
    unnamed = checkpoint.with_name("日本.pth")
    checkpoint.rename(unnamed)
    with pytest.raises(OptionError, match="cannot make a name"):
        export(unnamed)


@pytest.mark.slow
def test_an_open_upscaler_survives_a_new_export(checkpoint: Path) -> None:
    with Upscaler(export(checkpoint), backend="onnx") as upscaler:
        network = random_network("compact")
        with torch.no_grad():
            next(network.parameters()).add_(0.1)
        save_checkpoint(network, checkpoint)
        export(checkpoint, ExportOptions(force=True))
        # the float session is opened only now, on the files of the bundle that was opened
        assert upscaler(draw(8, 8).astype(np.uint16) * 257).shape == (16, 16, 3)


@pytest.mark.slow
def test_an_activation_that_weights_do_not_tell(tmp_path: Path) -> None:
    from resharp.models import SRVGGNetCompact

    torch.manual_seed(0)
    path = save_checkpoint(
        SRVGGNetCompact(num_feat=8, num_conv=2, upscale=2, act_type="leakyrelu"), tmp_path / "l.pth"
    )
    plain = export(path, ExportOptions(name="plain"))
    leaky = export(path, ExportOptions(name="leaky", parameters={"act_type": "leakyrelu"}))
    assert plain.manifest.parameters["act_type"] == "relu"
    assert leaky.manifest.parameters["act_type"] == "leakyrelu"
    with Upscaler(leaky, backend="onnx") as one, Upscaler(leaky, backend="torch") as two:
        picture = draw(20, 20)
        assert np.abs(one(picture).astype(int) - two(picture)).max() <= 1


def test_weights_that_give_nan_are_blamed_on_the_weights(tmp_path: Path) -> None:
    network = random_network("compact")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1e12)
    with pytest.raises(ParityError, match="in PyTorch itself"):
        export(save_checkpoint(network, tmp_path / "wild.pth"))


@pytest.mark.usefixtures("bare_checkout")
def test_a_bare_checkout_exports(checkpoint: Path, tmp_path: Path) -> None:
    bundle = export(checkpoint, store=tmp_path)
    assert bundle.manifest.versions["resharp"] == __version__

"""Denoise strengths from one export."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resharp import Upscaler
from resharp.drawing import draw
from resharp.engines import Bundle, Store
from resharp.engines.blend import blended
from resharp.engines.target import NAMED, Target
from resharp.errors import (
    BundleError,
    NotExportedError,
    OfflineError,
    OptionError,
    OutputError,
)
from resharp.export import ExportOptions, export
from resharp.export.engine import EngineOptions, build_engines
from resharp.gpu import tensorrt as variants
from resharp.models import SRVGGNetCompact
from resharp.runtime.bundle_lookup import resolve
from resharp.weights import ModelEntry, find
from tests.conftest import save_checkpoint
from tests.models.face_nets import needs_rtx

pytestmark = pytest.mark.slow

NAME, TWIN = "realesr-general-x4v3", "realesr-general-wdn-x4v3"


def put(folder: Path, name: str, seed: int, *, flat: bool = False) -> None:
    """Weights of a small network under an official file name."""
    torch.manual_seed(seed)
    network = SRVGGNetCompact(num_feat=8, num_conv=1, upscale=4)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:  # activation slopes begin all alike
                parameter.copy_(
                    torch.full_like(parameter, 0.25) if flat else torch.rand(len(parameter))
                )
    save_checkpoint(network, folder / find(name).file)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home" / "weights"
    folder.mkdir(parents=True)
    put(folder, NAME, 0)
    put(folder, TWIN, 1)
    monkeypatch.setenv("RESHARP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("resharp.weights.fetch", lambda entry, *_, **__: folder / entry.file)
    return folder


def store() -> Store:
    return Store(resolve(NAME).folder.parent)


def restored(denoise: float | None) -> Any:
    with Upscaler(NAME, backend="onnx", denoise=denoise) as upscaler:
        return upscaler(draw(24, 24).astype(np.float32) / 255)


@pytest.mark.usefixtures("weights")
def test_one_export_serves_every_strength() -> None:
    base = export(NAME)
    assert base.manifest.twin is not None
    for strength in (0.0, 0.3, 0.75):
        made = resolve(NAME, denoise=strength)
        made.verify()
        assert made.manifest.name == f"{NAME}-dn{strength:g}"
        assert made.manifest.twin is None
        stamp = (made.folder / "manifest.json").stat().st_mtime_ns
        found = restored(strength)
        assert (made.folder / "manifest.json").stat().st_mtime_ns == stamp, "made twice"
        # The same strength, through PyTorch and a trace of its own.
        traced = export(NAME, ExportOptions(denoise=strength, force=True))
        assert traced.manifest.sources == made.manifest.sources
        assert traced.manifest.weights.sha256 == made.manifest.weights.sha256
        np.testing.assert_allclose(restored(strength), found, atol=1e-6)
    assert resolve(NAME, denoise=1).manifest.name == NAME
    assert np.abs(restored(0) - restored(1)).max() > 0.01


@pytest.mark.usefixtures("weights")
def test_every_backend_takes_a_strength() -> None:
    export(NAME)
    picture = draw(24, 24)
    with (
        Upscaler(NAME, backend="onnx", denoise=0.3) as onnx,
        Upscaler(NAME, backend="torch", device="cpu", denoise=0.3) as pytorch,
    ):
        gap = np.abs(onnx(picture).astype(int) - pytorch(picture))
    assert gap.max() <= 1


@needs_rtx
@pytest.mark.usefixtures("weights")
def test_an_engine_is_built_once_for_each_strength() -> None:
    export(NAME)
    options = EngineOptions(variant=variants.RTX, dtypes=("uint8",), tile=64)
    for skipped in (False, True):
        bundle = resolve(NAME, denoise=0.3)
        (built,) = build_engines(bundle, Target(targets=NAMED), options)
        assert built.skipped is skipped
    (other,) = build_engines(resolve(NAME, denoise=0.4), Target(targets=NAMED), options)
    assert other.engine.key != built.engine.key


@pytest.mark.usefixtures("weights")
def test_a_strength_needs_no_torch() -> None:
    export(NAME)
    code = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None\n"
        f"from resharp import Upscaler; Upscaler({NAME!r}, backend='onnx', denoise=0.4)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert f"{NAME}-dn0.4" in store()


def test_other_weights_make_the_strength_anew(weights: Path) -> None:
    export(NAME)
    before = resolve(NAME, denoise=0.5).manifest
    put(weights, TWIN, 2)
    export(NAME)  # not done: the twin is another
    after = resolve(NAME, denoise=0.5).manifest
    assert after.sources != before.sources
    assert after.weights != before.weights


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_strengths_out_of_range(strength: float) -> None:
    export(NAME)
    with pytest.raises(OptionError, match="`denoise` must be"):
        resolve(NAME, denoise=strength)


def test_without_the_twin_the_model_is_whole(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(entry: ModelEntry, *_: object, **__: object) -> Path:
        if entry.name == TWIN:
            raise OfflineError("not now")
        return weights / entry.file

    with monkeypatch.context() as patch:
        patch.setattr("resharp.weights.fetch", fetch)
        lines: list[str] = []
        assert export(NAME, log=lines.append).manifest.twin is None
        assert any("without denoise strengths" in line and "not now" in line for line in lines)
        with pytest.raises(NotExportedError, match=f"resharp export {NAME}' with `denoise`=0.3"):
            resolve(NAME, denoise=0.3)
        with pytest.raises(BundleError, match="without its twin"):
            blended(resolve(NAME), 0.3, store())
        export(NAME, log=lines.append)
        assert "nothing to do" in lines[-1]
    assert export(NAME).manifest.twin is not None  # now that it can be fetched
    resolve(NAME, denoise=0.3).verify()


def test_a_mix_that_is_not_pytorchs_is_not_offered(weights: Path) -> None:
    """Slopes all alike become one constant, which the twin's different ones cannot replace."""
    put(weights, NAME, 0, flat=True)
    lines: list[str] = []
    assert export(NAME, log=lines.append).manifest.twin is None
    assert any("is stored without" in line for line in lines)


@pytest.mark.usefixtures("weights")
def test_a_store_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    export(NAME)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(OutputError, match="cannot write to"):
        resolve(NAME, denoise=0.3)
    assert store().names() == (NAME,)


@pytest.mark.usefixtures("weights")
def test_damaged_twins_are_refused() -> None:
    base = export(NAME)
    assert base.manifest.twin is not None
    path = base.path(base.manifest.twin.weights)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BundleError, match="is damaged"):
        resolve(NAME, denoise=0.3)
    path.unlink()
    with pytest.raises(BundleError, match="is missing"):
        Bundle.open(base.folder)


@pytest.mark.usefixtures("weights")
def test_a_folder_and_a_bundle_have_strengths_too() -> None:
    base = export(NAME)
    expected = restored(0.3)
    for model in (base, base.folder, str(base.folder)):
        with Upscaler(model, backend="onnx", denoise=0.3) as upscaler:
            found = upscaler(draw(24, 24).astype(np.float32) / 255)
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(OptionError, match="has no denoise strength"):
        resolve(resolve(NAME, denoise=0.3), denoise=0.5)
    assert resolve(base, denoise=1) is base


@pytest.mark.usefixtures("weights")
def test_strengths_that_are_written_alike_are_one() -> None:
    export(NAME)
    first = resolve(NAME, denoise=0.3)
    stamp = (first.folder / "manifest.json").stat().st_mtime_ns
    assert resolve(NAME, denoise=0.1 + 0.2) == first
    assert export(NAME, ExportOptions(denoise=0.1 + 0.2)) == first
    assert (first.folder / "manifest.json").stat().st_mtime_ns == stamp
    assert resolve(NAME, denoise=0.999999).manifest.name == NAME

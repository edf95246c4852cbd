"""Activations too large for fp16: seen at export, and followed by engines and by torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from resharp import models
from resharp.drawing import draw
from resharp.engines import Bundle, Manifest, parse
from resharp.engines.target import NAMED, Target
from resharp.errors import BundleError, ParityError
from resharp.export import ExportOptions, export
from resharp.export.engine import EngineOptions, build_engines
from resharp.export.engine.typed_graph import typed_graph
from resharp.gpu import tensorrt as variants
from resharp.models.precision import LARGE
from resharp.runtime.backends import BackendOptions
from resharp.runtime.backends.torch.backend import TorchBackend
from tests.conftest import random_network, save_checkpoint

pytestmark = pytest.mark.slow

needs_rtx = pytest.mark.skipif(
    variants.RTX not in variants.installed(), reason="TensorRT-RTX is not installed (extra rtx)"
)
RTX = EngineOptions(variant=variants.RTX, dtypes=("uint8",))
EVERYWHERE = Target(targets=NAMED)


def scaled(folder: Path, factor: float) -> Bundle:
    """The compact network, whose middle is ``factor`` times as large as it was."""
    network = random_network("compact")
    with torch.no_grad():
        network.get_parameter("body.2.weight").mul_(factor)
        network.get_parameter("body.4.weight").div_(factor)
    path = save_checkpoint(network, folder / "wild.pth")
    return export(path, ExportOptions(exporter="legacy"), store=folder / "store")


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Beyond the end of fp16."""
    return scaled(tmp_path_factory.mktemp("wild"), 2.0**20)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Bundle]) -> Bundle:
    """Beyond LARGE: fp16 can represent it on this image, but maybe not on another."""
    plain = tiny["compact"].manifest.peak
    assert plain is not None
    factor = 2.0 ** round(np.log2(3e4 / plain))
    return scaled(tmp_path_factory.mktemp("large"), factor)


def built(bundle: Bundle, options: EngineOptions = RTX) -> tuple[str, float, list[str]]:
    lines: list[str] = []
    (one,) = build_engines(bundle, EVERYWHERE, options, log=lines.append)
    return one.engine.spec.precision, one.engine.graph.psnr, lines


def test_the_manifest_says_what_was_measured(compact: Bundle, wild: Bundle, large: Bundle) -> None:
    for bundle in (compact, wild, large):
        manifest = bundle.manifest
        assert manifest.peak is not None
        assert parse(manifest.to_json(), "") == manifest
        assert manifest.engine_precision == ("fp16" if bundle is compact else "mixed")
    peaks = [bundle.manifest.peak or 0.0 for bundle in (compact, large, wild)]
    assert 0 < peaks[0] < LARGE < peaks[1] < 65504 < peaks[2]


def test_the_picture_of_the_user_is_measured(tmp_path: Path, compact: Bundle) -> None:
    path = save_checkpoint(random_network("compact"), tmp_path / "dark.pth")
    dark = ExportOptions(image=draw(320, 320) // 16)
    peak = export(path, dark, store=tmp_path / "store").manifest.peak
    assert peak is not None
    assert compact.manifest.peak is not None
    assert 0 < peak < compact.manifest.peak / 2


def test_mixed_is_right_where_fp16_is_not(wild: Bundle, tmp_path: Path) -> None:
    batch = draw(40, 56)[None]
    _, exact = typed_graph(wild, "uint8", "fp32", tmp_path)
    wanted = exact(batch).astype(int)
    gaps = {}
    for precision in ("fp16", "mixed"):
        _, infer = typed_graph(wild, "uint8", precision, tmp_path)
        gaps[precision] = int(np.abs(infer(batch).astype(int) - wanted).max())
    assert gaps["mixed"] <= 2
    assert gaps["fp16"] > 100


@needs_rtx
def test_engines_begin_with_mixed_and_say_why(wild: Bundle, large: Bundle) -> None:
    for bundle in (wild, large):
        precision, psnr, lines = built(bundle)
        assert precision == "mixed"
        assert psnr > 50
        (reason,) = (line for line in lines if "starting with mixed" in line)
        assert f"reach {bundle.manifest.peak:,.0f} on the export image, over 10,000" in reason
        assert not any("fp16 for" in line for line in lines)


@needs_rtx
def test_who_asks_for_fp16_gets_it_where_the_gate_lets_it_through(
    wild: Bundle, large: Bundle
) -> None:
    precision, psnr, lines = built(large, replace(RTX, precision="fp16"))
    assert precision == "fp16"
    assert psnr > 40
    assert not any("starting with" in line for line in lines)
    with pytest.raises(ParityError, match="fp16"):
        built(wild, replace(RTX, precision="fp16"))


@needs_rtx
def test_manifests_that_do_not_say_begin_with_fp16(wild: Bundle, tmp_path: Path) -> None:
    old = replace(
        wild,
        manifest=replace(wild.manifest, peak=None, engine_precision=None),
        engine_store_folder=tmp_path / "engines",
    )
    precision, _, lines = built(old)
    assert precision == "mixed"
    assert any("trying mixed" in line for line in lines)
    assert not any("starting with" in line for line in lines)


def test_manifests_of_before_and_of_later_are_read(compact: Bundle) -> None:
    text = compact.manifest.to_json()
    lines = [line for line in text.splitlines() if '"peak"' not in line]
    old = parse("\n".join(line for line in lines if '"engine_precision"' not in line), "old")
    assert old == replace(compact.manifest, peak=None, engine_precision=None)
    with pytest.raises(BundleError, match="peak must be a number, got"):
        parse(text.replace(f'"peak": {compact.manifest.peak}', '"peak": "high"'), "damaged")


def torch_on_cuda(bundle: Bundle, manifest: Manifest) -> TorchBackend:
    """The torch backend on the CPU that believes to be on a GPU."""
    backend = TorchBackend(replace(bundle, manifest=manifest), BackendOptions())
    backend.options = BackendOptions(device="cuda")
    return backend


def test_torch_follows_the_manifest(compact: Bundle, wild: Bundle) -> None:
    checkpoint = models.read_checkpoint(wild.path(wild.manifest.weights))
    network, facts = models.build(checkpoint), checkpoint.facts
    pixels = torch.from_numpy(draw(24, 24)[None].astype(np.float32) / 255)
    backend = torch_on_cuda(wild, wild.manifest)
    with backend:
        whole = backend.memory(64)
        mixed = backend._halved(network, backend._precision())
        assert "mixed precision, since activations are large" in backend.note
        with torch.inference_mode():
            found, exact = (
                models.for_images(n, facts, "float32")(pixels) for n in (mixed, network)
            )
    assert 0 < float((found - exact).abs().max()) < 1e-2
    assert any(one.dtype is torch.float16 for one in mixed.parameters())
    plain = replace(wild.manifest, peak=None, engine_precision=None)
    backend = torch_on_cuda(wild, plain)
    with backend:
        assert backend.memory(64) == whole // 2
        assert backend._halved(network, backend._precision()) is network
        assert "fp32, since fp16 reaches only" in backend.note
    backend = torch_on_cuda(compact, compact.manifest)
    with backend:
        assert backend._precision() == "fp16"
        backend.options = BackendOptions(device="cuda", precision="fp32")
        assert backend._precision() == "fp32"

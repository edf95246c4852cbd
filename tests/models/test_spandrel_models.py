"""spandrel's architectures: through the gate to every backend, or a refusal with the reason."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resharp import Upscaler
from resharp.drawing import draw
from resharp.engines import Bundle
from resharp.engines.target import Target
from resharp.errors import (
    BackendError,
    CheckpointError,
    MissingExtraError,
    OptionError,
    ParityError,
    UnknownArchitectureError,
)
from resharp.export import export
from resharp.export.engine import EngineOptions, build_engines
from resharp.export.measure import costs, overlap
from resharp.export.onnx import checked_export, dynamic_batch_patches, trace
from resharp.export.onnx.subprocess_trace import trace_in_subprocess
from resharp.gpu.tensorrt import RTX
from resharp.models import (
    NetworkFacts,
    build,
    for_images,
    read_checkpoint,
    save_safetensors,
    spandrel_models,
)
from resharp.models.spandrel_models import AnySize, recognize
from tests import oracle
from tests.models.face_nets import needs_rtx, shaken

pytestmark = pytest.mark.slow

MAIN = "spandrel.architectures"
NETS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "SPAN": (
        f"{MAIN}.SPAN",
        "SPAN",
        {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 12, "upscale": 2},
    ),
    "NAFNet": (f"{MAIN}.NAFNet", "NAFNet", {"width": 8, "enc_blk_nums": [1], "dec_blk_nums": [1]}),
    "SAFMN": (f"{MAIN}.SAFMN", "SAFMN", {"dim": 8, "n_blocks": 1, "upscaling_factor": 2}),
    "DRCT": (
        f"{MAIN}.DRCT",
        "DRCT",
        {
            "embed_dim": 24,
            "depths": (6,),
            "num_heads": (2,),
            "gc": 8,
            "upscale": 2,
            "upsampler": "pixelshuffle",
        },
    ),
    "Swin2SR": (
        f"{MAIN}.Swin2SR",
        "Swin2SR",
        {
            "embed_dim": 16,
            "depths": [2],
            "num_heads": [2],
            "window_size": 8,
            "mlp_ratio": 2.0,
            "upsampler": "pixelshuffledirect",
        },
    ),
    "KBNet": (
        f"{MAIN}.KBNet",
        "KBNet_s",
        {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1], "dec_blk_nums": [1]},
    ),
    "DRUNet": (f"{MAIN}.DRUNet", "DRUNet", {"in_nc": 4, "out_nc": 3, "nc": [4, 4, 4, 4], "nb": 4}),
    "gray DnCNN": (f"{MAIN}.DnCNN", "DnCNN", {"nc": 4, "act_mode": "R"}),
}


def net(name: str) -> nn.Module:
    """A tiny random one, of spandrel's own class."""
    oracle.load()
    module, kind, parameters = NETS[name]
    package = importlib.import_module(module)
    torch.manual_seed(3)
    network: nn.Module = getattr(package, kind)(**parameters)
    return shaken(network, seed=5)


def saved(name: str, folder: Path) -> Path:
    path = folder / f"{name.replace(' ', '-').lower()}.pth"
    torch.save({"params": net(name).state_dict()}, path)
    return path


def as_spandrel(name: str, picture: Any) -> Tensor:
    """The result of spandrel's own call for a BGR image, as BGR pixels in 0..1."""
    spandrel = oracle.load()
    descriptor = spandrel.ModelLoader().load_from_state_dict(net(name).state_dict())
    planes = torch.from_numpy(picture[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    found: Tensor = descriptor(planes)
    return found[0].flip(0).permute(1, 2, 0)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """spandrel is of an older torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "measure", lambda *_: ((16, 0.0),))  # not the matter here
    monkeypatch.setattr(costs, "memory_per_pixel", lambda *_: None)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces in this process, which spares the import of torch in another."""

    def traced(weights: Path, dtypes: Sequence[str], exporter: str, folder: Path) -> None:
        for dtype in dtypes:
            module = for_images(*_built(weights), dtype)
            path = folder / f"{dtype}.onnx"
            trace.trace(module, dtype, path, exporter=exporter)

    monkeypatch.setattr(checked_export, "trace_in_subprocess", traced)


def _built(weights: Path) -> tuple[nn.Module, NetworkFacts]:
    found = read_checkpoint(weights)
    return build(found), found.facts


@pytest.fixture(scope="module")
def span(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With everything measured."""
    folder = tmp_path_factory.mktemp("span")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return export(saved("SPAN", folder), store=folder / "store")


@oracle.needs_oracle
def test_restores_as_spandrel_does(span: Bundle) -> None:
    manifest = span.manifest
    assert (manifest.architecture, manifest.scale, manifest.channels) == ("spandrel:SPAN", 2, 3)
    assert manifest.versions["exporter"] == "legacy"
    assert manifest.parity is not None
    assert max(w for _, _, w in manifest.parity.shapes) > 64
    assert 0 < manifest.overlap < overlap.REACH
    picture = draw(29, 41)
    expected = as_spandrel("SPAN", picture)
    assert float(expected.std()) > 0.05
    for backend in ("onnx", "torch"):
        with Upscaler(span, backend=backend, device="cpu") as upscaler:
            found = upscaler(picture)
            floats = upscaler((picture / np.float32(255)).astype(np.float32))
        assert np.abs(found - np.rint(expected.numpy() * 255)).max() <= 1
        assert float(np.abs(floats - expected.numpy()).max()) <= 1e-4


@oracle.needs_oracle
@needs_rtx
def test_tensorrt_rtx_builds_it_in_fp16(span: Bundle, tmp_path: Path) -> None:
    bundle = replace(span, engine_store_folder=tmp_path / "engines")
    options = EngineOptions(variant=RTX, precision="fp16", dtypes=("uint8",), tile=128)
    (built,) = build_engines(bundle, Target(targets=("sm86",)), options)
    assert built.engine.spec.precision == "fp16"
    assert built.engine.graph.passed


@oracle.needs_oracle
@pytest.mark.parametrize("form", ["pth", "safetensors"])
@pytest.mark.parametrize("name", ["NAFNet", "SAFMN", "DRCT", "gray DnCNN"])
def test_files_come_back(tmp_path: Path, name: str, form: str) -> None:
    found = read_checkpoint(saved(name, tmp_path))
    if form == "safetensors":
        save_safetensors(found, tmp_path / "again.safetensors")
        again = read_checkpoint(tmp_path / "again.safetensors")
        assert (again.architecture, again.parameters) == (found.architecture, found.parameters)
        assert again.facts == found.facts
        found = again
    assert found.architecture == f"spandrel:{name.rpartition(' ')[2]}"
    assert found.facts.exporters == ("legacy", "dynamo")
    side = found.facts.size_multiple * 2  # where both are one function
    channels = found.facts.in_channels
    picture = torch.rand(1, channels, side, side + found.facts.size_multiple)
    descriptor = oracle.load().ModelLoader().load_from_state_dict(net(name).state_dict())
    with torch.inference_mode():
        ours = build(found)(picture).clamp(0, 1)
    assert float((ours - descriptor(picture)).abs().max()) <= 1e-5
    assert ours.shape[1] == found.facts.out_channels == (1 if "gray" in name else 3)


@oracle.needs_oracle
def test_any_size_is_padded_by_reflection(tmp_path: Path) -> None:
    found = read_checkpoint(saved("DRCT", tmp_path))
    network = build(found)
    assert isinstance(network, AnySize)
    assert found.parameters == {"minimum": 1, "multiple": 16, "square": 0}
    for height, width in ((1, 1), (17, 5), (16, 33)):
        picture = torch.rand(2, 3, height, width)
        rows, columns = (
            [i if i < size else max(2 * (size - 1) - i, 0) for i in range(-(-size // 16) * 16)]
            for size in (height, width)
        )
        with torch.inference_mode():
            expected = network.network(picture[:, :, rows][:, :, :, columns])
            ours = network(picture)
        assert torch.equal(ours, expected[:, :, : 2 * height, : 2 * width])
    seen = []

    def call(_: nn.Module, planes: Tensor) -> Tensor:
        seen.append(tuple(planes.shape))
        return planes

    square = AnySize(nn.Identity(), call, scale=1, channels=(3, 3), minimum=8, square=1)
    for height, width in ((2, 11), (1, 1)):
        assert square(torch.rand(1, 3, height, width)).shape == (1, 3, height, width)
    assert seen == [(1, 3, 11, 11), (1, 3, 8, 8)]


@oracle.needs_oracle
@pytest.mark.usefixtures("unmeasured", "here")
def test_windows_are_put_together_for_any_batch(tmp_path: Path) -> None:
    """Swin2SR's own code bakes the batch of the example; the gate would refuse it."""
    bundle = export(saved("Swin2SR", tmp_path), store=tmp_path / "store")
    assert bundle.manifest.versions["exporter"] == "legacy"
    assert bundle.manifest.size_multiple == 8
    module = importlib.import_module("spandrel.architectures.Swin2SR.__arch.Swin2SR")
    assert module.window_reverse is not dynamic_batch_patches.window_reverse
    windows = torch.rand(3 * 6, 4, 4, 5)
    assert torch.equal(
        module.window_reverse(windows, 4, 8, 12),
        dynamic_batch_patches.window_reverse(windows, 4, 8, 12),
    )


@oracle.needs_oracle
@pytest.mark.usefixtures("unmeasured", "here")
def test_the_other_exporter_is_tried(tmp_path: Path) -> None:
    said: list[str] = []
    bundle = export(saved("SAFMN", tmp_path), store=tmp_path / "store", log=said.append)
    assert bundle.manifest.versions["exporter"] == "dynamo"
    (step,) = (line for line in said if line.endswith("; trying dynamo"))
    assert step.startswith("legacy: torch's legacy exporter fails: ")
    assert "adaptive" in step


@oracle.needs_oracle
@pytest.mark.usefixtures("unmeasured")
def test_what_does_not_generalise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spandrel_models, "EXPORTERS", ("legacy",))
    text = r"^spandrel's KBNet cannot be exported: .* other sizes, .* stored\. legacy: .+"
    with pytest.raises(ParityError, match=text):
        export(saved("KBNet", tmp_path), store=tmp_path / "store")
    assert not (tmp_path / "store" / "kbnet").exists()


def test_a_crash_of_the_exporter_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resharp.export.onnx import subprocess_trace

    monkeypatch.setattr(subprocess_trace, "_CHILD", "import os; os.abort()")
    with pytest.raises(ParityError, match=r"legacy exporter (crashes|exits)"):
        trace_in_subprocess(tmp_path / "weights", ("uint8",), "legacy", tmp_path)
    monkeypatch.setattr(subprocess_trace, "_CHILD", "raise SystemError('odd')")
    with pytest.raises(ParityError, match="exits with code 1: SystemError: odd"):
        trace_in_subprocess(tmp_path / "weights", ("uint8",), "legacy", tmp_path)


@oracle.needs_oracle
def test_a_network_for_one_picture_at_a_time_is_refused(tmp_path: Path) -> None:
    text = "spandrel's DRUNet, which fails in PyTorch itself on a batch of two"
    with pytest.raises(CheckpointError, match=text):
        read_checkpoint(saved("DRUNet", tmp_path))


@oracle.needs_oracle
def test_descriptors_of_other_kinds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spandrel = oracle.load()
    state = net("SPAN").state_dict()
    support = spandrel.MAIN_REGISTRY["SPAN"]

    def given(**changes: Any) -> Any:
        descriptor = type(support.architecture)().load(dict(state))
        for name, value in changes.items():
            setattr(descriptor, name, value)
        return descriptor

    tiling = spandrel.ModelTiling.INTERNAL
    for changes, told in (
        ({"input_channels": 6}, "spandrel's SPAN, which takes 6 and returns 3 channels"),
        ({"tiling": tiling}, "needs the whole image at once"),
        ({"_purpose": "FaceSR"}, "only restores aligned faces"),
        ({"_call_fn": None}, "an interface that this release does not support"),
        ({"__class__": spandrel.MaskedImageModelDescriptor, "_purpose": "Inpainting"}, "a mask"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(support.architecture, "load", lambda _, c=changes: given(**c))
            with pytest.raises(CheckpointError, match=told):
                recognize(state)


@oracle.needs_oracle
def test_weights_that_nobody_knows(tmp_path: Path) -> None:
    oracle.load()
    torch.save({"qkv.weight": torch.zeros(2)}, tmp_path / "net.pth")
    text = r"net\.pth: .*qkv\.weight.*spandrel .* does not recognize them either"
    with pytest.raises(UnknownArchitectureError, match=text):
        read_checkpoint(tmp_path / "net.pth")
    state = net("SPAN").state_dict()
    state["conv_1.sk.weight"] = torch.zeros(2)
    with pytest.raises(UnknownArchitectureError, match="as its SPAN but cannot load them"):
        recognize(state)


@oracle.needs_oracle
def test_sizes_can_be_overruled(tmp_path: Path) -> None:
    path = saved("NAFNet", tmp_path)
    found = read_checkpoint(path, parameters={"multiple": 4, "minimum": 8})
    assert (found.facts.size_multiple, found.parameters["minimum"]) == (4, 8)
    with pytest.raises(
        OptionError, match="spandrel's NAFNet must be an integer of at least 1, got 0"
    ):
        read_checkpoint(path, parameters={"multiple": 0})
    with pytest.raises(UnknownArchitectureError):  # no parameter of spandrel's: it is not asked
        read_checkpoint(path, parameters={"width": 8})


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """No spandrel to import, here and in this process."""
    for name in [one for one in sys.modules if one.partition(".")[0] == "spandrel"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one != str(oracle.FOLDER)])
    monkeypatch.setitem(sys.modules, "spandrel", None)  # importing it is an ImportError


@pytest.mark.usefixtures("without")
def test_without_spandrel_the_extra_is_named(tmp_path: Path) -> None:
    torch.save({"qkv.weight": torch.zeros(2)}, tmp_path / "net.pth")
    text = r"found qkv\.weight.*pip install 'resharp\[spandrel\]'"
    with pytest.raises(UnknownArchitectureError, match=text):
        export(tmp_path / "net.pth", store=tmp_path / "store")


@oracle.needs_oracle
def test_without_spandrel_the_chain_goes_on(span: Bundle, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("without")
    with pytest.raises(BackendError, match=r"torch.*pip install 'resharp\[spandrel\]'"):
        Upscaler(span, backend="torch", device="cpu")
    with Upscaler(span, device="cpu") as upscaler:
        assert upscaler.backend == "onnx"
        assert upscaler(draw(8, 9)).shape == (16, 18, 3)
    with pytest.raises(MissingExtraError, match=r"A network of spandrel's SPAN needs .*spandrel\]"):
        build(read_checkpoint(span.path(span.manifest.weights)))


@oracle.needs_oracle
@pytest.mark.parametrize("body", [None, "raise RuntimeError('operator torchvision::nms does not')"])
def test_without_torchvision_the_reason_is_told(tmp_path: Path, body: str | None) -> None:
    """In a process of its own, since this one has imported spandrel."""
    if body is not None:
        (tmp_path / "torchvision.py").write_text(body)
    script = (
        f"import sys; sys.path += [{str(tmp_path)!r}, {str(oracle.FOLDER)!r}]\n"
        "if not sys.argv[1:]: sys.modules['torchvision'] = None\n"
        "from resharp.errors import MissingExtraError\n"
        "from resharp.models import spandrel_models\n"
        "try: spandrel_models.library('A test')\n"
        "except MissingExtraError as error: print(error)"
    )
    command = [sys.executable, "-c", script, *([] if body is None else ["broken"])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "A test needs" in done.stdout
    assert "cannot be imported" in done.stdout
    assert "torchvision" in done.stdout


def test_an_exporters_failure_is_told(tmp_path: Path) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise IndexError("odd")

    with pytest.raises(ParityError, match="torch's legacy exporter fails: odd"):
        trace.trace(Broken(), "uint8", tmp_path / "broken.onnx")

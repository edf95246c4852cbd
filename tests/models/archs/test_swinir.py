"""SwinIR against spandrel, in every variant, and through export, onnxruntime and TensorRT-RTX."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from resharp import Upscaler
from resharp.drawing import draw
from resharp.engines import Bundle
from resharp.engines.target import Target
from resharp.errors import ImageError, OptionError, UnknownArchitectureError
from resharp.export import export, parity
from resharp.export.engine import EngineOptions, build_engines
from resharp.export.measure import costs, overlap
from resharp.gpu import tensorrt as variants
from resharp.models import ByteImage, SwinIR, build, detect, read_checkpoint, save_safetensors
from resharp.models.archs.swinir import position_index
from resharp.models.detect import identify
from resharp.models.precision import with_precision
from resharp.weights import catalogue
from resharp.weights.entry import ModelEntry
from tests.conftest import save_checkpoint
from tests.oracle import load, needs_oracle

pytestmark = pytest.mark.slow

VARIANTS: dict[str, dict[str, Any]] = {
    "classical x2": {"upscale": 2, "upsampler": "pixelshuffle"},
    "classical x3": {"upscale": 3, "upsampler": "pixelshuffle"},
    "classical x4": {"upscale": 4, "upsampler": "pixelshuffle"},
    "classical x8": {"upscale": 8, "upsampler": "pixelshuffle"},
    "lightweight x2": {"upscale": 2, "upsampler": "pixelshuffledirect"},
    "lightweight x3": {"upscale": 3, "upsampler": "pixelshuffledirect"},
    "real x2": {"upscale": 2, "upsampler": "nearest+conv"},
    "real x4": {"upscale": 4, "upsampler": "nearest+conv"},
    "real x4 large": {"upscale": 4, "upsampler": "nearest+conv", "resi_connection": "3conv"},
    "color denoise": {"upscale": 1, "upsampler": ""},
    "gray denoise": {"upscale": 1, "upsampler": "", "in_chans": 1},
    "color jpeg": {"upscale": 1, "upsampler": "", "window_size": 7, "img_range": 255},
    "gray jpeg": {"upscale": 1, "upsampler": "", "window_size": 7, "img_range": 255, "in_chans": 1},
}
LIGHT = {"embed_dim": 60, "depths": "6,6,6,6", "num_heads": "6,6,6,6", "mlp_dim": 120}
TINY = {"embed_dim": 12, "depths": "2,2", "num_heads": "2,3", "mlp_dim": 24}
ROWS = {
    (str(entry.parameters), entry.bytes): entry
    for entry in catalogue().values()
    if entry.architecture == "SwinIR"
}
"""The catalogue's, one of each kind: three noise levels have one network."""
_TABLE = re.compile(r".*\.(relative_position_index|attn_mask)")


def swinir(variant: str, *, seed: int = 0, **parameters: Any) -> SwinIR:
    """A tiny network whose every weight counts, biases and norms included; output of about 1."""
    torch.manual_seed(seed)
    network = SwinIR(**{**TINY, "num_feat": 8, **VARIANTS[variant], **parameters})
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "table" in name:
                parameter.normal_()
            elif ".blocks." in name:
                parameter.mul_(2)
            elif "conv_up" not in name:
                parameter.mul_(3 if network.img_range > 1 and "last" in name else 1.5)
    return network.eval()


def official(network: SwinIR) -> dict[str, Tensor]:
    """The state dict with the tables that upstream stores with the weights."""
    state: dict[str, Tensor] = {}
    side = network.window_size
    mask = stored_mask(side)
    for name, tensor in network.state_dict().items():
        state[name] = tensor
        if name.endswith("relative_position_bias_table"):
            stem = name.removesuffix("bias_table")
            state[f"{stem}index"] = position_index(side)
            if int(name.split(".")[4]) % 2:  # the shifted blocks
                state[f"{name.partition('attn.')[0]}attn_mask"] = mask
    return state


def stored_mask(side: int) -> Tensor:
    """``[9, side**2, side**2]``: of training crops of 3 x 3 windows, by labels as upstream has."""
    seams = (0, 2 * side, 3 * side - side // 2, 3 * side)
    labels = np.zeros((3 * side, 3 * side), int)
    for y in range(3):
        for x in range(3):
            labels[seams[y] : seams[y + 1], seams[x] : seams[x + 1]] = 3 * y + x
    windows = labels.reshape(3, side, 3, side).swapaxes(1, 2).reshape(9, -1)
    return torch.from_numpy(np.where(windows[:, None] == windows[:, :, None], 0.0, -100.0)).float()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """spandrel is of an older torch."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)
        warnings.filterwarnings("ignore", "`torch.jit.script`", DeprecationWarning)
        yield


@needs_oracle
@pytest.mark.parametrize("variant", VARIANTS)
def test_computes_what_spandrel_computes(variant: str) -> None:
    """At any size; spandrel's own loader takes our names."""
    load()
    from spandrel.architectures.SwinIR import SwinIRArch

    ours = swinir(variant, num_feat=64)  # which spandrel has built in
    theirs = SwinIRArch().load(official(ours)).model.eval()
    side, scale = ours.window_size, ours.upscale
    assert theirs.img_range == ours.img_range
    wholes = ((side, side), (2 * side, 3 * side), (3 * side, 3 * side))  # the last: stored masks
    for n in (1, 3):
        for height, width in (*wholes, (side - 1, side + 3), (2 * side + 1, side - 2)):
            picture = torch.rand(n, ours.num_in_ch, height, width)
            with torch.no_grad():
                if height % side == 1:  # spandrel cannot reflect what is smaller than its padding
                    rows = [*range(height), *range(height - 2, height - 1 - side, -1)]
                    expected = theirs(picture[:, :, rows])[:, :, : height * scale]
                else:
                    expected = theirs(picture)
                found = ours(picture)
            assert found.shape == expected.shape == (n, *picture.shape[1:2], *expected.shape[2:])
            assert float((found - expected).abs().max()) < 1e-4, (n, height, width)
            assert 0.02 < float(found.std()) < 3
    ours.get_buffer("_apart").zero_()
    with torch.no_grad():
        unmasked = ours(picture)
    assert float((found - unmasked).abs().max()) > 1e-3  # the weights are such that a mask matters


@needs_oracle
def test_our_names_are_spandrels() -> None:
    load()
    from spandrel.architectures.SwinIR import SwinIRArch

    for variant in VARIANTS:
        ours = swinir(variant, num_feat=64)
        theirs = SwinIRArch().load(official(ours)).model.state_dict()
        shapes = {name: t.shape for name, t in theirs.items() if not _TABLE.fullmatch(name)}
        assert shapes == {name: t.shape for name, t in ours.state_dict().items()}
        index = theirs["layers.0.residual_group.blocks.0.attn.relative_position_index"]
        assert torch.equal(index, position_index(ours.window_size))


def of_row(entry: ModelEntry) -> dict[str, Any]:
    """The catalogue's parameters, which are upstream's, as ours."""
    row: dict[str, Any] = dict(entry.parameters)
    return {
        "in_chans": row["in_chans"],
        "embed_dim": row["embed_dim"],
        "depths": ",".join(map(str, row["depths"])),
        "num_heads": ",".join(map(str, row["num_heads"])),
        "window_size": row["window_size"],
        "mlp_dim": row["embed_dim"] * row["mlp_ratio"],
        "upscale": row["upscale"],
        "img_range": int(row["img_range"]),
        "upsampler": row["upsampler"],
        "resi_connection": row["resi_connection"],
        "num_feat": 64,
    }


@pytest.mark.parametrize("entry", ROWS.values(), ids=lambda entry: entry.name)
def test_every_row_of_the_catalogue_is_told_from_its_weights(entry: ModelEntry) -> None:
    assert entry.exports
    parameters = of_row(entry)
    with torch.device("meta"):
        network = SwinIR(**parameters)
        state = official(network)
    assert detect(state) == ("SwinIR", parameters)
    if entry.bytes is None:
        return
    # The official file's size leaves room for these very weights, the tables, and zip entries.
    tables = [name for name in state if name.endswith("attn_mask")]
    crop = entry.parameters["img_size"]
    assert isinstance(crop, int)
    side = crop // network.window_size
    stored = sum(t.numel() * t.element_size() for n, t in state.items() if n not in tables)
    stored += len(tables) * side**2 * network.window_size**4 * 4
    assert 0 < entry.bytes - stored < 700 * len(state)


@pytest.mark.parametrize(
    ("parameters", "count"),
    [
        ({}, 11_900_199),
        ({"upscale": 2}, 11_752_487),
        (
            dict(LIGHT, upscale=2, upsampler="pixelshuffledirect"),
            910_152,
        ),
    ],
    ids=["M x4", "M x2", "S x2"],
)
def test_has_the_official_number_of_parameters(parameters: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        assert sum(one.numel() for one in SwinIR(**parameters).parameters()) == count


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_files_come_back(tmp_path: Path, variant: str, form: str) -> None:
    network = swinir(variant)
    path = tmp_path / "net.pth"
    torch.save({"params": official(network)}, path)
    found = read_checkpoint(path)
    if form == "safetensors":
        save_safetensors(found, tmp_path / "net.safetensors")
        found = read_checkpoint(tmp_path / "net.safetensors")
    assert (found.architecture, found.facts.scale) == ("SwinIR", network.upscale)
    assert (found.facts.in_channels, found.facts.out_channels) == (network.num_in_ch,) * 2
    assert found.facts.size_multiple == network.window_size
    picture = torch.rand(2, network.num_in_ch, 9, 5)
    with torch.no_grad():
        assert torch.equal(build(found)(picture), network(picture))


@given(
    channels=st.sampled_from((1, 3)),
    layers=st.lists(st.tuples(st.integers(1, 3), st.sampled_from((1, 2, 3, 6))), min_size=1),
    window=st.integers(2, 9),
    hidden=st.integers(1, 30),
    kind=st.sampled_from((("", 1), ("pixelshuffle", 8), ("pixelshuffle", 3), ("nearest+conv", 4))),
    residual=st.sampled_from(("1conv", "3conv")),
    tables=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_parameters_come_back(
    channels: int,
    layers: list[tuple[int, int]],
    window: int,
    hidden: int,
    kind: tuple[str, int],
    residual: str,
    tables: bool,
) -> None:
    parameters: dict[str, Any] = {
        "in_chans": channels,
        "embed_dim": 12,
        "depths": ",".join(str(depth) for depth, _ in layers[:4]),
        "num_heads": ",".join(str(heads) for _, heads in layers[:4]),
        "window_size": window,
        "mlp_dim": hidden,
        "upscale": kind[1],
        "img_range": 255 if window == 7 else 1,
        "upsampler": kind[0],
        "resi_connection": residual,
        "num_feat": 64 if not kind[0] else 5,
    }
    with torch.device("meta"):
        network = SwinIR(**parameters)
        state = official(network) if tables else network.state_dict()
    assert detect(state) == ("SwinIR", parameters)


def test_the_range_can_be_overruled(tmp_path: Path) -> None:
    path = save_checkpoint(swinir("color jpeg", img_range=1), tmp_path / "net.pth")
    assert read_checkpoint(path).parameters["img_range"] == 255
    assert read_checkpoint(path, parameters={"img_range": 1}).parameters["img_range"] == 1


def test_damage_is_told() -> None:
    state = official(swinir("classical x2"))
    index = "layers.0.residual_group.blocks.0.attn.relative_position_index"
    with pytest.raises(UnknownArchitectureError, match=f"unexpected: {re.escape(index)}"):
        detect(state | {index: state[index].flip(0)})
    table = "layers.1.residual_group.blocks.0.attn.relative_position_bias_table"
    with pytest.raises(UnknownArchitectureError, match=rf"closest is SwinIR.*{re.escape(table)}"):
        detect(state | {table: torch.zeros(225, 7)})
    for name in state:
        if not _TABLE.fullmatch(name):
            rest = {key: tensor for key, tensor in state.items() if key != name}
            with pytest.raises(UnknownArchitectureError, match="SwinIR"):
                identify(rest, architecture="SwinIR")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"embed_dim": 13}, "must be a multiple of each"),
        ({"depths": "2"}, "equal length, got 1 and 2"),
        ({"depths": "2,x"}, "comma-separated integers of at least 1"),
        ({"depths": "2,0"}, "comma-separated integers of at least 1"),
        ({"upsampler": "bicubic"}, "got 'bicubic'"),
        ({"resi_connection": "2conv"}, "got '2conv'"),
        ({"upscale": 5}, "does not support upscale 5"),
        ({"upsampler": ""}, "does not support upscale 2"),
        ({"window_size": 0}, "at least 1"),
    ],
)
def test_refuses_impossible_parameters(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        swinir("classical x2", **wrong)
    with pytest.raises(OptionError, match=told):
        identify(swinir("classical x2").state_dict(), parameters=wrong)


@pytest.mark.parametrize("variant", VARIANTS)
def test_runs_in_half_precision(variant: str) -> None:
    network = swinir(variant)
    picture = torch.rand(2, network.num_in_ch, 19, 9)
    with torch.no_grad():
        exact = network(picture)
        half = with_precision(network, "fp16")(picture.half())
        mixed = with_precision(network, "mixed", picture)(picture)
    assert half.dtype is torch.float16
    assert mixed.dtype is torch.float32
    for found in (half.float(), mixed):
        assert float((found - exact).abs().max()) < 8 / 255


def test_keeps_its_input_and_trains() -> None:
    network = swinir("classical x2").train()
    picture = torch.rand(1, 3, 9, 17)
    before = picture.clone()
    network(picture).square().mean().backward()
    assert torch.equal(picture, before)
    for name, one in network.named_parameters():
        assert one.grad is not None, name
        assert float(one.grad.abs().sum()) > 0, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_passes_the_gate(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap, "measure", lambda *_: ((16, 0.0),))  # not the matter here
    monkeypatch.setattr(costs, "memory_per_pixel", lambda *_: None)
    network = swinir(variant, depths="2", num_heads="2")
    bundle = export(save_checkpoint(network, tmp_path / "net.pth"), store=tmp_path / "store")
    manifest = bundle.manifest
    assert (manifest.scale, manifest.channels) == (network.upscale, network.num_in_ch)
    assert manifest.size_multiple == network.window_size
    assert manifest.parity is not None
    assert (1, 1, 1) in manifest.parity.shapes == parity.SHAPES
    assert manifest.parity.float_max_abs < 2e-5
    # The linear layers' weights stay in the one file that all graphs share.
    weights = sum(p.numel() * 4 for p in network.parameters() if p.numel() >= 256 and p.ndim == 2)
    assert manifest.graphs["float32"].size < 400_000 + weights / 10


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """With everything measured; heads wide enough for TensorRT."""
    folder, made = tmp_path_factory.mktemp("swinir"), {}
    for variant in ("classical x2", "gray jpeg"):
        path = save_checkpoint(swinir(variant), folder / f"{variant[:4]}.pth")
        made[variant] = export(path, store=folder / "store")
    return made


@pytest.mark.parametrize("variant", ["classical x2", "gray jpeg"])
def test_tiled_equals_untiled_at_the_measured_overlap(
    bundles: dict[str, Bundle], variant: str
) -> None:
    bundle = bundles[variant]
    manifest = bundle.manifest
    assert 0 < manifest.overlap < overlap.REACH
    assert manifest.activation_bytes is not None
    picture: Any = draw(150, 173, seed=5)
    if manifest.channels == 1:
        picture = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    with Upscaler(bundle, backend="onnx", tile=512) as whole:
        expected = whole(picture).astype(int)
    least = 2 * -(-manifest.overlap // manifest.size_multiple) * manifest.size_multiple + 24
    for tile in (least, 104):
        with Upscaler(bundle, backend="onnx", tile=tile) as tiled:
            steps = np.abs(tiled(picture) - expected)
        assert steps.max() <= 1
        assert (steps > 0).mean() < 0.05


def test_backends_pad_as_the_network_does(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["classical x2"]
    module = ByteImage(build(read_checkpoint(bundle.path(bundle.manifest.weights)))).eval()
    for height, width in ((1, 1), (9, 30)):
        picture = draw(height, width, seed=2)
        with torch.inference_mode():
            expected = module(torch.from_numpy(picture[None]))[0].numpy().astype(int)
        for backend in ("onnx", "torch"):
            with Upscaler(bundle, backend=backend, device="cpu") as upscaler:
                assert np.abs(upscaler(picture) - expected).max() <= 1


def test_gray_weights_take_gray_pictures_and_refuse_colors(bundles: dict[str, Bundle]) -> None:
    color = draw(20, 30)
    gray = np.asarray(cv2.cvtColor(color, cv2.COLOR_BGR2GRAY))
    three = np.repeat(gray[..., None], 3, axis=2)
    alpha = np.dstack((three, gray))
    with Upscaler(bundles["gray jpeg"], backend="onnx") as upscaler:
        expected = upscaler(gray)
        assert expected.shape == gray.shape
        assert np.array_equal(upscaler(three), np.repeat(expected[..., None], 3, axis=2))
        assert np.array_equal(upscaler(gray[..., None])[..., 0], expected)
        assert upscaler(alpha).shape == alpha.shape
        assert upscaler((gray / np.float32(255)).astype(np.float32)).dtype == np.float32
        assert upscaler(gray.astype(np.uint16) * 257).dtype == np.uint16
        for picture in (color, np.dstack((color, gray)), color.astype(np.uint16) * 257):
            with pytest.raises(ImageError, match=r"model for gray images.*COLOR_BGR2GRAY"):
                upscaler(picture)
        with pytest.raises(ImageError, match="model for gray images"):
            upscaler.batch([gray, color])
        with pytest.raises(ImageError, match="model for gray images"):
            list(upscaler.stream([gray, color]))
    with Upscaler(bundles["classical x2"], backend="onnx") as upscaler:
        assert upscaler(gray).shape == (40, 60)


@pytest.mark.skipif(
    variants.RTX not in variants.installed(), reason="TensorRT-RTX is not installed (extra rtx)"
)
@pytest.mark.parametrize("variant", ["classical x2", "gray jpeg"])
def test_tensorrt_rtx_builds_it_in_fp16(
    bundles: dict[str, Bundle], tmp_path: Path, variant: str
) -> None:
    bundle = replace(bundles[variant], engine_store_folder=tmp_path / "engines")
    options = EngineOptions(variant=variants.RTX, precision="fp16", dtypes=("uint8",), tile=128)
    (built,) = build_engines(bundle, Target(targets=("sm86",)), options)
    assert built.engine.spec.precision == "fp16"
    assert built.engine.graph.psnr >= 45
    assert bundle.engine_store.read(built.engine)[:4] == b"vtrt"


def test_the_network_is_a_module_like_the_others() -> None:
    assert isinstance(swinir("gray jpeg"), nn.Module)
    assert set(dict(swinir("gray jpeg").named_buffers())) == {"_mean", "_index", "_apart"}

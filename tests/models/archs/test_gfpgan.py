from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from resharp import Upscaler
from resharp.engines import Bundle
from resharp.engines.target import choose_tile
from resharp.errors import OptionError, UnknownArchitectureError
from resharp.models import GFPGANv1Clean, NetworkFacts, build, detect, find, read_checkpoint
from resharp.models.archs.gfpgan import ModulatedConv2d
from resharp.models.precision import with_precision
from tests import oracle
from tests.models import face_nets
from tests.models.face_nets import SIDE, faces, needs_rtx, shaken

SMALL = {"num_feat": 32, "num_style_feat": 16, "num_mlp": 2}
VARIANTS = [
    {"out_size": 32, **SMALL},
    {"out_size": 64, "num_feat": 64, "num_style_feat": 24, "num_mlp": 1},
    {"out_size": 128, "num_feat": 64, "num_style_feat": 16, "channel_multiplier": 1, "num_mlp": 1},
]


def tiny(**parameters: int) -> GFPGANv1Clean:
    network = GFPGANv1Clean(**({"out_size": SIDE} | SMALL | parameters))
    shaken(network)
    return network


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return face_nets.exported(tiny(), tmp_path_factory.mktemp("gfpgan"))


@oracle.needs_oracle
@pytest.mark.parametrize("parameters", VARIANTS)
def test_computes_what_spandrel_computes(parameters: dict[str, int]) -> None:
    oracle.load()
    from spandrel.architectures.GFPGAN import GFPGAN

    network = tiny(**parameters)
    other = {key: value for key, value in parameters.items() if key != "num_feat"}
    theirs = GFPGAN(narrow=parameters["num_feat"] / 512, **other).eval()
    theirs.load_state_dict(network.state_dict())
    for count in (1, 3):
        given = faces(count, parameters["out_size"])
        with torch.inference_mode():
            expected = theirs(given, randomize_noise=False)[0]
            found = network(given)
        assert 0.1 < float(expected.std()) < 10
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@oracle.needs_oracle
def test_has_the_official_names_and_shapes() -> None:
    oracle.load()
    from spandrel.architectures.GFPGAN import GFPGAN

    with torch.device("meta"):
        ours, theirs = GFPGANv1Clean().state_dict(), GFPGAN().state_dict()
    assert list(ours) == list(theirs)
    assert all(ours[name].shape == theirs[name].shape for name in ours)


def test_has_as_many_numbers_as_the_official_file() -> None:
    with torch.device("meta"):
        network = GFPGANv1Clean()
    state = network.state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == 87_143_276  # 348.6 MB
    assert sum(one.numel() for one in network.parameters()) == 86_444_252
    assert detect(state) == (
        "GFPGANv1Clean",
        {
            "out_size": 512,
            "num_style_feat": 512,
            "channel_multiplier": 2,
            "num_mlp": 8,
            "num_feat": 512,
        },
    )


@pytest.mark.parametrize("parameters", VARIANTS)
def test_parameters_come_back_from_the_shapes(parameters: dict[str, int]) -> None:
    name, found = detect(tiny(**parameters).state_dict())
    assert name == "GFPGANv1Clean"
    assert found == {"channel_multiplier": 2} | parameters


def test_the_averaged_weights_of_a_file_are_taken(tmp_path: Path) -> None:
    network, other = tiny(), shaken(tiny(), seed=5)
    both = {"params": other.state_dict(), "params_ema": network.state_dict()}
    torch.save(both, tmp_path / "both.pth")
    checkpoint = read_checkpoint(tmp_path / "both.pth")
    assert checkpoint.state_key == "params_ema"
    assert checkpoint.facts == NetworkFacts(
        scale=1,
        in_channels=3,
        out_channels=3,
        size_multiple=1,
        fixed_size=SIDE,
        exporters=("dynamo",),
    )
    assert torch.equal(build(checkpoint)(faces(1)), network(faces(1)))
    torch.save({"params": other.state_dict()}, tmp_path / "one.pth")
    assert torch.equal(build(read_checkpoint(tmp_path / "one.pth"))(faces(1)), other(faces(1)))


def test_damaged_and_foreign_weights_are_named(tmp_path: Path) -> None:
    state = tiny().state_dict()
    del state["stylegan_decoder.noises.noise3"]
    with pytest.raises(UnknownArchitectureError, match=r"missing: stylegan_decoder.noises.noise3"):
        detect(state)
    old = {"conv_body_first.0.weight": state["conv_body_first.weight"]}
    old["stylegan_decoder.constant_input.weight"] = torch.zeros(1, 8, 4, 4)
    with pytest.raises(UnknownArchitectureError, match=r"first GFPGAN .* use gfpgan-v1.3"):
        detect(old)
    torch.save(tiny().state_dict(), tmp_path / "tiny.pth")
    with pytest.raises(UnknownArchitectureError, match="closest is CodeFormer"):
        read_checkpoint(tmp_path / "tiny.pth", architecture="CodeFormer")


def by_weights(conv: ModulatedConv2d, x: Tensor, style: Tensor) -> Tensor:
    """StyleGAN2's own method, in float64 and image by image."""
    out = []
    for one, vector in zip(x.double(), style.double(), strict=True):
        styles = conv.modulation.weight.double() @ vector + conv.modulation.bias.double()
        weight = conv.weight[0].double() * styles[None, :, None, None]
        if conv.demodulate:
            weight = weight * torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True) + 1e-8)
        padding = weight.shape[-1] // 2
        out.append(nn.functional.conv2d(one[None], weight, padding=padding))
    return torch.cat(out)


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 300.0, 3000.0])
def test_styles_of_any_magnitude_survive_half_precision(magnitude: float, demodulate: bool) -> None:
    torch.manual_seed(0)
    conv = ModulatedConv2d(64, 32, 3, 16, demodulate).requires_grad_(False)
    conv.modulation.bias.data.zero_()
    style = torch.randn(3, 16)
    style *= magnitude / (style @ conv.modulation.weight.T).abs().mean()
    x = torch.randn(3, 64, 8, 8)
    expected = by_weights(conv, x, style)
    exact = conv(x, style)
    torch.testing.assert_close(
        exact.double(), expected, rtol=1e-4, atol=float(1e-5 * expected.std())
    )
    half = copy.deepcopy(conv).half()(x.half(), style.half())
    assert half.dtype is (torch.float16 if demodulate else torch.float32)
    error = (half.double() - expected).abs().max() / expected.std()
    assert float(error) < 1e-2
    mixed = copy.deepcopy(conv)
    mixed.half()
    between = mixed(x, style)
    assert between.dtype is torch.float32
    assert float((between.double() - expected).abs().max() / expected.std()) < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 3000.0])
def test_a_whole_network_survives_half_precision(magnitude: float) -> None:
    network = tiny(out_size=64)
    with torch.no_grad():
        largest = network.final_linear.weight.abs().mean()
        network.final_linear.weight.mul_(magnitude / largest / 50)
        network.final_linear.bias.mul_(magnitude)
        expected = network(faces(2, 64))
        found = with_precision(network, "fp16")(faces(2, 64).half())
    assert found.dtype is torch.float32
    assert bool(torch.isfinite(found).all())
    assert float((found - expected).abs().max() / expected.std()) < 3e-2


def test_styles_stay_float32_and_unrounded() -> None:
    network = tiny()
    for half in (network_half(network), with_precision(network, "fp16")):
        face_nets.unrounded(network, half, lambda name: ".modulation." in name)
    mixed = with_precision(network, "mixed", faces(1))
    convolution = mixed.get_submodule("stylegan_decoder.style_convs.0.modulated_conv")
    assert convolution.weight.dtype is torch.float16
    assert convolution.get_parameter("modulation.weight").dtype is torch.float32
    with torch.inference_mode():
        gap = (mixed(faces(2)) - network(faces(2))).abs().max()
    assert 0 < float(gap) < 2e-2


def network_half(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).half()


def test_the_noise_is_the_files_and_the_result_repeats() -> None:
    network = tiny()
    with torch.no_grad():
        first = network(faces(1))
        assert torch.equal(network(faces(1)), first)
        network.stylegan_decoder.noises.get_buffer("noise2").mul_(-1)
        assert not torch.equal(network(faces(1)), first)


def test_every_picture_of_a_batch_is_restored_by_itself() -> None:
    network = tiny()
    with torch.inference_mode():
        batch = network(faces(3))
        alone = torch.cat([network(face[None]) for face in faces(3)])
    torch.testing.assert_close(batch, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [4, 48, 2048])
def test_refuses_impossible_sizes(side: int) -> None:
    with pytest.raises(ValueError, match="power of two from 8 to 1024"):
        GFPGANv1Clean(out_size=side)


def test_takes_and_gives_pictures() -> None:
    facts = find("GFPGANv1Clean").facts({"out_size": SIDE})
    face_nets.check_pictures(tiny(), facts)


def test_the_bundle(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert (manifest.task, manifest.scale, manifest.fixed_size) == ("face", 1, SIDE)
    assert (manifest.overlap, manifest.overlap_curve, manifest.extra) == (0, (), ())
    assert manifest.parity is not None
    assert manifest.parity.shapes == ((1, SIDE, SIDE), (3, SIDE, SIDE))
    assert all(file.size < manifest.weights.size for file in manifest.graphs.values())
    face_nets.check_backends(bundle)
    face_nets.check_refusals(bundle)


def test_is_no_upscaler(bundle: Bundle) -> None:
    text = r"restores faces and does not upscale: use `face`="
    with pytest.raises(OptionError, match=text + "tiny"):
        Upscaler(bundle)
    for name in ("gfpgan-1.4", "GFPGANv1.3", "codeformer", "restoreformer"):
        with pytest.raises(OptionError, match=text):
            Upscaler(name)
    with pytest.raises(OptionError, match="is for face detection and does not upscale"):
        Upscaler("yunet")


def test_an_engine_has_the_one_size(bundle: Bundle) -> None:
    assert choose_tile(bundle.manifest, 1 << 30) == SIDE
    with pytest.raises(OptionError, match="accepts no other size, got 64: leave it out"):
        choose_tile(bundle.manifest, 1 << 30, 64)


@pytest.mark.slow
@needs_rtx
@pytest.mark.parametrize("precision", ["fp16", "mixed"])
def test_tensorrt_builds(bundle: Bundle, precision: str) -> None:
    built = face_nets.build(bundle, precision)
    assert built.engine.spec.targets[0] == "sm75"

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resharp.engines import Bundle, ExtraInput
from resharp.errors import OptionError, UnknownArchitectureError
from resharp.models import CodeFormer, build, detect, find, read_checkpoint
from resharp.models.archs.codeformer import adain
from resharp.models.precision import with_precision
from tests import oracle
from tests.models import face_nets
from tests.models.face_nets import SIDE, faces, needs_rtx, shaken

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "img_size": SIDE,
    "nf": 32,
    "ch_mult": "1,1,2",
    "res_blocks": 1,
    "emb_dim": 32,
    "codebook_size": 64,
    "dim_embd": 32,
    "n_layers": 2,
    "connect": "16,32",
}
ISLANDS = ("position_emb", "encoder.", "ft_layers.", "feat_emb.", "idx_pred_layer.", "quantize.")


def tiny(**parameters: Any) -> CodeFormer:
    network = CodeFormer(**(SMALL | parameters))
    shaken(network)
    with torch.no_grad():
        network.position_emb.normal_()
        network.quantize.embedding.weight.normal_()
    return network


class Seen(Exception):  # noqa: N818 (no error: what follows the look-up is not needed)
    pass


def codes(network: nn.Module, planes: Tensor) -> NDArray[Any]:
    """The codes that a network looks up; it is left there."""
    seen: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])
        raise Seen

    handle = network.get_submodule("quantize.embedding").register_forward_pre_hook(note)
    try:
        with torch.inference_mode():
            network(planes)
    except Seen:
        pass
    finally:
        handle.remove()
    return seen[0].numpy()


def rounded(network: nn.Module) -> nn.Module:
    """A copy without islands: all weights and module outputs are rounded to half.

    Sums within a layer stay float32, as on a GPU's matrix units, and as onnxruntime does it.
    """
    own = copy.deepcopy(network)
    with torch.no_grad():
        for one in own.parameters():
            one.copy_(one.half().float())
    for module in own.modules():
        module.register_forward_hook(_round)
    return own


def _round(module: nn.Module, inputs: tuple[Any, ...], out: Any) -> Any:
    return out.half().float() if isinstance(out, Tensor) and out.is_floating_point() else out


def at(fidelity: float) -> Tensor:
    return torch.tensor([fidelity])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return face_nets.exported(tiny(), tmp_path_factory.mktemp("codeformer"))


def theirs(side: int, **parameters: Any) -> nn.Module:
    """spandrel's CodeFormer, which has 512 written into it at three places, for another size."""
    from spandrel_extra_arches.architectures.CodeFormer import CodeFormer as Theirs

    network = Theirs(latent_size=(side // 32) ** 2, **parameters)
    lookup, codes = network.quantize.get_codebook_feat, side // 32
    network.quantize.get_codebook_feat = lambda indices, shape: lookup(
        indices, [shape[0], codes, codes, shape[3]]
    )
    network.fuse_convs_dict = nn.ModuleDict(
        {str(int(name) * side // 512): block for name, block in network.fuse_convs_dict.items()}
    )
    result: nn.Module = network.eval()
    return result


@oracle.needs_oracle
@pytest.mark.parametrize(
    ("side", "count", "fidelity", "layers"),
    [(64, 1, 0.5, 9), (64, 3, 1.0, 2), (96, 1, 0.0, 2), (128, 1, 0.3, 2)],
)
def test_computes_what_spandrel_computes(
    side: int, count: int, fidelity: float, layers: int
) -> None:
    oracle.load()
    connect = ",".join(str(number * side // 512) for number in (32, 64, 128, 256))
    network = CodeFormer(img_size=side, n_layers=layers, codebook_size=256, connect=connect)
    shaken(network)
    reference = theirs(side, n_layers=layers, codebook_size=256)
    with torch.inference_mode():
        network.position_emb.normal_()
        reference.load_state_dict(network.state_dict())
        given = faces(count, side)
        expected, scores = reference(given, weight=fidelity)
        found = network(given, at(fidelity))
        own = network.logits(network.encoder(given)[0])
    assert 0.1 < float(expected.std()) < 10
    torch.testing.assert_close(own, scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@oracle.needs_oracle
def test_has_the_official_names_and_shapes() -> None:
    oracle.load()
    from spandrel_extra_arches.architectures.CodeFormer import CodeFormer as Theirs

    with torch.device("meta"):
        ours, official = CodeFormer().state_dict(), Theirs().state_dict()
    assert list(ours) == list(official)
    assert all(ours[name].shape == official[name].shape for name in ours)


def test_has_as_many_numbers_as_the_official_file() -> None:
    with torch.device("meta"):
        state = CodeFormer().state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == 94_112_707  # 376.5 MB
    assert detect(state) == ("CodeFormer", find("CodeFormer").official)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"img_size": 64, "ch_mult": "1,2,2,4", "connect": "32", "res_blocks": 2},
        {"img_size": 8, "ch_mult": "2,1", "connect": "8", "n_layers": 1, "dim_embd": 64},
        {"connect": ""},
    ],
)
def test_parameters_come_back_from_the_shapes(parameters: dict[str, Any]) -> None:
    name, found = detect(tiny(**parameters).state_dict())
    assert name == "CodeFormer"
    assert found == SMALL | {"n_head": 8} | parameters


def test_what_weights_do_not_tell_can_be_told(tmp_path: Path) -> None:
    network = tiny(n_head=4)
    torch.save({"params_ema": network.state_dict()}, tmp_path / "four.pth")
    checkpoint = read_checkpoint(tmp_path / "four.pth", parameters={"n_head": 4})
    assert checkpoint.facts.extra == (("fidelity", 0.5),)
    assert torch.equal(build(checkpoint)(faces(1)), network(faces(1)))
    other = build(read_checkpoint(tmp_path / "four.pth"))
    assert not torch.equal(other(faces(1)), network(faces(1)))


def test_damaged_weights_are_named() -> None:
    state = tiny().state_dict()
    state["fuse_convs_dict.16.scale.0.weight"] = torch.zeros(3)
    text = r"wrong shape: fuse_convs_dict.16.scale.0.weight is \[3\]"
    with pytest.raises(UnknownArchitectureError, match=text):
        detect(state)


def test_fidelity_moves_the_result_and_0_moves_nothing() -> None:
    network = tiny()
    with torch.inference_mode():
        results = [network(faces(1), at(number)) for number in (0.0, 0.5, 1.0)]
        assert torch.equal(network(faces(1)), results[1])
        for name, parameter in network.fuse_convs_dict.named_parameters():
            if name.endswith("scale.2.weight"):
                parameter.add_(1)
        again = [network(faces(1), at(number)) for number in (0.0, 1.0)]
    assert torch.equal(again[0], results[0])
    assert all(float((one - results[0]).abs().max()) > 1e-2 for one in (*results[1:], again[1]))


def test_every_picture_may_have_its_own_fidelity() -> None:
    network = tiny()
    with torch.inference_mode():
        both = network(faces(2), torch.tensor([0.0, 1.0]))
        alone = [network(faces(2)[i : i + 1], at(float(i))) for i in range(2)]
    torch.testing.assert_close(both, torch.cat(alone), rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp16", "mixed"])
def test_no_token_flips_in_half_precision(precision: str) -> None:
    """Not even where two codes are as good as equal: what decides is bit for bit the same."""
    network = tiny(codebook_size=256, n_layers=4)
    with torch.no_grad():
        network.idx_pred_layer.get_parameter("1.weight").mul_(1e-5)
    other = with_precision(network, precision, faces(1))
    assert isinstance(other, CodeFormer)
    given = faces(3, seed=4)
    with torch.inference_mode():
        exact = network.logits(network.encoder(given)[0])
        found = other.logits(other.encoder(given)[0])
        gap = other(given, at(0.5)).float() - network(given, at(0.5))
    assert torch.equal(found, exact)
    assert 0 < float(gap.abs().max()) < 5e-2


def test_codes_flip_if_all_of_it_is_half() -> None:
    """So the islands are needed."""
    network = tiny(codebook_size=256)
    with torch.no_grad():  # pairs of codes that are as good as equal
        weight = network.idx_pred_layer.get_parameter("1.weight")
        weight[1::2] = weight[::2] + torch.randn(weight[::2].shape) * 1e-5
    exact = codes(network, faces(3))
    assert np.array_equal(codes(with_precision(network, "fp16"), faces(3)), exact)
    assert np.mean(codes(rounded(network), faces(3)) != exact) > 0.1


def test_what_chooses_the_codes_stays_float32_and_unrounded() -> None:
    network = tiny()
    half = copy.deepcopy(network).half()
    # The norm before the generator's last convolution has a number for a name.
    islands = (*ISLANDS, f"generator.blocks.{len(network.generator.blocks) - 2}.")
    face_nets.unrounded(network, half, lambda name: name.startswith(islands) or "norm" in name)
    half.float()
    assert torch.equal(half.position_emb, network.position_emb)


def test_adain_gives_mean_and_deviation() -> None:
    content, style = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4) * 5 + 7
    out = adain(content, style)
    torch.testing.assert_close(out.mean((2, 3)), style.mean((2, 3)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.std((2, 3)), style.std((2, 3)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"connect": "8"}, r"have the sizes \[32, 16, 8\], got \[8\]"),
        ({"img_size": 30}, "have the sizes"),
        ({"n_head": 5}, "must be a multiple of 5 heads"),
    ],
)
def test_refuses_impossible_parameters(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CodeFormer(**(SMALL | wrong))


def test_takes_and_gives_pictures() -> None:
    face_nets.check_pictures(tiny(), find("CodeFormer").facts(SMALL))


def test_the_bundle(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert (manifest.task, manifest.scale, manifest.fixed_size) == ("face", 1, SIDE)
    assert manifest.extra == (ExtraInput(name="fidelity", default=0.5, low=0.0, high=1.0),)
    assert manifest.parity is not None
    assert manifest.parity.shapes == ((1, SIDE, SIDE), (3, SIDE, SIDE))
    for fidelity in (0.0, 0.7):
        face_nets.check_backends(bundle, {"fidelity": fidelity})
    face_nets.check_refusals(bundle)


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_the_fidelity_of_a_run(bundle: Bundle, name: str) -> None:
    batch = face_nets.crops(2)
    none, half, full = (
        face_nets.as_run(bundle, name, batch, extra)
        for extra in (None, {"fidelity": 0.5}, {"fidelity": 1.0})
    )
    np.testing.assert_array_equal(none, half)
    assert not np.array_equal(half, full)
    for wrong in (-0.1, 1.1, float("nan"), "1"):
        extra: Any = {"fidelity": wrong}
        with pytest.raises(OptionError, match=r"`fidelity` must be between 0 and 1"):
            face_nets.as_run(bundle, name, batch, extra)


@needs_rtx
def test_tensorrt_builds(bundle: Bundle) -> None:
    """Not for Turing: TensorRT-RTX has no fp32 matrix product there, and says so."""
    built = face_nets.build(bundle)
    assert built.engine.spec.precision == "fp16"
    assert built.engine.spec.targets == ("sm80", "sm86", "sm89", "sm120")
    again = face_nets.build(bundle)
    assert again.skipped

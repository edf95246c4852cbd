from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from resharp.engines import Bundle
from resharp.errors import UnknownArchitectureError
from resharp.models import RestoreFormer, build, detect, find, read_checkpoint
from resharp.models.precision import with_precision
from tests import oracle
from tests.models import face_nets
from tests.models.face_nets import SIDE, faces, needs_rtx, shaken

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "resolution": SIDE,
    "ch": 32,
    "ch_mult": "1,2",
    "num_res_blocks": 1,
    "n_embed": 64,
    "embed_dim": 32,
    "z_channels": 32,
}
VARIANTS: list[dict[str, Any]] = [
    SMALL,
    SMALL | {"resolution": 64, "ch_mult": "1,2,2", "num_res_blocks": 2},
    SMALL | {"resolution": 128, "ch_mult": "1,1,2,2", "embed_dim": 24, "z_channels": 40},
]
ISLANDS = ("encoder.", "quantize.", "quant_conv.")


def tiny(**parameters: Any) -> RestoreFormer:
    network = RestoreFormer(**(SMALL | parameters))
    shaken(network)
    with torch.no_grad():
        network.quantize.embedding.weight.normal_()
    return network


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return face_nets.exported(tiny(), tmp_path_factory.mktemp("restoreformer"))


@oracle.needs_oracle
@pytest.mark.parametrize("parameters", VARIANTS)
def test_computes_what_spandrel_computes(parameters: dict[str, Any]) -> None:
    oracle.load()
    from spandrel.architectures.RestoreFormer import RestoreFormer as Theirs

    network = tiny(**parameters)
    widths = tuple(int(number) for number in parameters["ch_mult"].split(","))
    smallest = parameters["resolution"] >> len(widths) - 1
    reference = Theirs(**(parameters | {"ch_mult": widths, "attn_resolutions": (smallest,)})).eval()
    reference.load_state_dict(network.state_dict())
    for count in (1, 3):
        given = faces(count, parameters["resolution"])
        with torch.inference_mode():
            expected, found = reference(given)[0], network(given)
        assert 0.1 < float(expected.std()) < 10
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@oracle.needs_oracle
def test_has_the_official_names_and_shapes() -> None:
    oracle.load()
    from spandrel.architectures.RestoreFormer import RestoreFormer as Theirs

    with torch.device("meta"):
        ours, official = RestoreFormer().state_dict(), Theirs().state_dict()
    assert list(ours) == list(official)
    assert all(ours[name].shape == official[name].shape for name in ours)


def test_has_as_many_numbers_as_the_official_file() -> None:
    with torch.device("meta"):
        state = RestoreFormer().state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == 72_680_003  # 290.7 MB
    assert detect(state) == ("RestoreFormer", find("RestoreFormer").official)
    prefixed = {f"vqvae.{name}": tensor for name, tensor in state.items()}
    prefixed["loss.logvar"] = torch.zeros(())
    assert detect(prefixed) == ("RestoreFormer", find("RestoreFormer").official)


@pytest.mark.parametrize("parameters", VARIANTS)
def test_parameters_come_back_from_the_shapes(parameters: dict[str, Any]) -> None:
    name, found = detect(tiny(**parameters).state_dict())
    assert name == "RestoreFormer"
    told = {key: value for key, value in found.items() if key not in ("resolution", "head_size")}
    assert told == {key: value for key, value in parameters.items() if key != "resolution"}
    assert found["resolution"] == 16 << parameters["ch_mult"].count(",")


def test_the_authors_own_file(tmp_path: Path) -> None:
    network = tiny()
    state = {f"vqvae.{name}": tensor for name, tensor in network.state_dict().items()}
    state["loss.perceptual_loss.lin0.weight"] = torch.ones(3)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.ckpt")
    checkpoint = read_checkpoint(tmp_path / "last.ckpt")
    assert checkpoint.state_key == "state_dict"
    assert torch.equal(build(checkpoint)(faces(1)), network(faces(1)))


def test_damaged_weights_are_named() -> None:
    state = tiny().state_dict()
    del state["decoder.up.1.attn.0.q.weight"]
    text = r"missing: decoder.up.1.attn.0.q.weight"
    with pytest.raises(UnknownArchitectureError, match=text):
        detect(state)


@pytest.mark.parametrize("precision", ["fp16", "mixed"])
def test_no_code_flips_in_half_precision(precision: str) -> None:
    network = tiny(n_embed=256)
    with torch.no_grad():  # codes that are as good as equal
        network.quantize.embedding.weight.mul_(1e-4).add_(0.3)
    other = with_precision(network, precision, faces(1))
    assert isinstance(other, RestoreFormer)
    given = faces(3, seed=4)
    with torch.inference_mode():
        exact, found = (
            one.quantize(one.quant_conv(one.encoder(given)[0]), one.side)
            for one in (network, other)
        )
        gap = other(given).float() - network(given)
    assert torch.equal(found, exact)
    assert 0 < float(gap.abs().max()) < 5e-2


def test_what_chooses_the_codes_stays_float32_and_unrounded() -> None:
    network = tiny()
    half = copy.deepcopy(network).half()
    face_nets.unrounded(network, half, lambda name: name.startswith(ISLANDS) or "norm" in name)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"resolution": 30, "ch_mult": "1,1,1"}, "cannot be halved 2 times"),
        ({"head_size": 7}, "not a multiple of 7 heads"),
    ],
)
def test_refuses_impossible_parameters(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RestoreFormer(**(SMALL | wrong))


def test_takes_and_gives_pictures() -> None:
    face_nets.check_pictures(tiny(), find("RestoreFormer").facts({"resolution": SIDE}))


def test_the_bundle(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert (manifest.task, manifest.scale, manifest.fixed_size) == ("face", 1, SIDE)
    assert manifest.extra == ()
    face_nets.check_backends(bundle)
    face_nets.check_refusals(bundle)


@needs_rtx
def test_tensorrt_builds(bundle: Bundle) -> None:
    built = face_nets.build(bundle)
    assert built.engine.spec.precision == "fp16"
    assert "sm75" not in built.engine.spec.targets

"""Checkpoints of other trainers: dicts in dicts, prefixes, averages, and what is no network."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from resharp.errors import CheckpointError, UnknownArchitectureError
from resharp.models import build, read_checkpoint
from resharp.models.unwrap import candidates
from tests.models.nets import community_names, release_names, rrdbnet, run, srvgg
from tests.shared import SHARED

CASES = SHARED.parent / "cases" / "checkpoints"
PLAIN, MEAN = srvgg(seed=1), srvgg(seed=2)
OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 1e-4}]}
KEYS = ("netG", "weights", "state_dict", "params", "model", "net_g", "anything", "best one")
PREFIXES = (
    *("netG.", "net_g.", "generator.", "generator_ema.", "model.", "module.", "_orig_mod."),
    "sr_network.",
)


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def plain(prefix: str = "") -> dict[str, Tensor]:
    return under(prefix, PLAIN.state_dict())


def mean(prefix: str = "") -> dict[str, Tensor]:
    return under(prefix, MEAN.state_dict())


def discriminator(prefix: str = "") -> dict[str, Tensor]:
    """The names and ranks of Real-ESRGAN's U-Net with spectral normalization, and few channels."""
    state = {"conv0.weight": torch.zeros(2, 3, 3, 3), "conv0.bias": torch.zeros(2)}
    for index in range(1, 9):
        state[f"conv{index}.weight_orig"] = torch.zeros(2, 2, 4 if index < 4 else 3, 3)
        state[f"conv{index}.weight_u"] = torch.zeros(2)
    state |= {"conv9.weight": torch.zeros(1, 2, 3, 3), "conv9.bias": torch.zeros(1)}
    return under(prefix, state)


def read(content: Any, folder: Path) -> Any:
    torch.save(content, folder / "net.pth")
    return read_checkpoint(folder / "net.pth")


FILES: dict[str, tuple[Any, nn.Module, str]] = {
    "a dict of one entry": ({"netG": plain()}, PLAIN, "netG"),
    "any key": ({"my weights": plain()}, PLAIN, "my weights"),
    "two levels": ({"state_dict": {"params_ema": mean()}}, MEAN, "state_dict.params_ema"),
    "four levels": ({"a": {"b": {"params": {"c": plain()}}}}, PLAIN, "a.b.params.c"),
    "MMagic": (
        {
            "meta": {"epoch": 1},
            "state_dict": plain("generator.")
            | mean("generator_ema.")
            | discriminator("discriminator.")
            | {"step_counter": torch.tensor(5), "data_preprocessor.mean": torch.zeros(3, 1, 1)},
        },
        MEAN,
        "state_dict.generator_ema",
    ),
    "mmengine's average": (
        {"state_dict": plain("generator.") | under("generator_ema.", mean("module."))}
        | {"steps": torch.tensor(3)},
        MEAN,
        "state_dict.generator_ema",
    ),
    "Lightning": (
        {
            "epoch": 3,
            "pytorch-lightning_version": "2.0",
            "state_dict": plain("model.net_g.")
            | discriminator("model.net_d.")
            | {"model.loss_vgg.features.0.weight": torch.zeros(2, 3, 3, 3)},
            "optimizer_states": [OPTIMIZER],
            "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        },
        PLAIN,
        "state_dict.model.net_g",
    ),
    "torch.compile inside": (
        {name.replace("body.", "body._orig_mod."): tensor for name, tensor in plain().items()},
        PLAIN,
        "",
    ),
    "FSDP and compile": (
        {"model": plain("_orig_mod._fsdp_wrapped_module.module.")},
        PLAIN,
        "model",
    ),
    "AveragedModel": (
        {"model": plain(), "swa": mean("module.") | {"n_averaged": torch.tensor(4)}},
        MEAN,
        "swa",
    ),
    "ema_pytorch": (
        plain("online_model.") | mean("ema_model.") | {"initted": torch.tensor(True)},
        MEAN,
        "ema_model",
    ),
    "an average by another name": ({"model": plain(), "ema_model": mean()}, MEAN, "ema_model"),
    "an average in a dict": (
        {"net": plain(), "ema": {"state_dict": mean()}},
        MEAN,
        "ema.state_dict",
    ),
    "an average next to the names": (plain() | mean("ema."), MEAN, "ema"),
    "a step": (plain() | {"step": torch.tensor(7), "epoch": 2}, PLAIN, ""),
    "steps and figures": (
        plain() | {"iter": torch.tensor([7.0]), "best_psnr": torch.tensor(31.5)},
        PLAIN,
        "",
    ),
    "an optimizer": ({"netG": plain(), "optimizer": OPTIMIZER, "scheduler": {}}, PLAIN, "netG"),
    "an optimizer whose names are the network's": (
        {"weights": plain(), "optimizer": {"momentum": mean()}},
        PLAIN,
        "weights",
    ),
    "a discriminator": ({"netD": discriminator(), "netG": plain()}, PLAIN, "netG"),
    "a discriminator of the same names": ({"D": mean(), "G": plain()}, PLAIN, "G"),
    "one object under two keys": (
        dict.fromkeys(("params", "params_ema"), plain()),
        PLAIN,
        "params_ema",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_the_weights_are_found(tmp_path: Path, kind: str) -> None:
    content, network, key = FILES[kind]
    found = read(content, tmp_path)
    assert (found.architecture, found.state_key) == ("SRVGGNetCompact", key)
    assert torch.equal(run(build(found)), run(network))


def test_prefixes_of_safetensors_are_found(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = plain("generator.") | mean("generator_ema.") | {"step": torch.tensor(7)}
    save_file(state, tmp_path / "net.safetensors")
    assert torch.equal(run(build(read_checkpoint(tmp_path / "net.safetensors"))), run(MEAN))


@settings(max_examples=60, deadline=None)
@given(
    keys=st.lists(st.sampled_from(KEYS), max_size=3),
    prefixes=st.lists(st.sampled_from(PREFIXES), max_size=4),
    naming=st.sampled_from(("official", "release", "community", "compact")),
    beside=st.sampled_from(({}, {"step": torch.tensor(1)}, {"epoch": 3, "optimizer": OPTIMIZER})),
)
def test_wrappers_come_off_in_any_order(
    tmp_path_factory: pytest.TempPathFactory,
    keys: list[str],
    prefixes: list[str],
    naming: str,
    beside: dict[str, Any],
) -> None:
    network: nn.Module = srvgg() if naming == "compact" else rrdbnet()
    renamed = {"release": release_names, "community": community_names}.get(naming, dict)
    content: Any = under("".join(prefixes), renamed(network.state_dict()))
    for key in keys:
        content = {key: content | beside}
    found = read(content, tmp_path_factory.mktemp("wrapped"))
    assert torch.equal(run(build(found)), run(network))


def test_the_first_names_of_esrgan_are_no_prefix() -> None:
    """``model.0.weight`` is a name: the whole comes before what is behind ``model.``."""
    first, second, *_ = candidates(community_names(rrdbnet().state_dict()))
    assert "model.0.weight" in first.tensors
    assert "0.weight" in second.tensors


NOTES: dict[str, tuple[Any, str]] = {
    "keys": (
        {"params": plain(), "params_ema": mean()},
        "uses the averaged weights (EMA) params_ema, not params",
    ),
    "prefixes": (
        plain("generator.") | mean("generator_ema."),
        "uses the averaged weights (EMA) generator_ema, not generator",
    ),
    "no prefix": (
        {"model": plain(), "ema": mean()},
        "uses the averaged weights (EMA) ema, not model",
    ),
    "an average in a callback": (
        {
            "state_dict": plain("model.module.netG."),
            "callbacks": {"EMA": {"ema_weights": mean("netG.")}},
        },
        "uses the averaged weights (EMA) callbacks.EMA.ema_weights.netG, not state_dict.model.netG",
    ),
    "a broken average": (
        {"params": plain(), "params_ema": dict(list(mean().items())[:-1])},
        "uses params: the averaged weights params_ema fit no known network (these weights fit",
    ),
    "an average without names": (
        {"params": plain(), "ema": {name.replace(".", ""): one for name, one in mean().items()}},
        "uses params: the averaged weights ema fit no known network (its names are unknown)",
    ),
}


@pytest.mark.parametrize("kind", NOTES)
def test_the_choice_is_said(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    content, said = NOTES[kind]
    with caplog.at_level(logging.INFO, "resharp.models"):
        found = read(content, tmp_path)
    (note,) = found.notes
    assert note.startswith(said)
    assert f"net.pth: {note}" in caplog.text


@pytest.mark.parametrize("content", [plain(), {"params_ema": mean()}, {"netG": plain("module.")}])
def test_nothing_is_said_where_there_is_no_choice(tmp_path: Path, content: Any) -> None:
    assert read(content, tmp_path).notes == ()


def patch_gan() -> dict[str, Tensor]:
    widths = (3, 4, 8, 8, 1)
    pairs = pairwise(widths)
    return {f"model.{3 * n}.weight": torch.zeros(o, i, 4, 4) for n, (i, o) in enumerate(pairs)}


VGG_STYLE = {
    "conv0_0.weight": torch.zeros(4, 3, 3, 3),
    "bn0_1.weight": torch.zeros(4),
    "linear1.weight": torch.zeros(9, 16),
    "linear2.weight": torch.zeros(1, 9),
}
OLD_VGG = {
    "features.0.weight": torch.zeros(4, 3, 3, 3),
    "features.2.weight": torch.zeros(4, 4, 4, 4),
    "classifier.0.weight": torch.zeros(9, 4),
    "classifier.2.weight": torch.zeros(1, 9),
}
NEW_SPECTRAL = {
    "head.weight": torch.zeros(4, 3, 3, 3),
    "down.parametrizations.weight.original": torch.zeros(4, 4, 4, 4),
    "down.parametrizations.weight.0._u": torch.zeros(4),
    "tail.weight": torch.zeros(1, 4, 3, 3),
}
STYLE = {"final_conv.0.weight": torch.zeros(4, 5, 3, 3), "final_linear.1.weight": torch.zeros(1, 4)}
TAKE_THE_GENERATOR = r"a discriminator, which is only used for training: use the generator's file"


@pytest.mark.parametrize(
    "content",
    [
        *(discriminator(), {"params": discriminator()}, {"params": discriminator("module.")}),
        *(discriminator("net_d."), {"netD": discriminator()}, {"state_dict": {"netD": plain()}}),
        *(VGG_STYLE, OLD_VGG, NEW_SPECTRAL, STYLE, patch_gan(), under("netD.", patch_gan())),
        {"netD": discriminator(), "optimizer": OPTIMIZER},
        discriminator() | {"step": torch.tensor(2)},
    ],
)
def test_a_discriminator_is_named(tmp_path: Path, content: Any) -> None:
    with pytest.raises(CheckpointError, match=TAKE_THE_GENERATOR) as caught:
        read(content, tmp_path)
    assert "net_g" in str(caught.value)
    assert "spandrel" not in str(caught.value)


def test_networks_of_losses_are_named(tmp_path: Path) -> None:
    vgg = {"features.0.weight": torch.zeros(4, 3, 3, 3), "classifier.6.weight": torch.zeros(20, 4)}
    with pytest.raises(UnknownArchitectureError, match="a classification network") as caught:
        read(vgg, tmp_path)
    assert "spandrel" not in str(caught.value)
    with pytest.raises(UnknownArchitectureError, match="LPIPS"):
        read({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, tmp_path)


REFUSED: dict[str, tuple[Any, str]] = {
    "a training state": (
        {"epoch": 3, "iter": torch.tensor(9), "optimizers": [OPTIMIZER], "schedulers": []},
        "has no weights, found epoch, iter, optimizers.*training state.*net_g_latest",
    ),
    "an optimizer": (OPTIMIZER, "is the state of an optimizer"),
    "only counters": ({"step": torch.tensor(3)}, "has no weights, found step"),
    "two networks": ({"netG_A": plain(), "netG_B": mean()}, r"several networks \(netG_A, netG_B\)"),
    "two averages": (
        {"ema_0.99": plain(), "ema_0.999": mean()},
        r"several networks \(ema_0.99, ema_0.999\)",
    ),
    "integers": (
        {name: (tensor * 100).to(torch.int8) for name, tensor in plain().items()},
        r"integers \(torch.int8\): the weights are quantized",
    ),
    "twice": (plain() | plain("module."), "contains body.0.weight twice"),
    "a scale of its own": (plain() | {"scale": torch.tensor(0.2)}, "unexpected: scale"),
    "a part of its own": (plain() | {"body.0.step": torch.tensor(1)}, "unexpected: body.0.step"),
    "an unknown prefix": (plain("a.") | mean("b."), "belong to no known network.*found a.body"),
    "an incomplete network": (
        {"netG": dict(list(plain().items())[:-1])},
        r"missing: body\.6\.bias",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_used_says_why(tmp_path: Path, kind: str) -> None:
    content, said = REFUSED[kind]
    with pytest.raises(CheckpointError, match=said) as caught:
        read(content, tmp_path)
    assert str(tmp_path / "net.pth") in str(caught.value)


def test_dicts_within_dicts_come_to_an_end() -> None:
    """A file of a few hundred bytes can hold a dict in itself, or more dicts than there is time."""
    ring: dict[str, Any] = {"step": 1}
    ring["again"] = ring
    assert candidates(ring) == []
    many: dict[str, Any] = {"a": 1}
    for _ in range(60):
        many = {str(index): many for index in range(10)}
    assert candidates(many) == []


@pytest.mark.shared
@pytest.mark.skipif(not CASES.is_dir(), reason=f"no files in {CASES.name}")
@pytest.mark.parametrize(
    ("name", "key"),
    [
        *(("extra.pth", ""), ("lightning.ckpt", "state_dict.net_g"), ("netG.pth", "netG")),
        *(("mmagic.pth", "state_dict.generator_ema"), ("netG_prefix.pth", "netG")),
        *(("mmagic_noema.pth", "state_dict.generator"),),
        ("nested_state.pth", "state_dict.params_ema"),
    ],
)
def test_reported_files_load(name: str, key: str) -> None:
    """Each is an RRDBNet; its tensors are compared with those that torch itself reads."""
    found = read_checkpoint(CASES / name)
    assert (found.architecture, found.state_key) == ("RRDBNet", key)
    content = torch.load(CASES / name, weights_only=True)
    for one in key.split("."):
        content = content.get(one, content)
    prefix = "" if key.rpartition(".")[2] in ("params_ema", "") else key.rpartition(".")[2] + "."
    stored = content.get(prefix + "conv_last.weight", content.get("conv_last.weight"))
    assert torch.equal(found.state["conv_last.weight"], stored)


@pytest.mark.shared
@pytest.mark.skipif(not CASES.is_dir(), reason=f"no files in {CASES.name}")
def test_the_reported_discriminator_is_named() -> None:
    with pytest.raises(UnknownArchitectureError, match=TAKE_THE_GENERATOR):
        read_checkpoint(CASES / "disc.pth")

"""Implementations under test, opened in this process: all give the same image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resharp import models
from resharp.bench.cases import Case
from resharp.bench.implementations import Implementation, open_implementation, resharp_backends
from resharp.bench.implementations.upstream import FALLBACK_TILE, UpstreamScript
from resharp.bench.parity_check import exact_result, image_difference
from resharp.bench.random_models import SPREAD, _normalize, make_random_model
from resharp.drawing import draw
from resharp.engines import Bundle
from resharp.errors import OptionError
from resharp.runtime.backends import base
from tests.bench.fake_machine import Clock
from tests.conftest import random_network


def case(subject: str, **options: object) -> Case:
    return Case(model="tiny", subject=subject, height=70, width=90, **options)  # type: ignore[arg-type]


def opened(subject: str, bundle: Bundle, **options: object) -> Implementation:
    if subject == "ncnn":
        pytest.importorskip("ncnn", reason="ncnn is not installed")
        pytest.importorskip("pnnx", reason="pnnx is not installed")
    elif subject == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
    return open_implementation(case(subject, **options), bundle)


@pytest.mark.parametrize("kind", ["compact", "rrdb4"])
@pytest.mark.parametrize("subject", ["onnx", "torch", "upstream", "onnxruntime", "pytorch"])
def test_every_subject_gives_the_exact_picture(
    tiny: dict[str, Bundle], kind: str, subject: str
) -> None:
    picture = draw(70, 90)
    wanted, how = exact_result(tiny[kind], picture)
    assert how == "torch fp32 on cpu, whole image"
    with opened(subject, tiny[kind]) as one:
        assert image_difference(one(picture), wanted)["levels"] <= 1
        actual = one.actual(picture)
        assert (actual.device, actual.windows, actual.pixels) == ("cpu", 1, 70 * 90)


@pytest.mark.parametrize("subject", ["openvino", "ncnn"])
@pytest.mark.filterwarnings("ignore")  # theirs
def test_further_baselines_give_the_exact_picture(compact: Bundle, subject: str) -> None:
    picture = draw(70, 90)
    with opened(subject, compact, threads=1) as one:
        assert image_difference(one(picture), exact_result(compact, picture)[0])["levels"] <= 1


def test_without_torch_the_exact_picture_is_onnxruntimes(
    compact: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    picture = draw(40, 50)
    found, how = exact_result(compact, picture)
    monkeypatch.undo()
    assert how == "onnxruntime fp32, whole image"
    assert image_difference(found, exact_result(compact, picture)[0])["levels"] <= 1


def test_a_case_runs_with_its_own_settings(compact: Bundle) -> None:
    picture = draw(70, 90)
    with opened("onnx", compact, tile=48, threads=1) as one:
        actual = one.actual(picture)
        assert actual.tile == 48
        assert actual.windows is not None
        assert actual.windows > 4
        assert actual.pixels is not None
        assert actual.pixels <= 48 * 48
        assert (actual.backend, actual.lanes, actual.batch) == ("onnx", 1, 1)
        one.stream([picture] * 2)


def test_the_stages_of_a_picture_add_up(compact: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """By made-up times: the network takes 5 s of a tile, cutting one again 1 s, the rest 100 s."""
    picture, clock = draw(200, 300), Clock()
    with opened("onnx", compact, tile=64) as one:
        assert isinstance(one, resharp_backends.ResharpBackend)
        upscaler, backend = one._upscaler, one._upscaler._backend
        tiles = one.actual(picture).windows
        assert tiles is not None
        assert tiles > 4
        infer, cut, whole = type(backend).infer, base.cut, type(upscaler).__call__

        def slow_infer(*args: Any, **options: Any) -> Any:
            clock.now += 5
            return infer(*args, **options)

        def slow_cut(*args: Any) -> Any:
            clock.now += 1
            return cut(*args)

        def slow_whole(*args: Any) -> Any:
            clock.now += 100
            return whole(*args)

        monkeypatch.setattr(resharp_backends, "time", clock)
        monkeypatch.setattr(resharp_backends, "cut", slow_cut)
        monkeypatch.setattr(type(backend), "infer", slow_infer)
        monkeypatch.setattr(type(upscaler), "__call__", slow_whole)
        found = one.split(picture)
        assert (found["upload"], found["compute"]) == (tiles, 5 * tiles)
        assert found["download"] == 100 - tiles
        assert "clock" in found["by"]
        one(picture)  # the clock around the network is gone
        assert "infer" not in vars(backend)


def test_overlapping_kernels_count_once() -> None:
    spans = [("gemm", 5.0, 7.0), ("conv", 0.0, 2.0), ("conv", 1.0, 3.0), ("Memcpy HtoD", 0.0, 9.0)]
    assert resharp_backends.union(spans, ()) == 5
    assert resharp_backends.union(spans, ("Memcpy HtoD",)) == 9
    assert resharp_backends.union([], ()) == 0


def test_the_script_tiles_as_it_does(tiny: dict[str, Bundle]) -> None:
    picture, network = draw(70, 90), random_network("compact")
    whole = UpstreamScript(network, 2, device="cpu", half=False)(picture)
    tiled = UpstreamScript(network, 2, device="cpu", half=False, tile=32)
    assert (
        image_difference(tiled(picture), whole)["levels"] <= 1
    )  # 10 pixels suffice for 5 convolutions
    assert (tiled.actual(picture).windows, tiled.actual(picture).tile) == (9, 32)


def test_the_script_falls_back_to_tiles_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network("compact")
    upstream = UpstreamScript(network, 2, device="cpu", half=False)
    forward, calls = network.forward, list[int]()

    def cramped(planes: torch.Tensor) -> torch.Tensor:
        calls.append(planes.shape[3])
        if planes.shape[3] > FALLBACK_TILE + 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        result: torch.Tensor = forward(planes)
        return result

    monkeypatch.setattr(network, "forward", cramped)
    assert upstream(draw(20, 600)).shape == (40, 1200, 3)
    assert upstream.tile == FALLBACK_TILE
    upstream(draw(20, 600))
    assert [width > FALLBACK_TILE + 20 for width in calls].count(True) == 1


def test_a_stand_in_fills_the_picture() -> None:
    torch.manual_seed(2)
    network = models.RRDBNet(num_block=1, scale=4).eval()
    _normalize(network, "conv_last")
    result = models.ByteImage(network).eval()(torch.from_numpy(draw(40, 40))[None])
    assert abs(float(result.float().std()) / 255 - SPREAD) < 0.08
    assert 60 < result.float().mean() < 200


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "stand-in odd: architecture must be one of RRDBNet, .*, got None"),
        ({"architecture": "VGG"}, "architecture must be one of RRDBNet, .*, got 'VGG'"),
        ({"architecture": "RRDBNet", "parameters": {"blocks": 1}}, "stand-in odd: .*'blocks'"),
        (
            {"architecture": "RRDBNet", "parameters": {"num_block": 1}, "last": "end"},
            "stand-in odd: .*end",
        ),
    ],
)
def test_a_stand_in_that_cannot_be_is_refused(
    data: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=message):
        make_random_model("odd", data, tmp_path)


def test_likeness_sees_what_is_off() -> None:
    picture = draw(20, 30)
    assert image_difference(picture, picture) == {"psnr": 200.0, "levels": 0, "differing": 0.0}
    off = picture.copy()
    off[3, 4, 1] ^= 64
    found = image_difference(off, picture)
    assert found["levels"] == 64
    assert found["differing"] == pytest.approx(1 / picture.size)
    assert found["psnr"] == pytest.approx(10 * np.log10(255**2 * picture.size / 64**2))
    assert image_difference(picture[:-1], picture)["psnr"] == 0.0
    assert image_difference(255 - picture, picture)["psnr"] < 20

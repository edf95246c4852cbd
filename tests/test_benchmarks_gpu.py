"""What of the GPU benchmark can be tested without a GPU: everything but the times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks import gpu, gpu_measure
from benchmarks.gpu import Case, cases, likeness, rrdb
from benchmarks.upstream import FALLBACK_TILE, Upstream, flops
from resharp import Upscaler, models, trt
from resharp.engines import Bundle
from resharp.drawing import draw
from resharp.runtime.devices import CudaError, gpus
from tests.conftest import random_network


@pytest.mark.parametrize("kind", ["compact", "rrdb4"])
def test_upstream_gives_the_same_picture(tiny: dict[str, Bundle], kind: str) -> None:
    picture, scale = draw(70, 90), tiny[kind].manifest.scale
    upstream = Upstream(random_network(kind), scale, device="cpu", half=False)
    with Upscaler(tiny[kind], backend="torch", device="cpu") as upscaler:
        assert likeness(upstream.fit(picture), upscaler(picture))[1] <= 1


def test_upstream_tiles_as_the_script_does() -> None:
    picture, network = draw(70, 90), random_network("compact")
    whole = Upstream(network, 2, device="cpu", half=False)(picture)
    tiled = Upstream(network, 2, device="cpu", half=False, tile=32)(picture)
    assert likeness(whole, tiled)[1] <= 1  # 10 pixels are enough for five convolutions


def test_upstream_falls_back_to_tiles_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network("compact")
    upstream = Upstream(network, 2, device="cpu", half=False)
    forward, calls = network.forward, list[int]()

    def cramped(planes: torch.Tensor) -> torch.Tensor:
        calls.append(planes.shape[3])
        if planes.shape[3] > FALLBACK_TILE + 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        result: torch.Tensor = forward(planes)
        return result

    monkeypatch.setattr(network, "forward", cramped)
    assert upstream.fit(draw(20, 600)).shape == (40, 1200, 3)
    assert upstream.tile == FALLBACK_TILE
    upstream.fit(draw(20, 600))
    assert [width > FALLBACK_TILE + 20 for width in calls].count(True) == 1


def test_flops_are_those_of_the_convolutions() -> None:
    network = models.SRVGGNetCompact(num_feat=8, num_conv=2, upscale=2)
    each = 2 * 9 * (3 * 8 + 2 * 8 * 8 + 8 * 12)
    assert flops(network, 30, 20) == each * 600
    assert not next(network.parameters()).is_meta
    upsampling = models.RRDBNet(num_feat=4, num_block=1, num_grow_ch=2, scale=2, unshuffle=1)
    assert flops(upsampling, 10, 10) > flops(upsampling, 10, 9)


def test_the_random_networks_fill_the_picture() -> None:
    for case in cases(None):
        assert case.least > 1
    result = models.ByteImage(rrdb(blocks=1)).eval()(torch.from_numpy(draw(40, 40))[None])
    assert result.float().std() > 25
    assert 60 < result.float().mean() < 200


def test_a_checkpoints_case_does_not_take_its_name_in_the_catalogue() -> None:
    assert cases(Path("realesr-animevideov3.pth"))[0].name == "srvgg-realesr-animevideov3"


def test_overlapping_kernels_count_once() -> None:
    assert gpu_measure.union([(5, 7), (0, 2), (1, 3), (1, 2)]) == 5
    assert gpu_measure.union([]) == 0


def test_without_a_gpu_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = CliRunner().invoke(gpu.main, ["--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "finds no usable NVIDIA GPU" in done.output
    assert not (tmp_path / "out").exists()


def _driver() -> bool:
    try:
        return bool(gpus())
    except CudaError:
        return False


class NoMemory:
    def taken(self) -> tuple[float, float]:
        return 1.0, 2.0


def test_the_whole_run_with_the_cpu_in_the_gpus_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Case(name="tiny", make=lambda: random_network("compact"), height=40, width=50, least=3)
    wrong = Case(name="rrdb", make=lambda: random_network("rrdb4"), height=9, width=9, least=9e9)
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(gpu, "Memory", NoMemory)
    monkeypatch.setattr(gpu, "facts", lambda: {"gpu": "NVIDIA H200 (x1)"})
    monkeypatch.setattr(gpu, "matrix_rate", lambda: 1e12)
    monkeypatch.setattr(gpu, "network_seconds", lambda *args: 1.0)
    monkeypatch.setattr(gpu, "kernel_seconds", lambda work: None)
    monkeypatch.setattr(gpu, "cases", lambda checkpoint: (small, wrong))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    done = CliRunner().invoke(gpu.main, ["--out", str(tmp_path), "--quick"])
    assert done.exit_code == 0, done.output
    data = json.loads((tmp_path / "gpu-nvidia-h200-x1.json").read_text())
    kinds = [(row["case"], row["backend"]) for row in data["rows"]]
    assert ("tiny", "upstream") in kinds
    assert ("tiny", "torch") in kinds
    assert ("rrdb", "onnx-cuda") in kinds
    assert "tiny, tensorrt" in data["summary"]
    if trt.RTX in trt.installed() and not _driver():
        refused = data["summary"]["tiny, tensorrt_rtx"]
        assert "no engine was built: --gpu 0: Error: there is no GPU 0 here" in refused
        assert "--gpu current: Error: --gpu current is for the GPUs of this machine" in refused
    assert data["summary"]["rrdb, torch: at least 9e+09 x upstream"].startswith("MISSED")
    assert data["summary"]["tiny, torch: single at most 1.10 x device"].startswith("met")
    assert data["summary"]["tiny, onnx-cuda: single at most 1.10 x device"].startswith("not")


def test_a_backend_that_is_off_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(gpu, "Memory", NoMemory)
    monkeypatch.setattr(gpu, "matrix_rate", lambda: 1e12)
    monkeypatch.setattr(gpu, "BACKENDS", {"torch": "torch"})
    exact = gpu.Bench._reference
    monkeypatch.setattr(gpu.Bench, "_reference", lambda self: 255 - exact(self))
    case = Case(name="off", make=lambda: random_network("compact"), height=20, width=20, least=3)
    rows, summary = gpu.measure((case,), quick=True)
    assert [row["backend"] for row in rows] == ["upstream"]
    assert "dB from FP32" in summary["off, torch"]

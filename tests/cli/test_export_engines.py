"""``export-engines`` and ``engines`` with real TensorRT-RTX builds, and the choice of GPUs."""

from __future__ import annotations

import errno
import json
import os
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resharp.engines import Bundle, Engine, ParityResult
from resharp.engines.target import NAMED, choose_targets
from resharp.errors import BackendError, OptionError
from resharp.export import ExportOptions, export
from resharp.gpu import tensorrt as trt
from resharp.gpu.devices import CudaError, Gpu
from tests.cli.commands import call
from tests.conftest import random_network, save_checkpoint
from tests.fakes import fake_cuda

needs_rtx = pytest.mark.skipif(
    trt.RTX not in trt.installed(), reason="TensorRT-RTX is not installed (extra rtx)"
)
QUICK = ("--gpu", "sm86", "--dtype", "uint8", "--variant", "tensorrt_rtx")
L4, L4_TOO, H100, T4, LATER = (
    Gpu(0, "NVIDIA L4", "8.9", 24 << 30),
    Gpu(1, "NVIDIA L4", "8.9", 24 << 30),
    Gpu(2, "NVIDIA H100 80GB HBM3", "9.0", 80 << 30),
    Gpu(3, "Tesla T4", "7.5", 16 << 30),
    Gpu(2, "a later GPU", "13.0", 80 << 30),
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESHARP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RESHARP_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[Gpu]:
    """GPUs of a machine that has none; add some."""
    here: list[Gpu] = []
    for module in (
        "engines.target",
        "cli.doctor",
        "runtime.fallback",
        "runtime.backends.tensorrt.backend",
    ):
        monkeypatch.setattr(f"resharp.{module}.gpus", lambda: tuple(here))
        monkeypatch.setattr(f"resharp.{module}.driver_version", lambda: "13.0", raising=False)
    return here


def rows(output: str) -> list[list[str]]:
    """The table's, without its headings."""
    lines = output.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("model "))
    assert lines[start].split() == ["model", "GPU", "dtype", "precision", "seconds", "MB", "parity"]
    return [line.split() for line in lines[start + 1 :]]


@pytest.mark.slow
@needs_rtx
def test_without_a_model_the_built_in_one_for_every_kind_of_gpu(home: Path) -> None:
    code, output = call("export-engines", "--variant", "tensorrt_rtx")
    assert code == 0, output
    first, second = rows(output)
    assert first[:4] == ["resharp-x4", "+".join(NAMED), "uint8", "fp16"]
    assert second[2] == "float32"
    assert 0 < float(first[4]) < 10
    assert 0.5 < float(first[5]) < 5
    assert float(first[6]) > 60
    assert "(graph, on the CPU)" in output
    assert "Building engine" in output
    files = sorted(path.suffix for path in (home / "store/resharp-x4/engines").glob("[!.]*"))
    assert files == [".engine", ".engine", ".json", ".json", ".npz"]
    code, output = call("export-engines", "--variant", "tensorrt_rtx")
    assert code == 0
    assert [row[4] for row in rows(output)] == ["done", "done"]
    assert "is already built" in output
    cv2.imwrite("photo.png", np.full((200, 200, 3), 99, np.uint8))
    code, output = call("export-engines", "--variant", "tensorrt_rtx", "--image", "photo.png")
    assert "--image was not used: add --force" in output
    code, output = call("export-engines", "--variant", "tensorrt_rtx", "--force")
    assert code == 0
    assert "done" not in [row[4] for row in rows(output)]


@needs_rtx
def test_options_reach_the_engine(home: Path) -> None:
    options = ("--precision", "mixed", "--tile", "200", "--batch", "2", "--optimization-level", "1")
    code, output = call("export-engines", "resharp-x4", *QUICK, *options)
    assert code == 0, output
    (engine,) = stored("resharp-x4")
    recipe = engine["spec"]
    assert recipe["precision"] == "mixed"
    assert recipe["profile"] == {"smallest": 16, "tile": 200, "batch": 2}
    assert (recipe["targets"], recipe["dtype"]) == (["sm86"], "uint8")
    assert recipe["options"]["level"] == 1


def stored(name: str) -> list[dict[str, Any]]:
    """Sidecars of a bundle's engines."""
    listed = json.loads(call("engines", "list", "--json")[1])
    return next(item["engines"] for item in listed if item["name"] == name)


@pytest.mark.slow
@needs_rtx
def test_engines_are_listed_verified_pruned_and_removed(home: Path) -> None:
    for precision in ("fp16", "fp32"):
        assert call("export-engines", *QUICK, "--precision", precision)[0] == 0
    code, output = call("engines", "list")
    assert code == 0
    assert output.count("tensorrt_rtx 1.") == 2
    assert "uint8 fp16" in output
    code, output = call("engines", "verify")
    assert (code, output.count("ok  ")) == (0, 3)
    path = sorted((home / "store/resharp-x4/engines").glob("*.engine"))[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    code, output = call("engines", "verify")
    assert code == 1
    assert f"{path} is damaged" in output
    code, output = call("engines", "prune")
    assert code == 0
    assert f"{path} is damaged" in output
    assert len(stored("resharp-x4")) == 1
    assert call("engines", "prune") == (0, "nothing to remove\n")
    code, output = call("models", "remove", "resharp-x4")
    assert code == 1
    assert "'resharp engines prune resharp-x4' with --all removes its engines" in output
    code, output = call("engines", "prune", "resharp-x4", "--all")
    assert (code, output) == (0, "resharp-x4: 1 TensorRT engines removed\n")
    assert list((home / "store/resharp-x4/engines").glob("[!.]*")) == []


@pytest.mark.slow
@needs_rtx
def test_a_model_that_is_not_exported_yet_is_exported_first_and_old_engines_are_pruned() -> None:
    save_checkpoint(random_network("compact"), Path("net.pth"))
    assert call("models", "import", "net.pth", "--name", "mine")[0] == 0
    code, output = call("export-engines", "mine", *QUICK)
    assert code == 0, output
    assert "mine is not exported yet: exporting it first" in output
    other = random_network("compact")
    next(other.parameters()).data.mul_(0.5)
    save_checkpoint(other, Path("other.pth"))
    export("other.pth", ExportOptions(name="mine", force=True))
    code, output = call("engines", "prune")
    assert code == 0
    assert "built from an older export" in output
    assert stored("mine") == []


@needs_rtx
def test_all_goes_on_after_a_damaged_model_and_fails_at_the_end(
    compact: Bundle, home: Path
) -> None:
    shutil.copytree(compact.folder, home / "store" / "compact")
    bad = home / "store" / "bad"
    shutil.copytree(compact.folder, bad)
    graph = bad / compact.manifest.graphs["uint8"].name
    graph.write_bytes(graph.read_bytes()[:-1] + b"?")
    code, output = call("export-engines", "--all", *QUICK)
    assert code == 1
    assert {row[0] for row in rows(output.partition("Error:")[0])} == {"resharp-x4", "compact"}
    assert "some models failed" in output
    assert "bad: " in output
    assert "is damaged" in output


@needs_rtx
def test_what_was_built_before_a_failure_is_in_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def spoil(infer: Any, reference: Any, dtype: str) -> ParityResult:
        return ParityResult(
            psnr=70.0 if dtype == "uint8" else 1.0, levels=1, passed=dtype == "uint8"
        )

    monkeypatch.setattr("resharp.export.engine.build.compare", spoil)
    code, output = call("export-engines", *QUICK, "--dtype", "both")
    assert code == 1
    assert [row[2] for row in rows(output.partition("Error:")[0])] == ["uint8"]
    assert "trying mixed" in output
    assert "float32 fp32 for sm86: the graph reaches only 1.0 dB" in output


@needs_rtx
def test_a_full_disk_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, output = call("export-engines", *QUICK)
    assert code == 1
    assert "No space left on device" in output
    assert [p.name for p in (home / "store/resharp-x4/engines").iterdir()] == [".locks"]


@needs_rtx
def test_a_gpu_that_can_run_it_checks_it(
    machine: list[Gpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine += [T4, L4]
    asked = []

    def check(bundle: Bundle, engine: Engine, index: int) -> ParityResult:
        asked.append((engine.spec.targets, index))
        return ParityResult(psnr=51.5, levels=1, passed=True)

    monkeypatch.setattr("resharp.runtime.backends.tensorrt.check_engine", check)
    code, output = call("export-engines", *QUICK, "--gpu", "sm86,sm89")
    assert code == 0, output
    assert asked == [(("sm86", "sm89"), 0)]
    assert "51.5 dB (on the GPU)" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gpu", "sm99"), "cannot build for sm99"),
        (("--gpu", "portable,sm86"), "cannot be combined"),
        (("--gpu", "sm75", "--precision", "bf16"), "no bf16"),
        (("--gpu", "all"), "name the targets instead"),
        (("--gpu", "current"), "requires a GPU in this machine"),
        (("--gpu", "0"), "requires a GPU in this machine"),
        (("--tile", "20"), "must be at least"),
        (("--tile", "99999"), "at most 4096"),
        (("--all", "--denoise", "0.5"), "--denoise requires exactly one model"),
        (("--batch", "0"), "--batch must be an integer between 1 and 64, got 0"),
        (
            ("--optimization-level", "7"),
            "--optimization-level must be an integer between 0 and 5, got 7",
        ),
        (("--image", "nothere.png"), "nothere.png"),
        (("--denoise", "0.5"), "denoise"),
        (("nothere",), "no model is called 'nothere'"),
        (("resharp-x4", "--all"), "not both"),
    ],
)
@needs_rtx
def test_what_cannot_be_built_says_so_and_writes_nothing(
    arguments: tuple[str, ...], message: str, home: Path
) -> None:
    code, output = call("export-engines", "--variant", "tensorrt_rtx", *arguments)
    assert code == 1
    assert message in output
    assert not list(home.rglob("*.engine"))


def test_without_tensorrt_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt, "installed", lambda: ())
    code, output = call("export-engines")
    assert code == 1
    assert "pip install 'resharp[gpu]'" in output
    assert "pip install 'resharp[rtx]'" in output


def names(asked: str | None, variant: str = trt.RTX) -> list[tuple[str, int | None]]:
    return [(target.label, target.index) for target in choose_targets(asked, variant)]


def test_targets_of_tensorrt_rtx(machine: list[Gpu]) -> None:
    every = "+".join(NAMED)
    assert names(None) == [(every, None)]
    machine += [L4, L4_TOO]
    assert names(None) == [(every, 0)]
    machine.append(LATER)
    assert names(None) == [(every, 0), ("portable", 2)]
    assert [t.memory >> 30 for t in choose_targets(None, trt.RTX)] == [24, 80]
    assert [t.memory >> 30 for t in choose_targets("sm120", trt.RTX)] == [8]
    assert names("all") == [("sm89", 0), ("portable", 2)]
    assert names("2") == [("portable", 2)]
    assert names("sm120") == [("sm120", None)]
    (target,) = choose_targets("current", trt.RTX)
    assert (target.targets, target.gpu, target.index) == (("current",), "NVIDIA L4", 0)
    assert names("SM86, sm89") == [("sm86+sm89", 0)]
    for asked in (",", "sm86,,,sm99", "1,x"):
        with pytest.raises(OptionError):
            names(asked)
    assert names("sm120,sm75") == names("sm75, sm120,") == [("sm75+sm120", None)]
    machine[:] = [Gpu(0, "NVIDIA GB10", "12.1", 1 << 37), Gpu(1, "Tesla V100", "7.0", 1 << 34)]
    assert names(None) == [(every, None), ("sm121", 0)]
    with pytest.raises(OptionError, match=r"does not support Tesla V100"):
        names("1")
    machine[:] = [L4, L4_TOO, H100]
    with pytest.raises(OptionError, match="this machine has 0 NVIDIA L4, 1 NVIDIA L4, 2 NVIDIA H"):
        names("5")


def test_tensorrt_rtx_is_not_offered_for_a_gpu_that_it_refuses(
    machine: list[Gpu], caplog: pytest.LogCaptureFixture
) -> None:
    told = r"does not support NVIDIA H100 80GB HBM3 \(compute capability 9.0\): use TensorRT "
    machine.append(H100)
    for asked in (None, "0", "all", "current"):
        with pytest.raises(OptionError, match=f"{told}.* or torch.*`gpu`='sm86,sm89'"):
            names(asked)
    assert names("sm86") == [("sm86", None)]
    machine.append(L4)
    assert names(None) == [("+".join(NAMED), 0)]
    assert names("all") == [("sm89", 0)]
    assert "does not support NVIDIA H100" in caplog.text
    with pytest.raises(OptionError, match=told):
        names("0,1")


def test_export_engines_and_doctor_tell_the_owner_of_an_h100(
    machine: list[Gpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.append(H100)
    loaded: list[str] = []
    monkeypatch.setattr(trt, "installed", lambda: (trt.RTX,))
    monkeypatch.setattr(trt, "load", loaded.append)
    monkeypatch.setattr(import_module("resharp.deploy"), "require", loaded.append)
    told = "TensorRT-RTX does not support NVIDIA H100 80GB HBM3 (compute capability 9.0)"
    for arguments in ((), ("--gpu", "0"), ("--gpu", "all"), ("--gpu", "current")):
        code, output = call("export-engines", *arguments)
        assert code == 1
        assert told in output
    assert loaded == []  # at once, without PyTorch
    code, output = call("doctor")
    assert f"tensorrt on cuda: skipped ({told}: use TensorRT" in output
    assert f"driver for CUDA 13.0; {told}" in output
    assert loaded == []
    monkeypatch.setattr(trt, "installed", lambda: ())
    output = call("doctor")[1]
    assert "pip install 'resharp[gpu]'" in output
    assert "resharp[rtx]" not in output
    machine[:] = [Gpu(0, "Tesla V100", "7.0", 1 << 34)]
    output = call("doctor")[1]
    assert "does not support compute capability 7.0: use torch" in output


def test_targets_of_tensorrt(machine: list[Gpu], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=r"shows no GPU.*`variant`='tensorrt_rtx'"):
        names("all", trt.TENSORRT)
    machine += [L4, L4_TOO, H100, T4]
    assert names(None, trt.TENSORRT) == [("NVIDIA L4", 0)]
    assert names("all", trt.TENSORRT) == [
        ("NVIDIA L4", 0),
        ("NVIDIA H100 80GB HBM3", 2),
        ("Tesla T4", 3),
    ]
    (target,) = choose_targets("3", trt.TENSORRT)
    assert (target.gpu, target.capability, target.driver) == ("Tesla T4", "7.5", "13.0")
    assert target.memory == 16 << 30
    assert target.targets == ()
    for asked in ("sm86", "-1", "0,x", ""):
        with pytest.raises(OptionError):
            names(asked or ",", trt.TENSORRT)

    def none() -> tuple[Gpu, ...]:
        raise CudaError("no NVIDIA driver")

    monkeypatch.setattr("resharp.engines.target.gpus", none)
    with pytest.raises(BackendError, match=r"this machine has none .no NVIDIA driver"):
        names(None, trt.TENSORRT)


ON_THE_SECOND = """
import ctypes, sys
from types import SimpleNamespace
from click.testing import CliRunner
from resharp.gpu import tensorrt as trt
from resharp.cli import main
from resharp.engines import ParityResult
from resharp.export.engine import build as build_module
from resharp.runtime.backends import tensorrt

def build(*_, **__):
    device = ctypes.c_int(-1)
    code = ctypes.CDLL("libcuda.so.1").cuCtxGetDevice(ctypes.byref(device))
    print("built on", device.value, "code", code)
    return b"an engine"

trt.installed = lambda: ("tensorrt",)
trt.load = lambda variant: SimpleNamespace(__version__="11.4.0")
build_module.build = build
def check(bundle, engine, index):
    print("checked on", index)
    return ParityResult(psnr=60.0, levels=1, passed=True)

tensorrt.check_engine = check
done = CliRunner().invoke(main, ["export-engines", "--gpu", "1", "--dtype", "uint8"])
print(done.output, done.exception)
"""


@pytest.mark.slow
@pytest.mark.parametrize("provider", ["cuda-python", "pycuda"])
def test_tensorrt_builds_on_the_gpu_that_was_asked_for(
    provider: str, home: Path, tmp_path: Path
) -> None:
    if fake_cuda.compiler() is None:
        pytest.skip("no C compiler to make a fake CUDA driver with")
    pytest.importorskip("pycuda" if provider == "pycuda" else "cuda.bindings")
    driver = fake_cuda.build(tmp_path / "driver")
    settings = {"FAKE_CUDA_DEVICES": "2", "RESHARP_CUDA": provider, "PYTHONWARNINGS": "ignore"}
    done = fake_cuda.run(ON_THE_SECOND, driver, **settings)
    assert "built on 1 code 0" in done.stdout, done.stderr
    assert "checked on 1" in done.stdout
    assert done.live == fake_cuda.NOTHING_LIVE
    sidecar = next((home / "store/resharp-x4/engines").glob("[!.]*.json"))
    assert json.loads(sidecar.read_text())["spec"]["gpu"] == "Fake GPU"

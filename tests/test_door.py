"""The public functions: what they are called, what they take, and what type checkers refuse."""

from __future__ import annotations

import inspect
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import resharp
from resharp import Ensemble, RestoreConfig, Upscaler, VideoOptions, restore_folder, restore_video
from resharp.deploy import build_engines, export_model
from resharp.engines import Bundle
from resharp.engines.target import Target
from resharp.errors import BuildError, OptionError, ParityError, ResharpError
from resharp.export import ExportOptions
from resharp.export.engine import EngineOptions
from resharp.faces import FaceRestorer
from resharp.gpu import tensorrt
from resharp.models.precision import PRECISIONS
from resharp.pipeline.model_cache import Loader
from resharp.pipeline.restorer import RestoreOptions, config_from, devices_of
from resharp.runtime.fallback import BACKENDS
from resharp.types import BackendName, EnginePrecision, Progress, Variant
from resharp.video.options import CODECS, CodecName
from resharp.video.run import _fraction as fraction


def parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters) - {"self"}


def test_the_options_of_a_config_are_those_of_the_functions() -> None:
    names = {one.name for one in fields(RestoreConfig)}
    assert set(RestoreOptions.__annotations__) == names
    assert not names & parameters(restore_folder)
    assert not names & parameters(restore_video)
    assert {one.name for one in fields(VideoOptions)} <= parameters(restore_video)
    assert {one.name for one in fields(ExportOptions)} - {"builtin"} <= parameters(export_model)
    assert {one.name for one in fields(EngineOptions)} <= parameters(build_engines)


def test_the_literals_name_what_there_is() -> None:
    assert set(get_args(BackendName)) == {"auto", *BACKENDS}
    assert set(get_args(EnginePrecision)) == {*PRECISIONS}
    assert get_args(Variant) == tensorrt.VARIANTS
    assert set(get_args(CodecName)) == {"auto", *CODECS}


@pytest.mark.parametrize("kind", [Upscaler, Ensemble, FaceRestorer, Loader])
def test_one_vocabulary(kind: type[Any]) -> None:
    for name in ("__call__", "batch", "stream", "close"):
        assert callable(getattr(kind, name))
    assert "progress" in parameters(kind.__call__)
    assert {"size", "progress"} <= parameters(kind.batch)
    assert "ahead" in parameters(kind.stream)


def test_type_checkers_refuse_what_does_not_exist(compact: Bundle, tmp_path: Path) -> None:
    """Each ``type: ignore`` here is an error of mypy, which warns of those that are not needed."""
    wrong = (OptionError, ValueError, ResharpError)
    with pytest.raises(wrong):
        Upscaler(compact, backend="trt")  # type: ignore[arg-type]
    with pytest.raises(wrong):
        Upscaler(compact, precision="fp16")  # type: ignore[arg-type]
    with pytest.raises(wrong):
        Upscaler(compact, tile="huge")  # type: ignore[arg-type]
    with pytest.raises(wrong):
        Ensemble([], tta=3)  # type: ignore[arg-type]
    with pytest.raises(wrong):
        build_engines(compact, variant="rtx")  # type: ignore[arg-type]
    with pytest.raises(wrong):
        restore_video("in.mp4", "out.mp4", codec="vp9")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="modle"):
        restore_folder(tmp_path, tmp_path / "out", modle="x")  # type: ignore[call-arg]


def test_progress_may_be_any_callable(compact: Bundle) -> None:
    seen: list[tuple[float, float]] = []

    class Bar:
        def __call__(self, done: float, total: float) -> None:
            seen.append((done, total))

    def show(done: float, total: float) -> None:
        seen.append((done, total))

    image = np.zeros((8, 9, 3), np.uint8)
    ways: list[Progress] = [Bar(), show, lambda done, total: seen.append((done, total))]
    with Upscaler(compact, backend="onnx") as upscaler:
        for progress in ways:
            upscaler(image, progress=progress)
    assert seen == [(1, 1)] * 3


def test_paths_are_taken_as_they_come(tmp_path: Path) -> None:
    config = config_from(None, {"store": tmp_path, "weights_dir": tmp_path, "face": "codeformer"})
    assert (config.store, config.weights_dir) == (str(tmp_path), str(tmp_path))
    with pytest.raises(OptionError, match="either `config` or scale, tta, not both"):
        config_from(config, {"scale": 2, "tta": 8})


@pytest.mark.parametrize(
    ("device", "found"),
    [
        ("auto", ["auto"]),
        ("cuda:1", ["cuda:1"]),
        ("cuda:0,2", ["cuda:0", "cuda:2"]),
        ("cuda: 0, 1", ["cuda:0", "cuda:1"]),
    ],
)
def test_devices(device: str, found: list[str]) -> None:
    assert devices_of(device) == found


def test_one_failed_target_of_several_is_named_and_the_others_are_built(
    compact: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = [Target(targets=("sm86",)), Target(targets=("sm89",)), Target(targets=("sm120",))]
    bad = {"sm89"}

    def build(bundle: Bundle, target: Target, options: Any, **how: Any) -> tuple[Any, ...]:
        if target.targets[0] in bad:
            raise ParityError("12.0 dB from fp32")
        how["done"](target.targets[0])
        return (target.targets[0],)

    monkeypatch.setattr("resharp.deploy.choose_targets", lambda gpu, variant: targets)
    monkeypatch.setattr(tensorrt, "pick", lambda variant: "tensorrt_rtx")
    monkeypatch.setattr("resharp.export.engine.build_engines", build)
    done: list[Any] = []
    with pytest.raises(ParityError, match=r"compact for sm89: 12\.0 dB"):
        build_engines(compact, on_built=done.append)
    assert done == ["sm86", "sm120"]
    bad.add("sm120")
    with pytest.raises(BuildError, match=r"compact for sm89: .*\ncompact for sm120: "):
        build_engines(compact, gpu=["sm86", "sm89", "sm120"])
    bad.clear()
    assert len(build_engines(compact, gpu="sm86,sm89,sm120")) == 3
    assert resharp.build_engines is build_engines


@pytest.mark.parametrize(
    "options",
    [
        {"scale": 0},
        {"tile": 0},
        {"memory_fraction": 9},
        {"tta": True},
        {"tta": 3},
        {"device": "nonsense"},
        {"device": "cuda:0,x"},
        {"device": "cuda:0,"},
        {"backend": "trt"},
    ],
)
def test_a_config_refuses_what_no_run_could_take(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        RestoreConfig(**options)


def test_frame_rates_may_be_numbers(tmp_path: Path) -> None:
    assert fraction("fps", 29.97, 100_000) == Fraction(2997, 100)
    assert fraction("fps", 60000 / 1001, 100_000) == Fraction(60000, 1001)
    assert fraction("fps", 24, 100_000) == 24
    for bad in (float("nan"), float("inf"), "x"):
        with pytest.raises(OptionError, match="`fps` must be a finite number"):
            restore_video(tmp_path / "in.mp4", tmp_path / "out.mp4", fps=bad)  # type: ignore[arg-type]


def test_a_loader_takes_a_config_too(compact: Bundle) -> None:
    with Loader(RestoreConfig(model=str(compact.folder), backend="onnx")) as loader:
        assert loader(np.zeros((8, 9, 3), np.uint8)).shape == (16, 18, 3)


def test_an_ensemble_of_one_reports_too(compact: Bundle) -> None:
    seen: list[tuple[float, float]] = []
    with Ensemble([Upscaler(compact, backend="onnx")]) as one:
        one(np.zeros((8, 9, 3), np.uint8), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 1)]

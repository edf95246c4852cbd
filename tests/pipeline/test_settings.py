from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resharp import Upscaler
from resharp.engines import Bundle
from resharp.errors import BundleError, OptionError, OutputError, ResharpError
from resharp.pipeline.settings import Settings
from resharp.runtime.bundle_lookup import model_info
from resharp.runtime.tiling.bands import choose_tiling
from tests.cli.commands import call
from tests.conftest import random_network

OWN = Settings(
    model='a "name"\\ é', tile=256, scale=2.5, memory_fraction=0.7, threads=3, denoise=0.5
)
toml = pytest.mark.skipif(sys.version_info < (3, 11), reason="TOML needs tomli before Python 3.11")


@pytest.mark.parametrize("name", ["own.json", pytest.param("own.TOML", marks=toml)])
@pytest.mark.parametrize("settings", [Settings(), OWN])
def test_what_is_saved_is_loaded(tmp_path: Path, name: str, settings: Settings) -> None:
    path = tmp_path / name
    settings.save(path)
    assert Settings.load(path) == settings
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.json", pytest.param("a.toml", marks=toml)])
def test_paths_and_numbers_of_numpy_are_kept(tmp_path: Path, name: str) -> None:
    given: dict[str, Any] = {"store": tmp_path, "scale": np.float32(2), "tile": np.int64(96)}
    Settings(**given).save(tmp_path / name)
    found = Settings.load(tmp_path / name)
    assert found == Settings(store=str(tmp_path), scale=2.0, tile=96)


def test_a_store_folder_that_is_none() -> None:
    with pytest.raises(OptionError, match="`store` must be a folder, got 3"):
        Upscaler(**asdict(Settings(store=3)))  # type: ignore[arg-type]


def test_they_open_an_upscaler(compact: Bundle) -> None:
    settings = Settings(model=str(compact.folder), backend="onnx", scale=3)
    with settings.upscaler() as upscaler:
        assert (upscaler.scale, upscaler.backend) == (3, "onnx")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "cannot read"),
        ("a.json", "[]", "must be a table"),
        ("a.json", '{"tiles": 3}', "unknown option 'tiles'; known are model, backend"),
        pytest.param("a.toml", "tile = ", "cannot read", marks=toml),
        ("a.yaml", "", "file, got 'a.yaml'"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(OptionError, match=message):
        Settings.load(tmp_path / name)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot read"):
        Settings.load(tmp_path / "none.json")
    with pytest.raises(OutputError, match="cannot write"):
        Settings().save(tmp_path / "none" / "a.json")


def test_a_write_that_fails_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    OWN.save(path)

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError):
        Settings().save(path)
    assert Settings.load(path) == OWN
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("memory", [0, -1, 1.5, "half", None, True, float("nan")])
def test_a_share_that_is_none(compact: Bundle, memory: Any) -> None:
    with pytest.raises(OptionError, match="memory_fraction"):
        Upscaler(compact, memory_fraction=memory)


def test_the_share_limits_the_tile(compact: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with Upscaler(compact, memory_fraction=0.7) as upscaler:
        backend = upscaler._backend
        monkeypatch.setattr(backend, "free_memory", lambda: backend.memory(256) * 2)
        sizes = [choose_tiling(backend, None, share).size for share in (0.1, 0.5, 0.7, 1)]
    assert sizes == sorted(sizes)
    assert sizes[1] == 256
    assert sizes[0] < 256 < sizes[3]


def test_facts_of_a_model(compact: Bundle) -> None:
    info = model_info(compact)
    network = random_network("compact")
    assert info.parameters == sum(p.numel() for p in network.parameters())
    assert (info.name, info.scale, info.architecture) == ("compact", 2, "SRVGGNetCompact")
    assert info.memory_per_megapixel == round((compact.manifest.activation_bytes or 0) * 1e6)
    assert info.bytes > 4 * info.parameters
    assert info.engines == 0
    assert json.loads(json.dumps(info.to_dict()))["license"] == info.license


def test_facts_of_the_built_in_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESHARP_HOME", str(tmp_path))
    info = model_info()
    assert info.parameters > 100_000
    assert info.task == "upscale"
    code, output = call("info", "--json")
    assert code == 0
    assert json.loads(output) == [info.to_dict()]
    code, output = call("info")
    assert f"{info.parameters:,} parameters" in output
    assert "license: BSD-3-Clause" in output
    code, output = call("info", "nothere")
    assert code == 1
    assert "no model is called 'nothere'" in output


def test_weights_that_are_none(compact: Bundle, tmp_path: Path) -> None:
    (tmp_path / compact.manifest.weights.name).write_bytes(b"\xff" * 100)
    with pytest.raises(BundleError, match="is damaged"):
        model_info(replace(compact, folder=tmp_path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tile": 1.5}, "tile must be an integer or 'auto' or 'whole', got 1.5"),
        ({"tile": True}, "tile must be an integer or 'auto' or 'whole', got True"),
        ({"backend": "cuda"}, "backend must be 'auto', 'tensorrt', 'torch' or 'onnx', got 'cuda'"),
        ({"model": None}, "model must be a string, got None"),
        ({"model": ["a"]}, r"model must be a string, got \['a'\]"),
        ({"scale": "2"}, "scale must be a number, got '2'"),
        ({"scale": 10**400}, "cannot read|scale must be a number"),
        ({"threads": 2.5}, "threads must be an integer, got 2.5"),
        ({"memory_fraction": float("nan")}, "memory_fraction must be a number, got nan"),
        ({"store": 3}, "store must be a string, got 3"),
        ({"precision": True}, "precision must be 'auto' or 'fp32', got True"),
    ],
)
def test_a_value_of_another_type(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(values))
    with pytest.raises(OptionError, match=message):
        Settings.load(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "[" * 200_000),
        ("a.json", '{"tile":' * 200_000),
        ("a.json", "\ufeff{"),
        pytest.param("a.toml", "tile = " + "[" * 200_000, marks=toml),
        pytest.param("a.toml", "tile = 1979-05-27", marks=toml),
        pytest.param("a.toml", "scale = inf", marks=toml),
        pytest.param("a.toml", "a." * 2000 + "b = 1", marks=toml),
    ],
)
def test_files_made_to_break_a_parser(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(OptionError, match=name):
        Settings.load(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_pipe_and_a_file_without_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(OptionError, match="it is a pipe, not a file"):
        Settings.load(tmp_path / "a.json")
    with (tmp_path / "b.json").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(OptionError, match="it has more than 16777216 bytes"):
        Settings.load(tmp_path / "b.json")


@pytest.mark.parametrize("path", [5, b"a.json", "~no-such-user/a.json", "a\0.json"])
def test_paths_that_are_none(path: Any) -> None:
    for call_it in (Settings.load, Settings().save):
        with pytest.raises(OptionError, match="`path` must be a file, got"):
            call_it(path)


@pytest.mark.parametrize("model", [5, b"x", ["a"], "a\0b", "a/\0b", True, None])
def test_models_and_stores_that_are_none(model: Any) -> None:
    with pytest.raises(OptionError, match="`model` must be a name, a folder or a Bundle, got"):
        Upscaler(model)
    if model is not None:
        with pytest.raises(OptionError, match="`store` must be a folder, got"):
            Upscaler("realesrgan-x4plus", store=model)


LONG = "x" * 70_000


@pytest.mark.parametrize(
    "name", ["model", "backend", "device", "unknown", "x" * 70_000], ids=range(5)
)
def test_a_long_value_is_not_repeated(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps({name: LONG}))
    with pytest.raises(ResharpError) as caught:
        Settings.load(tmp_path / "a.json").upscaler()
    assert len(str(caught.value)) < 1000

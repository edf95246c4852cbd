"""Tunings: where they are kept, whom they are for, and that the runtime uses them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from resharp import Upscaler
from resharp.drawing import draw
from resharp.engines import Bundle, Tuning, parse
from resharp.engines.bundle import TUNINGS, save_tuning
from resharp.errors import BundleError, OptionError
from resharp.gpu.devices import device_name
from resharp.runtime.bundle_lookup import resolve
from resharp.runtime.tiling.bands import choose_tiling

HERE = device_name("cpu")


@pytest.fixture
def stored(compact: Bundle, tmp_path: Path) -> Bundle:
    """A bundle that a test may write to."""
    folder = tmp_path / "store" / "compact"
    shutil.copytree(compact.folder, folder)
    return Bundle.open(folder)


def tuning(**options: object) -> Tuning:
    return Tuning(**{"backend": "onnx", "device": HERE, "tile": 96, **options})  # type: ignore[arg-type]


def test_it_is_part_of_the_manifest(stored: Bundle) -> None:
    made = save_tuning(stored, tuning(threads=1, bytes_per_pixel=1234.5, gain=1.1))
    assert made.manifest.tunings == (tuning(threads=1, bytes_per_pixel=1234.5, gain=1.1),)
    assert Bundle.open(stored.folder).manifest == made.manifest
    save_tuning(stored, tuning(backend="torch", tile=64))
    save_tuning(stored, tuning(tile=128))
    found = Bundle.open(stored.folder).manifest
    assert found.tuning("onnx", HERE) == tuning(tile=128)
    assert found.tuning("torch", HERE) == tuning(backend="torch", tile=64)
    assert found.tuning("onnx", "another device") is None


def test_a_new_export_meanwhile_is_not_overwritten(stored: Bundle) -> None:
    path = stored.folder / "manifest.json"
    data = json.loads(path.read_text())
    data["graphs"]["uint8"]["sha256"] = "0" * 64
    path.write_text(json.dumps(data))
    before = path.read_bytes()
    with pytest.raises(BundleError, match="exported again"):
        save_tuning(stored, tuning())
    assert path.read_bytes() == before


def test_that_of_the_built_in_model_is_in_the_store(tmp_path: Path) -> None:
    bundle = resolve("resharp-x4", store=tmp_path)
    assert bundle.manifest.tunings == ()
    save_tuning(bundle, tuning())
    assert (tmp_path / "resharp-x4" / TUNINGS).is_file()
    assert resolve("resharp-x4", store=tmp_path).manifest.tuning("onnx", HERE) == tuning()
    assert resolve("resharp-x4", store=tmp_path / "other").manifest.tunings == ()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"graphs": {}}', '{"graphs": {}, "tunings": [{}]}', "\x00"]
)
def test_a_damaged_or_older_file_of_them_tunes_nothing(tmp_path: Path, text: str) -> None:
    bundle = resolve("resharp-x4", store=tmp_path)
    save_tuning(bundle, tuning())
    path = tmp_path / "resharp-x4" / TUNINGS
    path.write_text(text)
    assert resolve("resharp-x4", store=tmp_path).manifest.tunings == ()
    save_tuning(bundle, tuning())  # and is written again
    assert resolve("resharp-x4", store=tmp_path).manifest.tunings == (tuning(),)


@pytest.mark.parametrize("values", [{"tile": 0}, {"batch": -1}, {"tile": "x"}, {"threads": 0}])
def test_a_manifest_with_nonsense_is_damaged(stored: Bundle, values: dict[str, object]) -> None:
    path = stored.folder / "manifest.json"
    data = json.loads(path.read_text())
    data["tunings"] = [{"backend": "onnx", "device": HERE, **values}]
    with pytest.raises(BundleError, match="damaged"):
        parse(json.dumps(data), "here")


def test_the_runtime_uses_it(stored: Bundle) -> None:
    picture = draw(150, 200)
    with Upscaler(stored, backend="onnx") as plain:
        assert plain.tile == 512
        wanted = plain(picture)
    tuned = save_tuning(stored, tuning(threads=1, batch=2, bytes_per_pixel=100.0))
    with Upscaler(tuned, backend="onnx") as upscaler:
        backend = upscaler._backend
        assert upscaler.tile == 96
        assert backend.options.cpu_threads == 1
        assert backend.memory(96) == 100 * 96 * 96
        assert choose_tiling(backend, None).batch == 2
        assert choose_tiling(backend, 128).batch == 1  # tuned for smaller tiles
        assert np.abs(upscaler(picture).astype(int) - wanted).max() <= 1
    with Upscaler(tuned, backend="onnx", tile=64, threads=2) as own:
        assert (own.tile, own._backend.options.cpu_threads) == (64, 2)
    with Upscaler(tuned, backend="onnx", tuning=None) as none:
        assert none.tile == 512
    with Upscaler(tuned, backend="torch", device="cpu") as other:
        assert other.tile == 512
    with Upscaler(stored, backend="onnx", tuning=tuning(tile=80)) as given:
        assert given.tile == 80


def test_it_gives_way_to_memory(stored: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = save_tuning(stored, tuning(tile=480, bytes_per_pixel=1000.0))
    with Upscaler(tuned, backend="onnx") as upscaler:
        monkeypatch.setattr(upscaler._backend, "free_memory", lambda: 2 * 1000 * 200 * 200)
        assert upscaler.tile == 192


def test_another_device_is_not_tuned(stored: Bundle) -> None:
    elsewhere = replace(tuning(), device="NVIDIA Something")
    with Upscaler(save_tuning(stored, elsewhere), backend="onnx") as upscaler:
        assert upscaler.tile == 512


def test_nonsense_is_refused(compact: Bundle) -> None:
    with pytest.raises(OptionError, match="got 'fast'"):
        Upscaler(compact, tuning="fast")

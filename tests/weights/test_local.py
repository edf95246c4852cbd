"""Checkpoints of the user's own."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from resharp.errors import CheckpointError, OptionError, OutputError, UnknownModelError
from resharp.weights import ModelEntry, adopt, fetch, find, local_entries, register, resolve, verify
from tests.weights.conftest import BODY, left, tiny


def put(folder: Path, body: bytes = BODY, **options: Any) -> ModelEntry:
    """Register ``body`` as ``mine``."""
    source = folder.parent / "My Model.PTH"
    source.write_bytes(body)
    values: dict[str, Any] = {
        "name": "mine",
        "architecture": "SwinIR",
        "parameters": {"depths": (6, 6), "upsampler": "", "img_range": 1.0},
        "scale": 2,
        "folder": folder,
    }
    return register(source, **{**values, **options})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "weights"


def test_register_then_resolve(folder: Path) -> None:
    entry = put(folder, license="CC0-1.0")
    assert (folder / entry.file).read_bytes() == BODY
    assert resolve("Mine", folder) == entry
    assert local_entries(folder) == {"mine": entry}
    assert (entry.task, entry.license, entry.scale) == ("upscale", "CC0-1.0", 2)
    assert fetch(entry, folder, offline=True) == folder / entry.file
    assert verify(["mine"], folder)[0].state == "ok"
    assert len(left(folder)) == 2


def test_default_folder(tmp_path: Path) -> None:
    source = tmp_path / "a.pt"
    source.write_bytes(b"x")
    entry = register(source, name="a", architecture="RRDBNet", parameters={}, scale=1)
    assert resolve("a") == entry
    assert (tmp_path / "home" / "weights" / entry.file).read_bytes() == b"x"
    assert (entry.task, Path(entry.file).suffix) == ("restoration", ".pt")


def test_same_bytes_again_change_nothing(folder: Path) -> None:
    first = put(folder)
    assert put(folder) == first
    assert len(left(folder)) == 2


def test_other_bytes_need_force(folder: Path) -> None:
    first = put(folder)
    with pytest.raises(
        OptionError, match=r"'mine' is used .*`name`, or replace the file with `force`"
    ):
        put(folder, b"other")
    assert resolve("mine", folder) == first
    second = put(folder, b"other", force=True)
    assert (folder / second.file).read_bytes() == b"other"
    assert left(folder) == sorted(["local/mine.json", second.file])


def test_force_spares_the_neighbours(folder: Path) -> None:
    near = put(folder, name="mine-too")
    put(folder)
    put(folder, b"other", force=True)
    assert verify(["mine-too", "mine"], folder)[0].path == folder / near.file
    assert {report.state for report in verify(["mine-too", "mine"], folder)} == {"ok"}


@pytest.mark.parametrize("name", ["realesrgan-x4plus", "realesrganx4plus", "codeformer"])
def test_names_of_the_catalogue_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(OptionError, match=r"in the catalogue: choose another `name`"):
        put(folder, name=name)
    assert not folder.exists()


@pytest.mark.parametrize("name", ["", "Mine", "a/b", "../a", "a b", "-a", "a.pth"])
def test_bad_names_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(OptionError, match="is not a valid model name"):
        put(folder, name=name)
    assert not folder.exists()


@pytest.mark.parametrize("change", [{"scale": 0}, {"architecture": "no class"}])
def test_description_that_makes_no_sense(folder: Path, change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="invalid "):
        put(folder, **change)
    assert left(folder) == []


def test_source_that_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"My Model\.PTH is empty"):
        put(folder, b"")
    with pytest.raises(CheckpointError, match=r"cannot read .*none\.pth: No such file"):
        register(
            tmp_path / "none.pth",
            name="a",
            architecture="RRDBNet",
            parameters={},
            scale=1,
            folder=folder,
        )
    assert left(folder) == []


def test_full_disk_keeps_the_old_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = put(folder)
    replace = os.replace

    def full(part: Path, target: Path) -> None:
        if target.suffix == ".json":
            raise OSError(28, "No space left on device")
        replace(part, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(OutputError, match="No space left"):
            put(folder, b"other", force=True)
    assert resolve("mine", folder) == first
    assert (folder / first.file).read_bytes() == BODY
    again = put(folder, b"third", force=True)  # also clears the copy that nothing named
    assert left(folder) == sorted(["local/mine.json", again.file])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 99}', "null"])
def test_damaged_sidecar(folder: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    put(folder)
    other = put(folder, name="other")
    (folder / "local" / "mine.json").write_text(text)
    with pytest.raises(CheckpointError, match="import the file again with `force`"):
        resolve("mine", folder)
    with caplog.at_level(logging.WARNING):
        assert local_entries(folder) == {"other": other}
    assert "mine.json does not describe" in caplog.text
    assert put(folder, force=True) == resolve("mine", folder)


def test_sidecar_cannot_point_outside(folder: Path) -> None:
    put(folder)
    sidecar = folder / "local" / "mine.json"
    data = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps(data | {"file": "local/../../secret"}))
    with pytest.raises(CheckpointError, match="invalid file"):
        resolve("mine", folder)


def test_resolve_falls_back_to_the_catalogue(folder: Path) -> None:
    put(folder)
    assert resolve("RealESRGAN_x4plus.pth", folder) is find("realesrgan-x4plus")
    with pytest.raises(UnknownModelError, match="did you mean mine"):
        resolve("mime", folder)
    with pytest.raises(UnknownModelError, match="called ''"):
        resolve("", folder)


def test_adopt_takes_only_the_promised_bytes(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "download (1).pth"
    source.write_bytes(BODY)
    entry = tiny("http://127.0.0.1:1")
    assert adopt(source, entry, folder) == folder / "tiny.pth"
    assert fetch(entry, folder, offline=True).read_bytes() == BODY
    source.write_bytes(b"other")
    with pytest.raises(OptionError, match=r"'tiny' belongs to the catalogue.*`name`"):
        adopt(source, entry, folder)
    assert left(folder) == ["tiny.pth"]

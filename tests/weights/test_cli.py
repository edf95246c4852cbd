"""``resharp models``."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from resharp.cli import main
from resharp.cli.models import models as commands
from resharp.errors import (
    CheckpointError,
    ChecksumError,
    MissingExtraError,
    OfflineError,
    OptionError,
    ResharpError,
    UnknownModelError,
)
from resharp.runtime.bundle_lookup import builtin_folder
from resharp.weights import ModelEntry, find, register, resolve
from tests.shared import ANIMEVIDEO, needs_animevideo
from tests.weights.conftest import BODY
from tests.weights.server import Server


def run(*arguments: object) -> Result:
    """Run it; an error of ours comes through, as it does to the main command."""
    return CliRunner().invoke(commands, [str(item) for item in arguments], catch_exceptions=False)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in for ``resharp.models``; change what it finds."""
    found: dict[str, Any] = {"architecture": "RRDBNet", "parameters": {"num_block": 6}, "scale": 4}
    found |= {"in_channels": 3, "out_channels": 3}
    stand_in = SimpleNamespace(
        read_checkpoint=lambda path, parameters: SimpleNamespace(
            **found, facts=SimpleNamespace(**found), notes=()
        ),
        spandrel_models=SimpleNamespace(
            is_foreign=lambda name: name.startswith("spandrel:"), label=lambda name: name
        ),
    )
    monkeypatch.setitem(sys.modules, "resharp.models", stand_in)
    return found


def own(folder: Path) -> ModelEntry:
    source = folder / "own.pth"
    source.write_bytes(BODY)
    return register(
        source, name="own", architecture="RRDBNet", parameters={}, scale=3, folder=folder
    )


def test_list_shows_everything(tmp_path: Path) -> None:
    own(tmp_path)
    (tmp_path / find("yunet").file).write_bytes(b"short")
    lines = run("list", "--weights-dir", tmp_path).stdout.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert rows["NAME"] == ["NAME", "TASK", "SCALE", "SIZE", "LICENSE", "STATE"]
    assert rows["realesrgan-x4plus"][1:] == ["upscale", "x4", "67.0", "MB", "BSD-3-Clause", "-"]
    assert rows["own"][1:] == ["upscale", "x3", "0.7", "MB", "unknown", "imported"]
    assert rows["yunet"][-1] == "damaged"
    assert "non-commercial purposes only" in " ".join(lines)
    assert rows["codeformer"][-2] in rows  # the mark leads to the terms


def test_import_says_which_weights_it_took(tmp_path: Path) -> None:
    import torch

    from tests.models.nets import srvgg

    states = {"params": srvgg(seed=1).state_dict(), "params_ema": srvgg(seed=2).state_dict()}
    torch.save(states, tmp_path / "own.pth")
    done = run("import", tmp_path / "own.pth", "--weights-dir", tmp_path / "w")
    assert done.exit_code == 0
    assert done.stderr == "note: own.pth uses the averaged weights (EMA) params_ema, not params\n"


def test_list_as_json(tmp_path: Path) -> None:
    own(tmp_path)
    rows = {
        row["name"]: row
        for row in json.loads(run("list", "--weights-dir", tmp_path, "--json").stdout)
    }
    assert len(rows) == 41
    assert (rows["resharp-x4"]["builtin"], rows["own"]["builtin"]) == (True, False)
    assert rows["own"]["state"] == "present"
    assert rows["realesr-general-x4v3"]["blend"] == {"with": "realesr-general-wdn-x4v3"}
    assert rows["codeformer"]["terms"] == find("codeformer").terms
    assert rows["yunet"]["path"] == str(tmp_path / find("yunet").file)
    assert rows["yunet"]["state"] == "missing"


@needs_animevideo
def test_fetch_from_a_mirror_then_verify(server: Server, tmp_path: Path) -> None:
    server.files[ANIMEVIDEO.name] = ANIMEVIDEO.read_bytes()
    result = run("fetch", "RealESR_AnimeVideoV3", "--mirror", server.url, "--weights-dir", tmp_path)
    path = tmp_path / ANIMEVIDEO.name
    assert result.stdout == f"realesr-animevideov3: {path}\n"
    assert server.gets == [f"/{ANIMEVIDEO.name}"]
    lines = run("verify", "--weights-dir", tmp_path).stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["ok", "realesr-animevideov3"],
        ["ok", "resharp-x4"],
    ]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ChecksumError, match=r"damaged or missing: realesr-animevideov3\. "):
        run("verify", "--weights-dir", tmp_path)


def test_terms_come_before_the_download(tmp_path: Path) -> None:
    arguments = ["fetch", "codeformer", "--offline", "--weights-dir", str(tmp_path)]
    result = CliRunner().invoke(commands, arguments)
    assert isinstance(result.exception, OfflineError)
    assert result.stderr.startswith("codeformer (LicenseRef-S-Lab-1.0): S-Lab License 1.0")
    with pytest.raises(OfflineError):
        run("fetch", "yunet", "--offline", "--weights-dir", tmp_path)


def test_hash_for_a_file_without_one(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = find("gfpgan-clean-v1")
    server.files[entry.file] = BODY
    monkeypatch.setenv("RESHARP_MIRROR", server.url)
    with pytest.raises(OptionError, match="a hash that you trust"):
        run("fetch", entry.name, "--weights-dir", tmp_path)
    sha256 = own(tmp_path).sha256
    assert run("fetch", entry.name, "--sha256", sha256, "--weights-dir", tmp_path).exit_code == 0
    assert "ok          gfpgan-clean-v1" in run("verify", "--weights-dir", tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["fetch", "yunet", "codeformr"], UnknownModelError, "did you mean codeformer"),
        (["fetch", "yunet", "codeformer", "--sha256", "0" * 64], OptionError, "2 names"),
        (["fetch", "yunet", "--sha256", "0" * 64], OptionError, "must match the catalogue"),
        (["verify", "nothing-like-it"], UnknownModelError, "no model"),
        (["verify", "yunet"], ChecksumError, "damaged or missing: yunet"),
        (["import", "none.pth"], CheckpointError, "there is no file none.pth"),
    ],
)
def test_errors_come_before_any_work(
    tmp_path: Path, arguments: list[str], error: type[ResharpError], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(*arguments, "--weights-dir", tmp_path)
    assert not any(tmp_path.iterdir())


def test_own_checkpoint_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / own(tmp_path).file).unlink()
    with pytest.raises(ChecksumError, match="own has no download URL"):
        run("fetch", "own", "--weights-dir", tmp_path)


def test_verify_of_an_empty_folder(tmp_path: Path) -> None:
    (line,) = run("verify", "--weights-dir", tmp_path).stdout.splitlines()
    assert line.split()[:2] == ["ok", "resharp-x4"]


def test_import(tmp_path: Path, models: dict[str, Any]) -> None:
    source = tmp_path / "4x_UltraSharp.pth"
    source.write_bytes(BODY)
    folder = tmp_path / "weights"
    result = run("import", source, "--weights-dir", folder, "--license", "CC0-1.0")
    entry = resolve("4x-ultrasharp", folder)
    assert result.stdout == (
        f"4x-ultrasharp: RRDBNet, x4, {folder / entry.file}\n  next: resharp export 4x-ultrasharp\n"
    )
    assert (entry.parameters, entry.license) == ({"num_block": 6}, "CC0-1.0")
    source.write_bytes(b"other")
    with pytest.raises(OptionError, match="`force`"):
        run("import", source, "--weights-dir", folder)
    models["scale"] = 2
    run("import", source, "--weights-dir", folder, "--force")
    assert resolve("4x-ultrasharp", folder).scale == 2
    run("import", source, "--name", "second", "--weights-dir", folder)
    assert resolve("second", folder).scale == 2


@pytest.mark.usefixtures("models")
def test_import_keeps_off_the_catalogue(tmp_path: Path) -> None:
    source = tmp_path / "RealESRGAN_x4plus.pth"
    source.write_bytes(BODY)
    with pytest.raises(OptionError, match="'realesrgan-x4plus' belongs to the catalogue"):
        run("import", source, "--weights-dir", tmp_path / "weights")
    (tmp_path / "__.pth").write_bytes(BODY)
    with pytest.raises(OptionError, match=r"cannot make a name from __\.pth"):
        run("import", tmp_path / "__.pth", "--weights-dir", tmp_path / "weights")


@needs_animevideo
def test_import_of_an_official_file_needs_no_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "resharp.models", None)
    run("import", ANIMEVIDEO, "--weights-dir", tmp_path)
    assert (tmp_path / ANIMEVIDEO.name).read_bytes() == ANIMEVIDEO.read_bytes()


def test_import_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resharp.models", None)
    (tmp_path / "a.pth").write_bytes(BODY)
    with pytest.raises(MissingExtraError, match=r"needs the package torch.*resharp\[export\]"):
        run("import", tmp_path / "a.pth", "--weights-dir", tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_main_command_prints_errors_without_a_trace(tmp_path: Path) -> None:
    arguments = ["models", "verify", "yunet", "--weights-dir", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert result.stdout.startswith("missing     yunet  checkpoint ")
    assert result.stderr.startswith("Error: damaged or missing: yunet. Run")
    assert result.stderr.endswith("/reference/errors/#checksum\n")


def test_a_network_of_spandrels_is_refused_at_the_import(
    tmp_path: Path, models: dict[str, Any]
) -> None:
    models["architecture"] = "spandrel:DAT"
    file = tmp_path / "dat.pth"
    file.write_bytes(b"weights")
    with pytest.raises(CheckpointError, match=r"with 'resharp export .*dat.pth'"):
        run("import", file, "--weights-dir", tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_gray_network_is_refused_at_the_import(tmp_path: Path, models: dict[str, Any]) -> None:
    models["in_channels"] = 1
    file = tmp_path / "gray.pth"
    file.write_bytes(b"weights")
    with pytest.raises(CheckpointError, match="maps 1 channels to 3"):
        run("import", file, "--weights-dir", tmp_path / "w")


def test_an_exported_models_checkpoint_is_verified_too(tmp_path: Path) -> None:
    own(tmp_path)
    shutil.copytree(builtin_folder() / "resharp-x4", tmp_path / "store" / "own")
    manifest = tmp_path / "store" / "own" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"resharp-x4"', '"own"'))
    (tmp_path / resolve("own", tmp_path).file).write_bytes(b"?")
    arguments = ("--weights-dir", tmp_path, "--store", tmp_path / "store")
    with pytest.raises(ChecksumError, match="damaged or missing: own"):
        run("verify", "own", *arguments)


def test_a_damaged_bundle_is_found(tmp_path: Path) -> None:
    shutil.copytree(builtin_folder() / "resharp-x4", tmp_path / "store" / "own")
    manifest = tmp_path / "store" / "own" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"resharp-x4"', '"own"'))
    assert run("verify", "--weights-dir", tmp_path, "--store", tmp_path / "store").exit_code == 0
    graph = next((tmp_path / "store" / "own").glob("graph-uint8*"))
    graph.write_bytes(graph.read_bytes() + b"zz")
    for names in ((), ("own",)):
        with pytest.raises(ChecksumError, match="damaged or missing: own"):
            run("verify", *names, "--weights-dir", tmp_path, "--store", tmp_path / "store")

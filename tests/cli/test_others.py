from __future__ import annotations

import json
from pathlib import Path

import pytest

from resharp import __version__
from resharp.cli import COMMANDS
from tests.cli.commands import call
from tests.conftest import random_network, save_checkpoint


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESHARP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RESHARP_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_version_and_help() -> None:
    assert call("--version") == (0, f"resharp, version {__version__}\n")
    code, output = call("--help")
    assert code == 0
    assert all(name in output for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    code, output = call(name, "--help")
    assert code == 0
    assert output.startswith("Usage: ")


def test_an_unknown_command_is_refused() -> None:
    code, output = call("upscail")
    assert code == 2
    assert "No such command" in output


def test_doctor_says_what_works_and_why_the_rest_does_not() -> None:
    code, output = call("doctor")
    assert code == 0
    assert "onnx on cpu: works" in output
    assert "tensorrt on cuda: skipped (" in output
    report = json.loads(call("doctor", "--json")[1])
    assert report["resharp"] == __version__
    for attempt in report["backends"]:
        assert attempt["works"] or attempt["reason"]


def test_doctor_without_any_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resharp.cli.doctor.probe", lambda tried: [])
    code, output = call("doctor")
    assert code == 1
    assert "pip install 'resharp[cpu]'" in output


def test_import_export_list_verify_remove(home: Path) -> None:
    save_checkpoint(random_network("compact"), Path("My Net.pth"))
    code, output = call("models", "import", "My Net.pth", "--name", "mine")
    assert code == 0, output
    code, output = call("export", "mine")
    assert code == 0, output
    assert "against PyTorch: " in output
    assert "next: resharp upscale PHOTO -o OUT -m mine" in output
    code, output = call("engines", "list")
    assert code == 0
    assert "resharp-x4" in output
    assert "mine" in output
    names = [item["name"] for item in json.loads(call("engines", "list", "--json")[1])]
    assert names == ["resharp-x4", "mine"]
    assert call("engines", "verify") == (0, "ok  resharp-x4\nok  mine\n")
    graph = next((home / "store" / "mine").glob("graph-uint8*"))
    graph.write_bytes(graph.read_bytes()[::-1])
    code, output = call("engines", "verify")
    assert code == 1
    assert "is damaged" in output
    assert call("models", "remove", "mine") == (0, "mine: removed the bundle\n")
    code, output = call("models", "remove", "mine")
    assert code == 1
    assert "pass --checkpoint to delete its file" in output
    assert "removed" in call("models", "remove", "mine", "--checkpoint")[1]
    assert call("models", "remove", "mine", "--checkpoint")[0] == 1


def test_export_of_nothing_known() -> None:
    code, output = call("export", "realesrgan-x4pluz")
    assert code == 1
    assert "realesrgan-x4plus" in output


def test_export_offline_says_which_file_to_put_where() -> None:
    code, output = call("export", "realesrgan-x4plus", "--offline")
    assert code == 1
    assert "RealESRGAN_x4plus.pth" in output


@pytest.mark.parametrize("text", ["act_type", "=relu", ""])
def test_parameters_are_key_and_value(text: str) -> None:
    save_checkpoint(random_network("compact"), Path("net.pth"))
    for command in (("export", "net.pth"), ("models", "import", "net.pth")):
        code, output = call(*command, "--parameter", text)
        assert code == 1
        assert "--parameter must be KEY=VALUE" in output


def test_an_imported_activation_reaches_the_export(home: Path) -> None:
    from resharp.models import SRVGGNetCompact

    save_checkpoint(
        SRVGGNetCompact(num_feat=8, num_conv=1, act_type="leakyrelu"), Path("leaky.pth")
    )
    code, output = call("models", "import", "leaky.pth", "--parameter", "act_type=leakyrelu")
    assert code == 0, output
    assert call("export", "leaky")[0] == 0
    stored = json.loads(call("engines", "list", "--json")[1])[-1]
    assert (stored["name"], stored["parameters"]["act_type"]) == ("leaky", "leakyrelu")


def test_an_exhausted_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*args: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr("resharp.cli.common.folder_run", exhausted)
    code, output = call("upscale", "a.png", "-o", "b.png")
    assert code == 1
    assert output.startswith("Error: the memory is exhausted: free some, or raise the limit on it")


@pytest.mark.parametrize("arguments", [("models", "list"), ("upscale", "a.png", "-o", "out")])
def test_a_current_folder_that_is_gone_is_an_error(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    def gone() -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("os.getcwd", gone)
    code, output = call(*arguments)
    assert code == 1
    assert "Error: the current folder does not exist any more" in output
    assert call("--help")[0] == 0


def test_a_package_that_cannot_be_loaded_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("libfoo.so: cannot open shared object file")

    monkeypatch.setattr("resharp.cli.importlib.import_module", broken)
    code, output = call("info")
    assert code == 1
    assert "Error: resharp cannot be loaded (libfoo.so: cannot open shared object file):" in output

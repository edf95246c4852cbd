"""Folders that cannot be read or written, and homes that are none: one line each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resharp.errors import OptionError
from resharp.paths import home, store_folder, weights_folder
from tests.cli.commands import call

COMMANDS = (
    ("models", "list"),
    ("models", "verify"),
    ("models", "remove", "mine"),
    ("models", "fetch", "realesr-general-x4v3", "--offline"),
    ("engines", "list"),
    ("engines", "verify"),
    ("engines", "prune"),
    ("engines", "prune", "mine", "--all"),
    ("info", "mine"),
)
CHILD = """
import codecs, json, os, sys
codecs.lookup("ascii")
from click.testing import CliRunner
from resharp.cli import main
commands, place = json.loads(sys.argv[1]), os.environ["RESHARP_HOME"]
os.environ["RESHARP_HOME"] = os.path.join(place, "none")
for one in commands:  # imports all that they need, while it may be read
    CliRunner().invoke(main, one)
os.environ["RESHARP_HOME"] = place
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
done = [CliRunner().invoke(main, one) for one in commands]
print(json.dumps([[one.exit_code, one.output, repr(one.exception)] for one in done]))
"""


def unprivileged(place: str) -> list[list[Any]]:
    """The exit code, output and exception of each command for a user without rights."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(COMMANDS)],
        env={**os.environ, "RESHARP_HOME": place, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"Python itself needs permissions here: {done.stderr[-200:]}")
    found: list[list[Any]] = json.loads(done.stdout)
    return found


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder below folders that everybody may read, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "setuid"), reason="permissions of POSIX")
@pytest.mark.parametrize("mode", [0o000, 0o444, 0o555])
def test_folders_without_permission(open_folder: Path, mode: int) -> None:
    bundle = open_folder / "store" / "mine"
    (bundle / "engines").mkdir(parents=True)
    (bundle / "manifest.json").write_text("{}")
    (open_folder / "weights" / "local").mkdir(parents=True)
    folders = [bundle, bundle.parent, open_folder / "weights"]
    try:
        for folder in folders:
            folder.chmod(mode)
        found = unprivileged(str(open_folder))
    finally:
        for folder in folders[::-1]:
            folder.chmod(0o755)
    for command, (code, output, error) in zip(COMMANDS, found, strict=True):
        assert error == "None" or "SystemExit" in error, command
        assert "Traceback" not in output
        if mode == 0:
            assert code == 1
            assert output.startswith("Error: cannot read "), (command, output)
            assert len(output.splitlines()) == 2, "the message, and where it is explained"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_home_that_is_a_file(
    tmp_path: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").touch()
    monkeypatch.setenv("RESHARP_HOME", str(tmp_path / "home"))
    code, output = call(*command)
    assert code == 1
    assert output.startswith("Error: ")
    assert len(output.splitlines()) == 2


@pytest.mark.parametrize("command", [("models", "list"), ("info",), ("engines", "prune")])
def test_the_home_of_nobody(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESHARP_HOME", "~no-such-user")
    code, output = call(*command)
    assert code == 1
    assert output.startswith("Error: RESHARP_HOME must be a folder, got '~no-such-user'")
    with pytest.raises(OptionError):
        home()


@pytest.mark.parametrize("folder", [5, 0, False, b"store", "a\0b", "~no-such-user/x", ["a"]])
def test_arguments_that_are_no_folder(folder: Any) -> None:
    with pytest.raises(OptionError, match="`store` must be a folder, got "):
        store_folder(folder)
    with pytest.raises(OptionError, match="`weights_dir` must be a folder, got "):
        weights_folder(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_pipes_are_no_checkpoints(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.pth")
    (tmp_path / "weights").mkdir()
    os.mkfifo(tmp_path / "weights" / "realesr-general-x4v3.pth")
    for command in (
        ("export", str(tmp_path / "net.pth")),
        ("models", "import", str(tmp_path / "net.pth"), "--name", "net"),
        ("models", "verify", "realesr-general-x4v3"),
    ):
        where = ("--weights-dir", str(tmp_path / "weights"))
        code, output = call(*command, *where)
        assert code == 1
        assert "it is a pipe, not a file" in output

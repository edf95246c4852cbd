"""The commit that figures belong to, with git and without."""

from __future__ import annotations

from pathlib import Path

import pytest

import resharp
from resharp.bench import machine_info as module
from resharp.bench.machine_info import COMMIT, commit, machine_info

NAME = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that resharp seems to be imported from."""
    monkeypatch.setattr(resharp, "__file__", str(tmp_path / "resharp" / "__init__.py"))
    monkeypatch.setattr(
        "resharp.bench.machine_info.shutil.which", lambda name: f"/somewhere/{name}"
    )
    return tmp_path


@pytest.mark.usefixtures("tree")
def test_without_a_repository_the_variable_names_the_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(COMMIT, raising=False)
    assert commit() == ""
    monkeypatch.setenv(COMMIT, "abc123\n")
    assert commit() == "abc123"
    assert machine_info()["commit"] == "abc123"


@pytest.mark.parametrize(
    ("head", "status", "found"),
    [
        (NAME, "", NAME[:12]),
        (NAME, " M resharp/x.py", f"{NAME[:12]}-changed"),
        ("", "", "abc123"),  # it has no commit yet, or is not ours to read
    ],
)
def test_a_repository_comes_first(
    head: str, status: str, found: str, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / ".git").mkdir()
    answers = {"rev-parse": head, "status": status}
    monkeypatch.setattr(module, "_git", lambda git, folder, *args: answers[args[0]])
    monkeypatch.setenv(COMMIT, "abc123")
    assert commit() == found


def test_without_git_the_variable_counts(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / ".git").mkdir()
    monkeypatch.setattr("resharp.bench.machine_info.shutil.which", lambda name: None)
    monkeypatch.setenv(COMMIT, "abc123")
    assert commit() == "abc123"

"""A folder of its own for what these tests export."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that each checkpoint is exported once."""
    return tmp_path_factory.mktemp("compat")


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESHARP_HOME", str(home))
    monkeypatch.setenv("RESHARP_OFFLINE", "1")

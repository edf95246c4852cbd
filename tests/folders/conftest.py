"""An empty folder to work in, and a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from resharp.engines import Bundle
from resharp.pipeline.restorer import RestoreConfig


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def config(compact: Bundle) -> RestoreConfig:
    return RestoreConfig(model=str(compact.folder), backend="onnx")

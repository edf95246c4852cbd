"""Shared fixtures: made-up time and GPUs, and workers without PyTorch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from resharp.bench.measure import paired_timing
from tests.bench.fake_machine import Clock
from tests.bench.fake_nvml import FakeNvml


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """A GPU as NVML shows it."""
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time as seen by the paired timing, which is never disturbed by the real machine's load."""
    made_up = Clock()
    monkeypatch.setattr(paired_timing, "time", made_up)
    monkeypatch.setattr(paired_timing, "sample_cpu", lambda at, pids: None)
    return made_up


@pytest.fixture
def without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes find no PyTorch, whose import takes longer than the rest of a tiny run."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("import sys; sys.modules['torch'] = None\n")
    places = filter(None, [str(folder), os.environ.get("PYTHONPATH")])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))

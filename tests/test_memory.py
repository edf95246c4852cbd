from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from resharp import memory
from resharp.memory import FALLBACK, available_memory, total_memory


@pytest.mark.parametrize(
    "names",
    [
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ],
)
def test_file_cache_of_a_container_counts_as_free(
    tmp_path: Path, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    limit, used, stat, cache = names
    (tmp_path / limit).parent.mkdir(exist_ok=True)
    (tmp_path / limit).write_text("1000\n")
    (tmp_path / used).write_text("900\n")
    (tmp_path / stat).write_text(f"anon 300\n{cache} 500\n")
    assert available_memory() == 600
    assert total_memory() == 1000


def test_no_limit_is_no_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    3000 kB\n")
    assert (total_memory(), available_memory()) == (9000 * 1024, 3000 * 1024)
    (tmp_path / "memory.max").write_text("max\n")
    assert (total_memory(), available_memory()) == (9000 * 1024, 3000 * 1024)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A system without /proc, and its folder of cgroups."""
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    return tmp_path


def has(available: int) -> SimpleNamespace:
    """A psutil that finds so many bytes."""
    found = SimpleNamespace(available=available, total=2 * available)
    return SimpleNamespace(virtual_memory=lambda: found)


def test_psutil_is_asked_where_there_is_no_proc(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psutil", has(12 << 30))
    assert (available_memory(), total_memory()) == (12 << 30, 24 << 30)
    (elsewhere / "memory.max").write_text("1000\n")
    (elsewhere / "memory.current").write_text("900\n")
    (elsewhere / "memory.stat").write_text("inactive_file 500\n")
    assert available_memory() == 600  # a container's limit is the smaller one


def test_proc_is_asked_first(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "psutil", has(12 << 30))
    (tmp_path / "none").write_text("MemTotal: 9 kB\nMemAvailable:    3000 kB\n")
    assert available_memory() == 3000 * 1024


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("error", [None, OSError("no"), NotImplementedError("unknown system")])
def test_without_psutil_it_is_a_guess(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    def fail() -> None:
        assert error is not None
        raise error

    psutil = None if error is None else SimpleNamespace(virtual_memory=fail)
    monkeypatch.setitem(sys.modules, "psutil", psutil)
    monkeypatch.setattr(os, "sysconf", lambda name: 1 << 12, raising=False)
    assert available_memory() == 1 << 23  # half of all
    assert total_memory() == 1 << 24
    monkeypatch.delattr(os, "sysconf")
    assert available_memory() == total_memory() == FALLBACK

from __future__ import annotations

from pathlib import Path

import pytest

from resharp.gpu.host_memory import _cgroup


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
def test_file_cache_of_a_container_counts_as_free(tmp_path: Path, names: tuple[str, ...]) -> None:
    limit, used, stat, cache = names
    (tmp_path / limit).parent.mkdir(exist_ok=True)
    (tmp_path / limit).write_text("1000\n")
    (tmp_path / used).write_text("900\n")
    (tmp_path / stat).write_text(f"anon 300\n{cache} 500\n")
    assert _cgroup(tmp_path) == 600


def test_no_limit_is_no_limit(tmp_path: Path) -> None:
    assert _cgroup(tmp_path) > 1 << 50
    (tmp_path / "memory.max").write_text("max\n")
    assert _cgroup(tmp_path) > 1 << 50

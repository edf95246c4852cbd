"""How much memory the machine has left: from /proc and cgroups, or else from psutil."""

from __future__ import annotations

import os
from pathlib import Path

from resharp.errors import MissingExtraError
from resharp.optional import require

MEMINFO = Path("/proc/meminfo")
FALLBACK = 2 << 30
"""Assumed where the system does not tell."""


def available_memory() -> int:
    """Bytes that a process may take without swapping, as far as the system tells.

    The smaller of what the kernel calls available and what a cgroup (a container) still allows.
    """
    return min(_kernel(), _cgroup())


def _kernel() -> int:
    try:
        for line in MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        psutil = require("psutil", feature="Reading the free memory", extra="")
        return int(psutil.virtual_memory().available)
    except (MissingExtraError, OSError, RuntimeError):  # RuntimeError: the system is unknown to it
        pass
    try:
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    except (AttributeError, OSError, ValueError):
        return FALLBACK


def _cgroup(root: Path = Path("/sys/fs/cgroup")) -> int:
    """What cgroup version 2 or 1 still allows; unlimited where there is none."""
    for limit, used, stat, cache in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        try:
            most = int((root / limit).read_text(encoding="ascii"))
            taken = int((root / used).read_text(encoding="ascii"))
            # File cache counts as used, and is given back when it is wanted.
            fields = dict(x.split() for x in (root / stat).read_text(encoding="ascii").splitlines())
            return max(most - taken + int(fields.get(cache, 0)), 0)
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return 1 << 62

"""The memory of this machine, or of the container that the process runs in.

It is read from /proc and cgroups, or else through psutil.
"""

from __future__ import annotations

import os
from pathlib import Path

from resharp.errors import MissingExtraError
from resharp.optional import require

MEMINFO = Path("/proc/meminfo")
CGROUPS = Path("/sys/fs/cgroup")
FALLBACK = 2 << 30
"""Memory in bytes that is assumed if the system reports none."""
UNLIMITED = 1 << 62
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
"""Files of cgroup version 2 and 1."""


def available_memory() -> int:
    """Return the bytes that a process can use without swapping, as far as the system reports.

    This is the smaller of what the kernel calls available and what a cgroup (e.g. a container)
    still allows.
    """
    pages = _pages()
    kernel = _reported("MemAvailable:", "available") or (pages and pages // 2) or FALLBACK
    return min(kernel, _cgroup_available())


def total_memory() -> int:
    """Return the bytes of memory of the machine, or the limit of its cgroup if that is lower."""
    kernel = _reported("MemTotal:", "total") or _pages() or FALLBACK
    return min([kernel, *(most for name in _LIMITS if (most := _number(CGROUPS / name)))])


def _reported(line: str, field: str) -> int | None:
    """Return what /proc or psutil reports; None if neither does."""
    try:
        for text in MEMINFO.read_text(encoding="ascii").splitlines():
            if text.startswith(line):
                return int(text.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        psutil = require("psutil", feature="Reading the memory", extra="")
        return int(getattr(psutil.virtual_memory(), field))
    except (MissingExtraError, OSError, RuntimeError):  # RuntimeError: unsupported system
        return None


def _pages() -> int | None:
    """Return the bytes of all memory pages, as POSIX reports them."""
    try:
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return None


def _cgroup_available() -> int:
    """Return the bytes that cgroup version 2 or 1 still allows."""
    for limit, used, stat, cache in (
        (_LIMITS[0], "memory.current", "memory.stat", "inactive_file"),
        (_LIMITS[1], "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        most, taken = _number(CGROUPS / limit), _number(CGROUPS / used)
        if most is None or taken is None:
            continue
        try:  # file cache counts as used but is reclaimed on demand
            lines = (CGROUPS / stat).read_text(encoding="ascii").splitlines()
            return max(most - taken + int(dict(line.split() for line in lines).get(cache, 0)), 0)
        except (OSError, ValueError):
            continue
    return UNLIMITED


def _number(path: Path) -> int | None:
    """Return the number in a file; None if the file does not exist or contains ``max``."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None

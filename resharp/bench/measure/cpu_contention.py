"""How much of the processor other programs had while a case was timed (Linux; elsewhere unknown).

Another program's burst falls on one half of a pair and not on the other. Such a pair is known by
the kernel's count of processor time, not by its outcome, so leaving it out favours nobody.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resharp.gpu.devices import usable_threads

_STAT = Path("/proc/stat")
_BUSY = (0, 1, 2, 5, 6, 7)
"""Columns of proc_stat(5) that are work: user, nice, system, irq, softirq, steal."""

RESOLUTION = 0.02
"""Seconds that the kernel's two counts may be apart by their ticks."""


@dataclass(frozen=True)
class CpuSample:
    """Processor seconds until one moment."""

    at: float
    """The clock, in seconds."""
    total: float
    """Of everybody, and what the host of a virtual machine took."""
    own: float
    """Of the processes that are measured."""


def sample_cpu(at: float, pids: Sequence[int]) -> CpuSample | None:
    """Processor time now; None where the system does not tell."""
    try:
        tick = os.sysconf("SC_CLK_TCK")
        columns = _STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
        busy = sum(int(columns[place]) for place in _BUSY) / tick
        own = sum(_ticks(pid) for pid in (*pids, os.getpid())) / tick
    except (AttributeError, OSError, ValueError, IndexError):
        return None
    return CpuSample(at, busy, own)


def contention(before: CpuSample | None, after: CpuSample | None) -> float:
    """Share of the processors that we may use which others had between two samples; 0 if unknown.

    Processors that we may not use, or that were free all the same, do not count.
    """
    if before is None or after is None or after.at <= before.at:
        return 0.0
    excess = after.total - before.total - (after.own - before.own) - RESOLUTION
    others = excess / (after.at - before.at)
    ours = usable_threads()
    spare = max((os.cpu_count() or ours) - ours, 0)
    return min(max(others - spare, 0.0) / ours, 1.0)


def _ticks(pid: int) -> int:
    """Processor time of a process."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    fields = text.rpartition(")")[2].split()  # the name in brackets may hold anything
    return int(fields[11]) + int(fields[12])

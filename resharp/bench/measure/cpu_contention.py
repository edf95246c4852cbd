"""CPU contention: how much CPU time other programs used while a case was timed (Linux only).

A burst of another program affects only one half of a pair. Such pairs are detected by the kernel's
accounting of CPU time, not by their result, so leaving them out introduces no bias.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resharp.gpu.devices import usable_threads

_STAT = Path("/proc/stat")
_BUSY = (0, 1, 2, 5, 6, 7)
"""Columns of proc_stat(5) that count as busy: user, nice, system, irq, softirq, steal."""

RESOLUTION = 0.02
"""Tolerance, in seconds, for the tick resolution of the kernel's two counters."""


@dataclass(frozen=True)
class CpuSample:
    """CPU time used up to one moment."""

    at: float
    """Time of the sample, in seconds."""
    total: float
    """CPU seconds of all processes, including time stolen by the host of a virtual machine."""
    own: float
    """CPU seconds of the measured processes and this one."""


def sample_cpu(at: float, pids: Sequence[int]) -> CpuSample | None:
    """Return the CPU time used so far; None if the system does not provide it."""
    try:
        tick = os.sysconf("SC_CLK_TCK")
        columns = _STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
        busy = sum(int(columns[place]) for place in _BUSY) / tick
        own = sum(_ticks(pid) for pid in (*pids, os.getpid())) / tick
    except (AttributeError, OSError, ValueError, IndexError):
        return None
    return CpuSample(at, busy, own)


def contention(before: CpuSample | None, after: CpuSample | None) -> float:
    """Return the fraction of our CPUs that other programs used between two samples.

    0 if unknown. Load that fits on CPUs outside this process's affinity does not count.
    """
    if before is None or after is None or after.at <= before.at:
        return 0.0
    excess = after.total - before.total - (after.own - before.own) - RESOLUTION
    others = excess / (after.at - before.at)
    ours = usable_threads()
    spare = max((os.cpu_count() or ours) - ours, 0)
    return min(max(others - spare, 0.0) / ours, 1.0)


def _ticks(pid: int) -> int:
    """Return the CPU time of a process, in ticks."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    fields = text.rpartition(")")[2].split()  # the name in parentheses may contain anything
    return int(fields[11]) + int(fields[12])

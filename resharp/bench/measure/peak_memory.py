"""Peak memory of this process on the host, and on a GPU by NVML."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from resharp.bench.measure.nvml import Nvml
from resharp.joining import join
from resharp.optional import require

INTERVAL = 0.002
"""Seconds between two samples of the GPU's memory."""
CHECKED = 256 << 20
"""Bytes allocated by the self-check."""
BY_PROCESS = "nvml, process"
BY_DEVICE = "nvml, device in its own turns"
"""Source of a peak on the GPU: the process, or the whole device during the case's own turns."""
_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


class HostPeak:
    """Peak resident memory of this process since the object was created.

    Only Linux can reset the peak. Elsewhere it covers the lifetime of the process, which is the
    same in a process that does nothing else.
    """

    def __init__(self) -> None:
        self.reset()
        self.before = _status("VmRSS") or _usage()
        """Resident bytes on creation; None if the system does not provide it."""

    def reset(self) -> None:
        """Reset the peak."""
        with contextlib.suppress(OSError):
            _RESET.write_text("5", encoding="ascii")  # proc(5): resets the peak resident set size

    def read(self) -> int | None:
        """Return the peak in bytes; None if the system does not provide it."""
        return _status("VmHWM") or _usage()


def _status(field: str) -> int | None:
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = (int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
    return next(found, None)


def _usage() -> int | None:
    """Return the peak of the process on systems other than Linux."""
    if sys.platform == "win32":
        psutil = require("psutil", feature="Reading the memory of a process", extra="bench")
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most) * (1 if sys.platform == "darwin" else 1024)


class DevicePeak:
    """Peak memory on a GPU during a case's own turns, sampled from a background thread.

    A context manager to enter for each turn. Nothing is sampled outside of it: no thread runs while
    a case is timed, and memory that other cases hold in between does not count.
    """

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._base = nvml.device()
        self.peak = 0
        """Peak in bytes."""
        self.by = ""
        """:data:`BY_PROCESS`; or :data:`BY_DEVICE` if NVML has never listed this process, in which
        case the peak is the increase of the device's total since the object was created. Empty
        before the first sample."""
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> DevicePeak:
        self._end.clear()
        self._thread = threading.Thread(target=self._watch, name="resharp-nvml", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        assert self._thread is not None
        self._end.set()
        join([self._thread])
        self._look()

    def _look(self) -> None:
        mine = self._nvml.process()
        if mine is not None:
            # NVML lists a process only once it has a context, i.e. after the first samples.
            before = self.peak if self.by == BY_PROCESS else 0
            self.by, self.peak = BY_PROCESS, max(before, mine)
        elif self.by != BY_PROCESS:
            self.by, self.peak = BY_DEVICE, max(self.peak, self._nvml.device() - self._base)

    def _watch(self) -> None:
        while not self._end.wait(INTERVAL):
            self._look()


def check_host() -> dict[str, float]:
    """Allocate :data:`CHECKED` bytes on the host and compare with the measured increase."""
    peak = HostPeak()
    block = np.ones(CHECKED, np.uint8)  # written to, so that it is resident
    measured = (peak.read() or 0) - (peak.before or 0)
    return _checked(int(block.nbytes), measured)


def check_device(nvml: Nvml, allocate: Callable[[int], Any]) -> dict[str, float]:
    """Allocate :data:`CHECKED` bytes on a GPU and compare with the measured increase.

    Args:
        nvml: the GPU.
        allocate: allocates a number of bytes on it and returns an object that holds them.
    """
    before = nvml.process()
    first = nvml.device() if before is None else before
    block = allocate(CHECKED)
    after = nvml.process()
    last = nvml.device() if after is None or before is None else after
    del block
    return _checked(CHECKED, last - first)


def _checked(allocated: int, measured: int) -> dict[str, float]:
    error = abs(measured - allocated) / allocated
    return {"allocated": allocated, "measured": measured, "error": error}

"""Peak memory: of this process on the host, and on a GPU by NVML."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from resharp.bench.measure.nvml import Nvml
from resharp.optional import require

INTERVAL = 0.002
"""Seconds between two looks at the GPU's memory."""
CHECKED = 256 << 20
"""Bytes that the self-check allocates."""
BY_PROCESS = "nvml, process"
BY_DEVICE = "nvml, device in its own turns"
"""How a peak on the GPU was taken: of the process, or of everybody while only this case worked."""
_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


class HostPeak:
    """The most resident memory of this process since this was made.

    Where the system cannot forget an older peak (anything but Linux), it is that of the process so
    far, which is the same in a process that does nothing else.
    """

    def __init__(self) -> None:
        self.reset()
        self.before = _status("VmRSS") or _usage()
        """Resident bytes when this was made; None where the system does not tell."""

    def reset(self) -> None:
        """Forget the peak so far."""
        with contextlib.suppress(OSError):
            _RESET.write_text("5", encoding="ascii")  # proc(5): resets the peak resident set size

    def read(self) -> int | None:
        """Bytes; None where the system does not tell."""
        return _status("VmHWM") or _usage()


def _status(field: str) -> int | None:
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = (int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
    return next(found, None)


def _usage() -> int | None:
    """The peak of the process, on systems other than Linux."""
    if sys.platform == "win32":
        psutil = require("psutil", feature="Reading the memory of a process", extra="bench")
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most) * (1 if sys.platform == "darwin" else 1024)


class DevicePeak:
    """The most memory on a GPU in a case's own turns, looked at from a thread of its own.

    A context manager that is entered for each turn. Between two turns nothing looks: there is no
    thread while time is taken, and what other cases hold meanwhile does not count.
    """

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._base = nvml.device()
        self.peak = 0
        """Bytes."""
        self.by = ""
        """:data:`BY_PROCESS`; or :data:`BY_DEVICE`, all that the device held beyond what it held
        when this was made, where NVML has never shown this process. Empty before the first
        look."""
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
        self._thread.join()
        self._look()

    def _look(self) -> None:
        mine = self._nvml.process()
        if mine is not None:
            # NVML shows a process only once it has a context, which comes after the first looks.
            before = self.peak if self.by == BY_PROCESS else 0
            self.by, self.peak = BY_PROCESS, max(before, mine)
        elif self.by != BY_PROCESS:
            self.by, self.peak = BY_DEVICE, max(self.peak, self._nvml.device() - self._base)

    def _watch(self) -> None:
        while not self._end.wait(INTERVAL):
            self._look()


def check_host() -> dict[str, float]:
    """Allocate :data:`CHECKED` bytes and see what the figure says."""
    peak = HostPeak()
    block = np.ones(CHECKED, np.uint8)  # written, so that it is resident
    measured = (peak.read() or 0) - (peak.before or 0)
    return _checked(int(block.nbytes), measured)


def check_device(nvml: Nvml, allocate: Callable[[int], Any]) -> dict[str, float]:
    """The same on a GPU: ``allocate`` gives that many bytes of it and holds them."""
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

"""Matrix-product rates, as a reference for the computing speed of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from resharp.errors import MissingExtraError
from resharp.optional import require

CPU_SIDE = 2048
GPU_SIDES = (4096, 6144, 8192)
REPEATS = 5
GPU_CALLS = 10


def matrix_rates() -> dict[str, float]:
    """Return FLOP/s by device and type: ``cpu fp32`` with numpy, ``cuda fp16`` with PyTorch."""
    found = {"cpu fp32": _cpu()}
    torch = _torch()
    if torch is not None:
        found["cuda fp16"] = max(_gpu(torch, side) for side in GPU_SIDES)
    return found


def device_allocator() -> Callable[[int], Any] | None:
    """Return a function that allocates bytes on the GPU; None without PyTorch and a GPU."""
    torch = _torch()
    if torch is None:
        return None
    torch.zeros(1, device="cuda")  # create the context first: its memory must not count

    def allocate(size: int) -> Any:
        block = torch.zeros(size, dtype=torch.uint8, device="cuda")
        torch.cuda.synchronize()
        return block

    return allocate


def _torch() -> Any:
    try:
        torch = require("torch", feature="Measuring a GPU's matrix rate", extra="torch")
    except MissingExtraError:
        return None
    return torch if torch.cuda.is_available() else None


def _cpu() -> float:
    rng = np.random.default_rng(0)
    one, two = (rng.random((CPU_SIDE, CPU_SIDE), np.float32) for _ in range(2))
    seconds = []
    for _ in range(REPEATS + 1):  # the extra first run wakes the threads
        began = time.perf_counter()
        one @ two
        seconds.append(time.perf_counter() - began)
    return float(2 * CPU_SIDE**3 / min(seconds))


def _gpu(torch: Any, side: int) -> float:
    one, two = (torch.randn(side, side, device="cuda", dtype=torch.float16) for _ in range(2))
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    seconds = []
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        start.record()
        for _ in range(GPU_CALLS):
            torch.matmul(one, two)
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return float(GPU_CALLS * 2 * side**3 / min(seconds))

"""Figures that only a GPU gives: times by CUDA events and by kernels, memory, the matrix rate."""

from __future__ import annotations

import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from resharp.runtime import Tile
from resharp.runtime.devices import CudaError, driver_version

MATRIX_SIDES = (4096, 6144, 8192)
_COPIES = ("Memcpy", "Memset")


def facts() -> dict[str, str]:
    """The GPU and what drives it."""
    gpu = torch.cuda.get_device_properties(0)
    try:
        highest = driver_version()
    except CudaError as error:
        highest = str(error)
    return {
        "gpu": gpu.name,
        "compute capability": f"{gpu.major}.{gpu.minor}",
        "gpu memory (GiB)": f"{gpu.total_memory / 2**30:.1f}",
        "driver": _driver(),
        "CUDA of the driver": highest,
        "CUDA of torch": str(torch.version.cuda),
        "cuDNN": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
    }


def _driver() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "unknown (no nvidia-smi)"
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=60)
    return (done.stdout.split() or ["unknown"])[0]


def seconds_on_device(work: Callable[[], object]) -> float:
    """Between two CUDA events around the work queued by ``work``."""
    start, end = (_event() for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def network_seconds(network: nn.Module, tiles: Sequence[Tile], repeats: int) -> float:
    """Median time of the bare network in fp16 and channels_last on windows of these sizes."""
    half = network.half().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    first = tiles[0]
    window = torch.rand(1, 3, first.height, first.width, device="cuda", dtype=torch.float16)
    window = window.to(memory_format=torch.channels_last)

    def work() -> None:
        for _ in tiles:
            half(window)

    with torch.inference_mode():
        for _ in range(3):
            seconds_on_device(work)
        return statistics.median(seconds_on_device(work) for _ in range(repeats))


def kernel_seconds(work: Callable[[], object]) -> float | None:
    """Time in which a kernel of this process ran, copies aside; None where CUPTI tells nothing.

    For backends whose network cannot be called alone. Kernels at the same time count once.
    """
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            work()
            torch.cuda.synchronize()
        events = profiler.events() or []
        spans = [
            (event.time_range.start, event.time_range.end)
            for event in events
            if event.device_type.name == "CUDA" and not event.name.startswith(_COPIES)
        ]
    except RuntimeError:
        return None
    return union(spans) / 1e6 or None


def union(spans: Iterable[tuple[float, float]]) -> float:
    """Length that the spans cover together."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        if end > reached:
            covered += end - max(start, reached)
            reached = end
    return covered


def matrix_rate() -> float:
    """The GPU's FP16 rate in FLOP/s: the best of some sizes of ``torch.matmul``."""
    best = 0.0
    for side in MATRIX_SIDES:
        one = torch.randn(side, side, device="cuda", dtype=torch.float16)
        two = torch.randn(side, side, device="cuda", dtype=torch.float16)

        def work(one: torch.Tensor = one, two: torch.Tensor = two) -> None:
            for _ in range(10):
                torch.matmul(one, two)

        seconds = min(seconds_on_device(work) for _ in range(5))
        best = max(best, 10 * 2 * side**3 / seconds)
    return best


class Memory:
    """GPU memory taken since this was made: torch's own peak, and what the driver sees gone."""

    def __init__(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self._free, self._allocated = torch.cuda.mem_get_info()[0], torch.cuda.memory_allocated()

    def taken(self) -> tuple[float, float]:
        """MB by torch's allocator at its peak, and MB that the device has less now."""
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - self._allocated
        return peak / 1e6, (self._free - torch.cuda.mem_get_info()[0]) / 1e6

"""``python -m benchmarks.gpu.probe``: independent questions about a GPU, in about 40 seconds.

A check fails only if resharp misbehaves. Answers of the driver, NVML and PyTorch are just recorded.
With ``--fake``, checks that need a GPU are skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.checks import Checks, Skip
from resharp import Upscaler
from resharp.bench.measure import matrix_rates
from resharp.bench.measure.nvml import Nvml, open_nvml
from resharp.bench.measure.peak_memory import DevicePeak
from resharp.bench.parity_check import EXACT_FLOOR, HALF_FLOOR, image_difference
from resharp.drawing import draw
from resharp.errors import OutOfMemoryError

MIB = 1 << 20
GIB = 1 << 30
LIMIT = 40.0
"""Timeout of the child processes, in seconds."""
SIDES = (4096, 8192)
LOOKS = 50
LEFT = (600, 320, 280, 260, 64, 8)
"""Amounts of free memory to leave on the GPU, in MiB."""


def peak() -> dict[str, Any]:
    """Measure a peak like a benchmark worker, starting before there is a CUDA context."""
    nvml = _nvml()
    with DevicePeak(nvml) as found:
        time.sleep(0.05)
        import torch

        block = torch.ones(GIB, dtype=torch.uint8, device="cuda")
        torch.cuda.synchronize()
        time.sleep(0.1)
        del block
    answer = {"peak": found.peak, "by": found.by, "process": nvml.process()}
    assert found.peak >= GIB, f"the peak must be at least 1 GiB, got {answer}"
    return answer | {"device": nvml.device()}


def nvml_and_processes() -> dict[str, Any]:
    """Record whether NVML lists this process by its ID, and the cost of a query."""
    import pynvml
    import torch

    torch.zeros(1, device="cuda")
    cudnn: Any = torch.backends.cudnn
    nvml, cost = _nvml(), {}
    listed = pynvml.nvmlDeviceGetComputeRunningProcesses(nvml._handle)
    status = Path("/proc/self/status").read_text().splitlines()
    looks: dict[str, Callable[[], Any]] = {
        "process": nvml.process,
        "device": nvml.device,
        "joules": nvml.joules,
    }
    for name, look in looks.items():
        began = time.perf_counter()
        for _ in range(LOOKS):
            look()
        cost[name] = round((time.perf_counter() - began) / LOOKS * 1e3, 3)
    seen, end = set(), time.monotonic() + 0.5
    while time.monotonic() < end:
        seen.add(nvml.joules())
    return {
        "listed": [(one.pid, one.usedGpuMemory) for one in listed],
        "this process": os.getpid(),
        "namespaces": [line for line in status if line.startswith("NSpid")],
        "ms of a look": cost,
        "steps of the energy counter in 0.5 s": len(seen),
        "facts": nvml.facts(),
        "free and total": torch.cuda.mem_get_info(),
        "cudnn": cudnn.version(),
    }


def tf32() -> dict[str, float]:
    """Measure the largest relative error of a convolution against float64 for three settings."""
    import torch

    image = torch.rand(1, 64, 128, 128, device="cuda")
    weight = torch.randn(64, 64, 3, 3, device="cuda")
    exact = torch.nn.functional.conv2d(image.double(), weight.double())
    found, before = {}, torch.backends.cudnn.allow_tf32
    try:
        for name, allowed in (("as it is", before), ("forbidden", False), ("allowed", True)):
            torch.backends.cudnn.allow_tf32 = allowed
            error = (torch.nn.functional.conv2d(image, weight) - exact).abs().max()
            found[name] = float(error / exact.abs().max())
    finally:
        torch.backends.cudnn.allow_tf32 = before
    return found


def captures() -> dict[str, Any]:
    """Record what breaks a capture and the consequences: one process per kind, in parallel."""
    from benchmarks.gpu.captures import KINDS  # imports PyTorch, which must not precede peak()

    command = [sys.executable, "-m", "benchmarks.gpu.captures"]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = {kind: subprocess.Popen([*command, kind], **pipes) for kind in KINDS}
    found: dict[str, Any] = {}
    end = time.monotonic() + LIMIT
    for kind, process in running.items():
        try:
            said, errors = process.communicate(timeout=max(end - time.monotonic(), 0.1))
            lines = said.strip().splitlines()
            found[kind] = json.loads(lines[-1]) if lines else errors[-300:]
        except (subprocess.TimeoutExpired, ValueError) as error:
            process.kill()
            found[kind] = repr(error)[:200]
    assert found["nothing"]["capture"] == "equal: True", found["nothing"]
    return found


def copies() -> dict[str, float]:
    """Measure GB/s between the host and the device with PyTorch."""
    import torch

    size, found = 128 * MIB, {}
    device = torch.empty(size, dtype=torch.uint8, device="cuda")
    for name, pinned in (("page-locked", True), ("ordinary", False)):
        host = torch.ones(size, dtype=torch.uint8, pin_memory=pinned)
        for way, ends in {"up": (device, host), "down": (host, device)}.items():
            target, source = ends
            target.copy_(source, non_blocking=True)
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(4):
                target.copy_(source, non_blocking=True)
            torch.cuda.synchronize()
            seconds = time.perf_counter() - began
            found[f"{name}, {way}"] = round(4 * size / seconds / 1e9, 1)
    return found


def built_in(device: str) -> dict[str, Any]:
    """Compare the built-in model with onnxruntime on the CPU; check graphs and freed memory."""
    import torch

    on_card = device == "cuda"
    picture = draw(*((360, 640) if on_card else (48, 80)))
    found: dict[str, Any] = {}
    with Upscaler(backend="onnx", device="cpu") as exact:
        wanted = exact(picture)
    ways: dict[str, dict[str, Any]] = {
        "fp16": {},
        "tiles": {"tile": 128 if on_card else 32},
        "fp32": {"precision": "fp32"},
    }
    for name, options in ways.items():
        with Upscaler(backend="torch", device=device, **options) as upscaler:
            alike = [
                image_difference(upscaler(picture), wanted) for _ in range(4 if on_card else 1)
            ]
            note = upscaler.explain()
        found[name] = {"psnr": [round(one["psnr"], 1) for one in alike], "note": note}
        found[name]["levels"] = [one["levels"] for one in alike]
        if on_card:
            torch.cuda.synchronize()
            found[name]["bytes after closing"] = torch.cuda.memory_allocated()
        floor = EXACT_FLOOR if name == "fp32" or not on_card else HALF_FLOOR
        assert min(one["psnr"] for one in alike) >= floor, found
    return found


def two_cold_lanes() -> list[Any]:
    """Check that equal frames agree in streams with two new threads and lanes."""
    found: list[Any] = []
    for _ in range(4):
        with Upscaler(backend="torch", device="cuda", tile=256) as upscaler:
            frames = [draw(270, 480, seed=i) for i in range(2)] * 6
            first: list[Any] = []
            worst = 0
            for i, frame in enumerate(upscaler.stream(iter(frames), ahead=3)):
                if i < 2:
                    first.append(frame)
                else:
                    worst = max(worst, image_difference(frame, first[i % 2])["levels"])
            found.append([worst, upscaler.explain()[-120:]])
    assert max(one[0] for one in found) <= 1, found
    return found


def spans() -> dict[str, Any]:
    """Record whether CUPTI reports the kernels of replayed graphs, and their names."""
    from resharp.bench.implementations.resharp_backends import device_spans, union

    with Upscaler(backend="torch", device="cuda", tile=256) as upscaler:
        picture = draw(540, 960)
        for _ in range(3):
            upscaler(picture)
        began = time.perf_counter()
        upscaler(picture)
        whole = time.perf_counter() - began
        found = device_spans(lambda: upscaler(picture))
    return {
        "spans": len(found),
        "seconds of the picture": whole,
        "kernels": union(found, ()),
        "up": union(found, ("Memcpy HtoD",)),
        "down": union(found, ("Memcpy DtoH",)),
        "names": sorted({name[:40] for name, _, _ in found})[:25],
    }


def matrix_rate() -> dict[int, float]:
    """Measure the FLOP/s of a matrix product in half precision."""
    import torch

    return {side: matrix_rates._gpu(torch, side) for side in SIDES}


def references(kit: Path | None, store: Path | None, device: str) -> dict[str, Any]:
    """Compare full-size networks with the FP32 results in the kit, computed by onnxruntime."""
    if kit is None or store is None:
        raise Skip("no kit given")
    found: dict[str, Any] = {}
    bad, times = [], 3 if device == "cuda" else 1
    for path in sorted((kit / "references").glob("*.npz")):
        own = store / path.stem
        with np.load(path) as made:
            picture, wanted = made["picture"], made["restored"]
        model = str(own) if own.is_dir() else path.stem
        try:
            with Upscaler(model, backend="torch", device=device) as upscaler:
                alike = [image_difference(upscaler(picture), wanted) for _ in range(times)]
                found[path.stem] = {"note": upscaler.explain(), "likeness": alike}
        except Exception as error:
            found[path.stem] = f"{type(error).__name__}: {error}"
            bad.append(path.stem)
            continue
        floor = EXACT_FLOOR if device == "cpu" else HALF_FLOOR
        if min(one["psnr"] for one in alike) < floor:
            bad.append(path.stem)
    assert found, "the kit contains no references"
    assert not bad, f"{bad}: {found}"
    return found


def full_card() -> dict[str, str]:
    """Check that resharp recognizes the errors of a convolution on a GPU with too little memory."""
    import torch

    from resharp.runtime.backends.torch.backend import _translated

    said = {}
    image = torch.rand(1, 64, 1024, 1024, device="cuda")
    weight = torch.randn(64, 64, 3, 3, device="cuda")
    last = torch.channels_last
    ends = {
        "nchw fp32": (image, weight),
        "nhwc fp16": tuple(one.half().contiguous(memory_format=last) for one in (image, weight)),
    }
    try:
        for left in LEFT:
            torch.cuda.empty_cache()
            free, _ = torch.cuda.mem_get_info()
            hog = torch.empty(max(free - left * MIB, 0), dtype=torch.uint8, device="cuda")
            for name, (one, two) in ends.items():
                try:
                    with _translated(), torch.inference_mode():
                        torch.nn.functional.conv2d(one, two)
                        torch.cuda.synchronize()
                    answer = "ran"
                except Exception as error:
                    answer = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
                said[f"{left} MiB, {name}"] = answer
            del hog
    finally:
        torch.cuda.empty_cache()
    known = ("ran", OutOfMemoryError.__name__)
    unknown = {name: answer for name, answer in said.items() if not answer.startswith(known)}
    assert not unknown, f"not recognized as out of memory: {unknown}"
    return said


def _nvml() -> Nvml:
    found = open_nvml(0)
    if isinstance(found, str):
        raise Skip(found)
    return found


def main() -> None:
    """Run all checks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=Path)
    parser.add_argument("--kit", type=Path)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--fake", action="store_true")
    options = parser.parse_args()
    check = Checks(options.records, "probe")
    device = "cpu" if options.fake else "cuda"

    def on_a_card(question: Callable[[], Any]) -> Any:
        if options.fake:
            raise Skip("no GPU")
        return question()

    # peak() must run before PyTorch is imported, and full_card() last.
    first: tuple[Callable[[], Any], ...] = (peak, nvml_and_processes, tf32, captures, copies)
    last: tuple[Callable[[], Any], ...] = (two_cold_lanes, spans, matrix_rate, full_card)
    for one in first:
        check(one.__name__, partial(on_a_card, one))
    check("built_in", partial(built_in, device))
    check("references", partial(references, options.kit, options.store, device))
    for one in last:
        check(one.__name__, partial(on_a_card, one))
    check.end()


if __name__ == "__main__":
    main()

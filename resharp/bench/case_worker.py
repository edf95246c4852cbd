"""The child process that runs one case: ``python -m resharp.bench.case_worker``.

It reads requests as JSON lines from standard input and answers each with a JSON line on its
original standard output, which is moved so that libraries cannot write to it. Running every case in
its own process separates its memory, lets its threads sleep while another case runs, and keeps a
crash from ending the run.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from resharp.bench.cases import Case
from resharp.bench.implementations import Image, Implementation, open_implementation
from resharp.bench.measure.matrix_rates import device_allocator, matrix_rates
from resharp.bench.measure.nvml import Nvml, open_nvml
from resharp.bench.measure.peak_memory import DevicePeak, HostPeak, check_device, check_host
from resharp.bench.parity_check import exact_result, image_difference
from resharp.engines import Bundle
from resharp.errors import MissingExtraError, ResharpError
from resharp.opencv import cv2

FRAMES = 4
"""Images per lane when a stream is timed."""
CPU_ONLY = ("onnx", "onnxruntime", "openvino", "ncnn")
"""Subjects that never use a GPU."""


class CaseWorker:
    """One case, from opening to closing. Each public method handles the request of its name."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._host = HostPeak()
        self._device: DevicePeak | None = None
        self._nvml: Nvml | None = None

    def open(
        self, case: Mapping[str, Any], folder: str, engines: str | None, picture: str
    ) -> dict[str, Any]:
        """Open the case; ``picture`` is the path of a ``.npy`` file."""
        processors = _affinity()
        self._case = Case(**case)
        self._image: Image = np.load(picture)
        bundle = Bundle.open(Path(folder))
        if engines is not None:
            bundle = replace(bundle, engine_store_folder=Path(engines))
        self._host = HostPeak()
        nvml = "" if self._case.subject in CPU_ONLY else open_nvml(0)
        if isinstance(nvml, Nvml):
            self._nvml, self._device = nvml, DevicePeak(nvml)
        with self._watched():
            self._implementation: Implementation = self._stack.enter_context(
                open_implementation(self._case, bundle)
            )
        actual = self._implementation.actual(self._image)
        if processors and actual.device.startswith("cuda"):
            # With OMP_PROC_BIND, importing PyTorch has bound this thread to one processor, and the
            # threads of the lanes would inherit that.
            os.sched_setaffinity(0, processors)
        return asdict(actual)

    def check(self, reference: str) -> dict[str, Any]:
        """Run once and compare the result with the reference, the path of a ``.npy`` file."""
        with self._watched():
            image = self._implementation(self._image)
        found = image_difference(image, np.load(reference, mmap_mode="r"))
        self._host.reset()  # the memory of the comparison does not count
        return found

    def warm(self) -> dict[str, Any]:
        """Run the same work as one timed call while recording the peak of the GPU's memory."""
        with self._watched():
            self._run(1)
        return {}

    def time(self, calls: int) -> dict[str, Any]:
        """Return the mean seconds per image over a number of calls, and the joules if known."""
        before = self._nvml.joules() if self._nvml else None
        began = time.perf_counter()
        count = self._run(calls)
        seconds = (time.perf_counter() - began) / count
        after = self._nvml.joules() if self._nvml else None
        joules = None if before is None or after is None else (after - before) / count
        return {"seconds": seconds, "joules": joules}

    def memory(self) -> dict[str, Any]:
        """Return the peaks since the case was opened; on the GPU by NVML, in untimed turns only."""
        return {
            "host": self._host.read(),
            "host_before": self._host.before,
            "device": self._device.peak if self._device else None,
            "device_by": self._device.by if self._device else "",
            "framework": self._implementation.framework_peak(),
        }

    def note(self) -> dict[str, Any]:
        """Return the backend's current note, e.g. that CUDA graphs failed in its first runs."""
        return {"note": self._implementation.actual(self._image).note}

    def stages(self) -> dict[str, Any]:
        """Return the seconds of each stage of one image; files are PNGs in memory."""
        split = self._implementation.split(self._image)
        if not split:
            return {}
        result = self._implementation(self._image)
        done, data = cv2.imencode(".png", self._image)
        if not done:
            return split
        began = time.perf_counter()
        cv2.imdecode(data, cv2.IMREAD_COLOR)
        read = time.perf_counter()
        cv2.imencode(".png", result)
        return {"read": read - began, "write": time.perf_counter() - read, **split}

    def reference(self, folder: str, picture: str, out: str) -> dict[str, Any]:
        """Compute the FP32 reference of an image and save it."""
        found, made_by = exact_result(Bundle.open(Path(folder)), np.load(picture))
        np.save(out, found)
        return {"reference": made_by}

    def rates(self) -> dict[str, Any]:
        """Return the matrix-product rates of this machine."""
        return matrix_rates()

    def memory_check(self) -> dict[str, Any]:
        """Check the memory figures against an allocation of known size."""
        found: dict[str, Any] = {"host": check_host()}
        nvml = open_nvml(0)
        allocate = device_allocator() if isinstance(nvml, Nvml) else None
        if isinstance(nvml, Nvml) and allocate is not None:
            found["device"] = check_device(nvml, allocate)
        return found

    def close(self) -> dict[str, Any]:
        """Release all resources."""
        self._stack.close()
        return {}

    def _watched(self) -> AbstractContextManager[object]:
        """Return a context in which the peak of the GPU's memory is recorded."""
        return self._device or nullcontext()

    def _run(self, calls: int) -> int:
        """Run the image, as a stream if there are several lanes; return the number of images."""
        if self._case.lanes > 1:
            calls *= FRAMES * self._case.lanes
            self._implementation.stream(itertools.repeat(self._image, calls))
        else:
            for _ in range(calls):
                self._implementation(self._image)
        return calls


def _affinity() -> set[int]:
    """Return the processors that this thread may run on; empty if the system cannot tell."""
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set()


def handle(request: Mapping[str, Any], worker: CaseWorker) -> dict[str, Any]:
    """Handle a request; errors of any kind are returned as answers."""
    options = {name: value for name, value in request.items() if name != "do"}
    try:
        return {"answer": getattr(worker, request["do"])(**options)}
    except ResharpError as error:
        return {"error": str(error), "absent": isinstance(error, MissingExtraError)}
    except Exception as error:  # a bug or a library error fails this case, not the run
        return {"error": f"{type(error).__name__}: {error}", "absent": False}


def _die_with_parent() -> None:
    """Die with the parent (Linux), even if stopped and thus unable to see the end of its input."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, see prctl(2)


def main() -> None:
    """Answer requests until standard input ends."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends this process
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = CaseWorker()
    for line in sys.stdin:
        json.dump(handle(json.loads(line), worker), channel)
        channel.write("\n")
        channel.flush()
    worker.close()


if __name__ == "__main__":
    main()

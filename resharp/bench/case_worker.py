"""The child process that runs one case: ``python -m resharp.bench.case_worker``.

It takes one JSON line for each request on standard input and answers with one on what was its
standard output, which libraries cannot write to any more. So every case has a process of its own:
its memory is its own, its threads sleep while another case has its turn, and its death is the end
of nothing else.
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

import cv2
import numpy as np

from resharp.bench.cases import Case
from resharp.bench.implementations import Image, Implementation, open_implementation
from resharp.bench.measure.matrix_rates import device_allocator, matrix_rates
from resharp.bench.measure.nvml import Nvml, open_nvml
from resharp.bench.measure.peak_memory import DevicePeak, HostPeak, check_device, check_host
from resharp.bench.parity_check import exact_result, image_difference
from resharp.engines import Bundle
from resharp.errors import MissingExtraError, ResharpError

FRAMES = 4
"""Pictures of a stream for each lane."""
CPU_ONLY = ("onnx", "onnxruntime", "openvino", "ncnn")
"""Subjects that never use a GPU."""


class CaseWorker:
    """One case, from open to end. The methods are the requests; each returns the answer."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._host = HostPeak()
        self._device: DevicePeak | None = None
        self._nvml: Nvml | None = None

    def open(
        self, case: Mapping[str, Any], folder: str, engines: str | None, picture: str
    ) -> dict[str, Any]:
        """Open the case; the picture is a file of numpy's."""
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
            # OMP_PROC_BIND has bound this thread to one processor as PyTorch was imported, and the
            # threads of lanes would inherit that.
            os.sched_setaffinity(0, processors)
        return asdict(actual)

    def check(self, reference: str) -> dict[str, Any]:
        """Run once and compare with the reference, a file of numpy's."""
        with self._watched():
            image = self._implementation(self._image)
        found = image_difference(image, np.load(reference, mmap_mode="r"))
        self._host.reset()  # the comparison is not the case's
        return found

    def warm(self) -> dict[str, Any]:
        """Run what a turn of one call runs, while the peak of the GPU's memory is taken."""
        with self._watched():
            self._run(1)
        return {}

    def time(self, calls: int) -> dict[str, Any]:
        """Seconds of one picture, the mean of some calls in a row; joules where they are known."""
        before = self._nvml.joules() if self._nvml else None
        began = time.perf_counter()
        count = self._run(calls)
        seconds = (time.perf_counter() - began) / count
        after = self._nvml.joules() if self._nvml else None
        joules = None if before is None or after is None else (after - before) / count
        return {"seconds": seconds, "joules": joules}

    def memory(self) -> dict[str, Any]:
        """Peaks since the case was opened; of the GPU by NVML, in the turns that are not timed."""
        return {
            "host": self._host.read(),
            "host_before": self._host.before,
            "device": self._device.peak if self._device else None,
            "device_by": self._device.by if self._device else "",
            "framework": self._implementation.framework_peak(),
        }

    def note(self) -> dict[str, Any]:
        """What the backend says of itself by now: in its first runs CUDA graphs may have failed."""
        return {"note": self._implementation.actual(self._image).note}

    def stages(self) -> dict[str, Any]:
        """Seconds of each stage of one picture; of the files, by a PNG in memory."""
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
        """Make the FP32 reference of a picture and store it."""
        found, made_by = exact_result(Bundle.open(Path(folder)), np.load(picture))
        np.save(out, found)
        return {"reference": made_by}

    def rates(self) -> dict[str, Any]:
        """Matrix-product rates of this machine."""
        return matrix_rates()

    def memory_check(self) -> dict[str, Any]:
        """Whether the memory figures are right, on a block of known size."""
        found: dict[str, Any] = {"host": check_host()}
        nvml = open_nvml(0)
        allocate = device_allocator() if isinstance(nvml, Nvml) else None
        if isinstance(nvml, Nvml) and allocate is not None:
            found["device"] = check_device(nvml, allocate)
        return found

    def close(self) -> dict[str, Any]:
        """Give everything back."""
        self._stack.close()
        return {}

    def _watched(self) -> AbstractContextManager[object]:
        """A turn in which the peak on the GPU is taken."""
        return self._device or nullcontext()

    def _run(self, calls: int) -> int:
        """Run the picture; a stream of them with lanes. Returns how many pictures that took."""
        if self._case.lanes > 1:
            calls *= FRAMES * self._case.lanes
            self._implementation.stream(itertools.repeat(self._image, calls))
        else:
            for _ in range(calls):
                self._implementation(self._image)
        return calls


def _affinity() -> set[int]:
    """Processors that this thread may run on; empty where the system does not tell."""
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set()


def handle(request: Mapping[str, Any], worker: CaseWorker) -> dict[str, Any]:
    """Do what a request says; an error of any kind is an answer too."""
    options = {name: value for name, value in request.items() if name != "do"}
    try:
        return {"answer": getattr(worker, request["do"])(**options)}
    except ResharpError as error:
        return {"error": str(error), "absent": isinstance(error, MissingExtraError)}
    except Exception as error:  # a bug or a library's refusal: of this case, not of the run
        return {"error": f"{type(error).__name__}: {error}", "absent": False}


def _die_with_parent() -> None:
    """Also where it is stopped then, and cannot see that standard input has ended (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, see prctl(2)


def main() -> None:
    """Answer until standard input ends."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us, and says what there is
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

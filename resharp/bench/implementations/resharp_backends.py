"""resharp itself: an :class:`~resharp.Upscaler` with the settings of the case and no tuning."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from resharp.bench.cases import Case
from resharp.bench.implementations.interface import Implementation
from resharp.bench.records import ResolvedCase
from resharp.engines import Bundle, Tuning
from resharp.gpu import tensorrt as trt
from resharp.gpu.devices import has_gpu
from resharp.optional import require
from resharp.runtime import Upscaler
from resharp.runtime.backends.base import cut, stack
from resharp.runtime.tiling.bands import choose_tiling, plan_for
from resharp.types import BackendName, Image

_COPIES_UP, _COPIES_DOWN = ("Memcpy HtoD",), ("Memcpy DtoH",)


class ResharpBackend(Implementation):
    """One of resharp's backends."""

    def __init__(self, case: Case, bundle: Bundle) -> None:
        backend, device = _backend_and_device(case.subject)
        _require_library(case.subject)
        self._case = case
        tuning = Tuning(
            backend=backend,
            device="as the case says",
            batch=case.batch,
            lanes=case.lanes,
            graphs=False if case.subject == "torch-eager" else None,
        )
        self._upscaler = Upscaler(
            bundle,
            backend=backend,
            device=device,
            tile=case.tile,
            threads=case.threads,
            precision=case.precision,
            tuning=tuning if device == "cuda" else None,
        )
        self._on_gpu = self._upscaler.device.startswith("cuda")

    def __call__(self, image: Image) -> Image:
        """Upscale one image with the upscaler."""
        return self._upscaler(image)

    def stream(self, images: Iterable[Image]) -> None:
        """Run several images as a stream of the upscaler."""
        for _ in self._upscaler.stream(images, ahead=self._case.lanes + 1):
            pass

    def actual(self, image: Image) -> ResolvedCase:
        """Return the backend, device, tile, batch and lanes that the upscaler has chosen."""
        backend = self._upscaler._backend
        tiling = choose_tiling(backend, self._upscaler._tile)
        tiles = plan_for(backend, image.shape[0], image.shape[1], tiling.size)
        return ResolvedCase(
            backend=self._upscaler.backend,
            device=self._upscaler.device,
            tile=tiling.size,
            windows=len(tiles),
            pixels=tiles[0].height * tiles[0].width * min(tiling.batch, len(tiles)),
            batch=tiling.batch,
            lanes=self._upscaler.workers,
            note=self._upscaler.attempts[-1].reason,
        )

    def framework_peak(self) -> int | None:
        """Return the peak bytes of PyTorch's allocator; None for other backends or on the CPU."""
        if not (self._on_gpu and self._upscaler.backend == "torch"):
            return None
        import torch

        return torch.cuda.max_memory_allocated()

    def split(self, image: Image) -> dict[str, Any]:
        """Return the seconds of each stage, by CUPTI on a GPU and by a clock on the CPU."""
        return self._split_gpu(image) if self._on_gpu else self._split_cpu(image)

    def close(self) -> None:
        """Close the upscaler."""
        self._upscaler.close()

    def _split_cpu(self, image: Image) -> dict[str, Any]:
        """Time the network with a clock during one run, then time cutting the tiles separately."""
        backend: Any = self._upscaler._backend
        tiles = plan_for(backend, image.shape[0], image.shape[1], self._upscaler.tile)
        infer, inside = backend.infer, 0.0

        def timed(*args: Any, **named: Any) -> Image:
            nonlocal inside
            began = time.perf_counter()
            try:
                found: Image = infer(*args, **named)
            finally:
                inside += time.perf_counter() - began
            return found

        backend.infer = timed
        try:
            began = time.perf_counter()
            self._upscaler(image)
            whole = time.perf_counter() - began
        finally:
            del backend.infer
        began = time.perf_counter()
        for tile in tiles:
            stack([cut(image, tile)])
        cutting = time.perf_counter() - began
        rest = max(whole - inside - cutting, 0.0)
        by = "a clock around the network; upload is cutting tiles, download is pasting them"
        return {"upload": cutting, "compute": inside, "download": rest, "by": by}

    def _split_gpu(self, image: Image) -> dict[str, Any]:
        """Sum the spans of copies and kernels in a CUPTI profile, which may overlap."""
        spans = device_spans(lambda: self._upscaler(image))
        if not spans:
            return {}
        return {
            "upload": union(spans, _COPIES_UP),
            "compute": union(spans, ()),
            "download": union(spans, _COPIES_DOWN),
            "by": "a CUPTI profile; the three stages may overlap",
        }


Span = tuple[str, float, float]


def device_spans(work: Any) -> list[Span]:
    """Return (name, begin, end) in seconds of all GPU activities; empty if CUPTI is unavailable."""
    torch = require("torch", feature="Measuring the stages on a GPU", extra="torch")
    if not torch.cuda.is_available():
        return []
    torch.cuda.synchronize()
    try:
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profiler:
            work()
            torch.cuda.synchronize()
        events = profiler.events() or []
    except RuntimeError:
        return []
    return [
        (event.name, event.time_range.start / 1e6, event.time_range.end / 1e6)
        for event in events
        if event.device_type.name == "CUDA"
    ]


def union(spans: Iterable[Span], kinds: tuple[str, ...]) -> float:
    """Return the seconds covered by spans whose names start with ``kinds``; empty means kernels."""
    covered, reached = 0.0, float("-inf")
    for name, start, end in sorted(spans, key=lambda span: span[1]):
        if not (name.startswith(kinds) if kinds else not name.startswith(("Memcpy", "Memset"))):
            continue
        if end > reached:
            covered += end - max(start, reached)
            reached = end
    return covered


def _backend_and_device(subject: str) -> tuple[BackendName, str]:
    if subject in trt.VARIANTS:
        return "tensorrt", "cuda"
    if subject.startswith("onnx"):
        return "onnx", "cuda" if subject == "onnx-cuda" else "cpu"
    return "torch", "cuda" if subject == "torch-eager" or has_gpu() else "cpu"


def _require_library(subject: str) -> None:
    """Check for the library first, since the backend chain would only report that nothing runs.

    Raises:
        MissingExtraError: the library is not installed.
    """
    if subject in trt.VARIANTS:
        trt.load(subject)
    elif subject.startswith("torch"):
        require("torch", feature="The torch backend", extra="torch")
    else:
        extra = "gpu" if subject == "onnx-cuda" else "cpu"
        require("onnxruntime", feature="The onnx backend", extra=extra)

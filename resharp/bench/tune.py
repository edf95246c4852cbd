"""Search for the fastest settings of a model on one device.

Each candidate is timed in turns with the defaults, on several images. It replaces the defaults only
if it is faster on every image beyond the noise or if they exceed the memory limit.
"""

from __future__ import annotations

import itertools
import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from resharp.bench.capacity import MemoryLine, fit
from resharp.bench.cases import Budget, Case
from resharp.bench.machine_info import package_versions
from resharp.bench.measure.estimates import paired_ratio
from resharp.bench.measure.paired_timing import alternate
from resharp.bench.parity_check import ParityReference, make_reference, open_case
from resharp.bench.records import (
    MEASURED,
    Estimate,
    PeakMemory,
    Record,
    ResolvedCase,
    pareto_front,
)
from resharp.bench.worker_process import WorkerProcess
from resharp.engines import Bundle, Tuning
from resharp.errors import BackendError, ResharpError
from resharp.gpu import tensorrt as trt
from resharp.gpu.devices import device_name, has_gpu, usable_threads
from resharp.types import Log

logger = logging.getLogger(__name__)

CPU_TILES = (128, 192, 256, 384, 768, 1024)
GPU_TILES = (256, 384, 512, 768, 1024)
GPU_BATCHES = (1, 2, 4, 8)
GPU_LANES = (1, 2, 3)
CPU_SIZES = ((360, 640), (512, 512), (900, 300))
GPU_SIZES = ((1080, 1920), (1024, 1024), (2000, 700))
"""(height, width) of the images; they are made smaller for a slow network."""
LEAST_SIDE = 192
LONGEST_IMAGE = 1.5
"""Maximum time an image should take, in seconds; images are made smaller if necessary."""
FINAL = 3
"""Number of candidates that are tried on all images."""
LEAST_GAIN = 1.02
"""Minimum speed of a candidate on each image, relative to the defaults."""
SCREEN = Budget(pairs=3, most_pairs=9, seconds=2.0, limit=6.0)
PROVE = Budget(pairs=9, most_pairs=25, seconds=6.0, limit=20.0)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Result of one candidate on one image."""

    case: Case
    ratio: Estimate
    """Speed relative to the defaults: above 1 is faster."""
    actual: ResolvedCase
    memory: PeakMemory

    @property
    def peak(self) -> int | None:
        """Peak bytes on the device."""
        return self.record().peak_memory

    def record(self) -> Record:
        """Return the trial as a record, the input of :func:`fit`."""
        return Record(
            run="", case=self.case, status=MEASURED, actual=self.actual, memory=self.memory
        )


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """Result of a search."""

    tuning: Tuning
    front: tuple[Trial, ...]
    """Pareto front of speed and memory on the first image."""
    trials: tuple[Trial, ...]
    """All trials on the first image, starting with the defaults."""


class Tuner:
    """Search for the fastest settings of one model on one device.

    Args:
        bundle: the model, with its engines.
        subject: ``onnx``, ``torch``, ``tensorrt`` or ``tensorrt_rtx``.
        memory: maximum memory of the process on the device, in bytes; None: all free memory.
        log: called with progress lines.

    Raises:
        BackendError: the subject has no settings to tune.
    """

    def __init__(
        self,
        bundle: Bundle,
        subject: str,
        memory: int | None = None,
        log: Log = logger.info,
    ) -> None:
        self._bundle, self._subject = bundle, subject
        self._memory, self._log = memory, log
        if subject not in (*trt.VARIANTS, "torch", "onnx"):
            raise BackendError(f"{subject} has no settings to tune")
        self._on_cpu = subject == "onnx" or not (subject in trt.VARIANTS or has_gpu())
        self._references: dict[tuple[int, int], ParityReference] = {}
        self._folder = Path()

    def tune(self) -> Tuned:
        """Run the search.

        Raises:
            BackendError: the subject cannot run on this machine or within ``memory``.
        """
        with tempfile.TemporaryDirectory(prefix="resharp-tune-") as folder:
            self._folder = Path(folder)
            sizes = self._sizes()
            default = self._default(sizes[0])
            with WorkerProcess() as process:
                actual = self._open(process, default)
                one = Estimate(median=1.0, low=1.0, high=1.0)
                first = [self._trial(process, actual, default, one)]
                for case in self._candidates(sizes[0]):
                    first += self._against(process, case, SCREEN)
            best, gain = self._choose(first, sizes)
        points = [(float(trial.peak or 0), trial.ratio.median) for trial in first]
        return Tuned(
            tuning=self._tuning(best, gain, fit([trial.record() for trial in first])),
            front=tuple(first[index] for index in pareto_front(points)),
            trials=tuple(first),
        )

    def _choose(
        self, first: Sequence[Trial], sizes: Sequence[tuple[int, int]]
    ) -> tuple[Trial, float]:
        """Return the fastest trial that fits, and its speed relative to the default.

        If the default fits too, it is kept unless another trial is faster on all images.

        Raises:
            BackendError: nothing fits.
        """
        default, limit = first[0], self._memory
        able = [one for one in first if limit is None or (one.peak or 0) <= limit]
        if not able:
            least = min(one.peak or 0 for one in first)
            raise BackendError(
                f"`memory` must be at least {least} bytes (the smallest measured peak), got {limit}"
            )
        able.sort(key=lambda one: -one.ratio.median)
        if default not in able:
            return able[0], able[0].ratio.median
        hopeful = [one for one in able if one is not default and one.ratio.median >= LEAST_GAIN]
        proven = [(one, self._gain(one.case, sizes)) for one in hopeful[:FINAL]]
        best, gain = max(proven, key=lambda found: found[1], default=(default, 1.0))
        if gain > 1:
            return best, gain
        self._log("nothing is significantly faster than the defaults: keeping them")
        return default, 1.0

    def _gain(self, case: Case, sizes: Sequence[tuple[int, int]]) -> float:
        """Return the geometric mean speed relative to the default; 0 if any image is not faster."""
        logs = []
        for size in sizes:
            with WorkerProcess() as process:
                self._open(process, self._default(size))
                own = replace(case, height=size[0], width=size[1])
                found = self._against(process, own, PROVE)
            if not found or found[0].ratio.median < LEAST_GAIN or found[0].ratio.low < 1:
                return 0.0
            logs.append(math.log(found[0].ratio.median))
        return math.exp(sum(logs) / len(logs))

    def _against(self, default: WorkerProcess, case: Case, budget: Budget) -> list[Trial]:
        """Time a candidate in turns with the default; empty if it fails, e.g. out of memory."""
        try:
            with WorkerProcess() as own:
                actual = self._open(own, case)
                tile = case.tile if isinstance(case.tile, int) else actual.tile
                if (actual.tile, actual.batch) != (tile, case.batch or actual.batch):
                    self._log(f"{case.id}: the engine does not support this tile or batch")
                    return []
                times = alternate(default, own, budget)
                ratio = paired_ratio(times.first, times.second)
                trial = self._trial(own, actual, case, ratio)
        except ResharpError as error:
            self._log(f"{case.id}: {error}")
            return []
        self._log(f"{case.id}: {ratio.median:.3f} times the default's speed")
        return [trial]

    def _trial(
        self, process: WorkerProcess, actual: ResolvedCase, case: Case, ratio: Estimate
    ) -> Trial:
        memory = PeakMemory(**process.request("memory"))
        return Trial(case=case, ratio=ratio, actual=actual, memory=memory)

    def _open(self, process: WorkerProcess, case: Case) -> ResolvedCase:
        key = (case.height, case.width)
        if key not in self._references:
            made = make_reference(self._bundle, *key, self._folder, self._log)
            self._references[key] = made
        return open_case(process, case, self._references[key])[0]

    def _sizes(self) -> tuple[tuple[int, int], ...]:
        """Return the sizes of the images, made smaller for a slow network."""
        sizes = CPU_SIZES if self._on_cpu else GPU_SIZES
        with WorkerProcess() as process:
            self._open(process, self._default((LEAST_SIDE, LEAST_SIDE)))
            seconds = process.seconds()[0]
        able = LONGEST_IMAGE / seconds * LEAST_SIDE**2
        return tuple(_shrunk(size, able) for size in sizes)

    def _default(self, size: tuple[int, int]) -> Case:
        return Case(
            model=self._bundle.manifest.name,
            subject=self._subject,
            height=size[0],
            width=size[1],
            lanes=1 if self._on_cpu else 2,
        )

    def _candidates(self, size: tuple[int, int]) -> list[Case]:
        default = self._default(size)
        if self._on_cpu:
            tiles = _worth(CPU_TILES, max(size))
            found = [replace(default, tile=tile) for tile in tiles]
            if self._subject == "onnx":  # torch's thread count is a setting of the whole process
                threads = sorted({usable_threads(), max(usable_threads() // 2, 1)})
                found += [replace(default, threads=count) for count in threads]
            return found
        product = itertools.product(_worth(GPU_TILES, max(size)), GPU_BATCHES, GPU_LANES)
        return [replace(default, tile=t, batch=b, lanes=lanes) for t, b, lanes in product]

    def _tuning(self, best: Trial, gain: float, line: MemoryLine | None) -> Tuning:
        """Return the settings in use in the best trial, even if that is the default."""
        case, actual = best.case, best.actual
        lanes = None if self._on_cpu else case.lanes
        return Tuning(
            backend="tensorrt" if self._subject in trt.VARIANTS else self._subject,
            device=device_name("cpu" if self._on_cpu else "cuda"),
            tile=actual.tile,
            batch=None if self._on_cpu else actual.batch,
            lanes=lanes,
            threads=case.threads,
            bytes_per_pixel=None if line is None else line.per_pixel * (lanes or 1),
            memory=self._memory,
            gain=gain,
            versions=package_versions(),
        )


def _worth(tiles: Sequence[int], side: int) -> list[int]:
    """Return the tiles smaller than the image's larger side, and the first one that covers it."""
    below = [tile for tile in tiles if tile < side]
    return [*below, *[tile for tile in tiles if tile >= side][:1]]


def _shrunk(size: tuple[int, int], pixels: float) -> tuple[int, int]:
    """Scale a size down to a number of pixels, if it has more, keeping its aspect ratio.

    No side becomes smaller than :data:`LEAST_SIDE`, or than it was.
    """
    factor = min(math.sqrt(pixels / (size[0] * size[1])), 1.0)
    height, width = (max(round(side * factor), min(side, LEAST_SIDE)) for side in size)
    return height, width

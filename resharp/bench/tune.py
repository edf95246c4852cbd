"""The fastest settings of a model on one device, for ``export-engines --tune``.

Each candidate takes turns with the defaults, on several pictures. One is chosen only if it is
faster on every picture beyond the noise; otherwise the defaults stay, so that tuning never costs.
"""

from __future__ import annotations

import itertools
import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from resharp.bench import statistics
from resharp.bench.agree import Scene, open_case, scene
from resharp.bench.capacity import Line, fit
from resharp.bench.cases import Case, Effort
from resharp.bench.environment import environment
from resharp.bench.pairs import alternate
from resharp.bench.records import MEASURED, Actual, Memory, Record, Spread, front, peak
from resharp.bench.seat import Seat
from resharp.engines import Bundle, Tuning
from resharp.errors import BackendError, ResharpError
from resharp.gpu import tensorrt as trt
from resharp.gpu.devices import device_name, has_gpu, usable_threads

log = logging.getLogger(__name__)

CPU_TILES = (128, 192, 256, 384, 768, 1024)
GPU_TILES = (256, 384, 512, 768, 1024)
GPU_BATCHES = (1, 2, 4, 8)
GPU_LANES = (1, 2, 3)
CPU_SIZES = ((360, 640), (512, 512), (900, 300))
GPU_SIZES = ((1080, 1920), (1024, 1024), (2000, 700))
"""(height, width) of the pictures; those of a slow network are made smaller."""
LEAST_SIDE = 192
PATIENCE = 1.5
"""Seconds that a picture should take at most."""
FINAL = 3
"""Candidates that are tried on all pictures."""
LEAST_GAIN = 1.02
"""Times faster that a candidate must be on each picture."""
SCREEN = Effort(pairs=3, most_pairs=9, seconds=2.0, limit=6.0)
PROVE = Effort(pairs=9, most_pairs=25, seconds=6.0, limit=20.0)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One candidate on one picture."""

    case: Case
    ratio: Spread
    """Default's seconds over its own."""
    actual: Actual
    memory: Memory

    @property
    def peak(self) -> int | None:
        """Bytes on the device."""
        return peak(self.record())

    def record(self) -> Record:
        """For :func:`fit`."""
        return Record(
            run="", case=self.case, status=MEASURED, actual=self.actual, memory=self.memory
        )


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What was found."""

    tuning: Tuning
    front: tuple[Trial, ...]
    """On the first picture: those that nothing else beats in both speed and memory."""
    trials: tuple[Trial, ...]


class Tuner:
    """Tries settings of one model on one device.

    Args:
        bundle: the model, with its engines.
        subject: ``onnx``, ``torch``, ``tensorrt`` or ``tensorrt_rtx``.
        memory: bytes that the process may take on the device; None: whatever is free.
        report: told what happens.

    Raises:
        BackendError: that subject has nothing to tune.
    """

    def __init__(
        self,
        bundle: Bundle,
        subject: str,
        memory: int | None = None,
        report: Callable[[str], object] = log.info,
    ) -> None:
        self._bundle, self._subject = bundle, subject
        self._memory, self._report = memory, report
        self._device = _device(subject)
        self._scenes: dict[tuple[int, int], Scene] = {}
        self._folder = Path()

    def tune(self) -> Tuned:
        """Try everything.

        Raises:
            BackendError: the subject does not run here, or in that memory.
        """
        with tempfile.TemporaryDirectory(prefix="resharp-tune-") as folder:
            self._folder = Path(folder)
            sizes = self._sizes()
            default = self._default(sizes[0])
            with Seat() as seat:
                actual = self._open(seat, default)
                whole = Spread(median=1.0, low=1.0, high=1.0)
                first = [self._trial(seat, actual, default, whole)]
                for case in self._candidates(sizes[0]):
                    first += self._against(seat, case, SCREEN)
            best = self._choose(first, sizes)
        found = fit([one.record() for one in first])
        return Tuned(tuning=self._tuning(best, found), front=_front(first), trials=tuple(first))

    def _choose(self, first: Sequence[Trial], sizes: Sequence[tuple[int, int]]) -> Choice:
        """The fastest that fits: beyond doubt, where the default fits too.

        Raises:
            BackendError: none does.
        """
        able = [one for one in first if self._fits(one)]
        if not able:
            least = min(one.peak or 0 for one in first)
            raise BackendError(
                f"nothing fits in {self._memory} bytes: the least that ran took {least}"
            )
        if first[0] in able:
            return self._prove(first[0], able[1:], sizes)
        best = max(able, key=lambda one: one.ratio.median)
        return Choice(best, best.ratio.median)

    def _prove(
        self, default: Trial, able: Sequence[Trial], sizes: Sequence[tuple[int, int]]
    ) -> Choice:
        """The best candidate that is faster on all pictures; the default if none is."""
        hopeful = [one for one in able if one.ratio.median >= LEAST_GAIN]
        hopeful.sort(key=lambda one: -one.ratio.median)
        proven = [Choice(one, self._gain(one.case, sizes)) for one in hopeful[:FINAL]]
        best = max(proven, key=lambda choice: choice.gain, default=Choice(default, 1.0))
        if best.gain > 1:
            return best
        self._report("nothing is faster than the defaults beyond doubt: they stay")
        return Choice(default, 1.0)

    def _gain(self, case: Case, sizes: Sequence[tuple[int, int]]) -> float:
        """Times faster than the default over all pictures; 0 where it is not on one of them."""
        logs = []
        for size in sizes:
            with Seat() as seat:
                self._open(seat, self._default(size))
                own = replace(case, height=size[0], width=size[1])
                found = self._against(seat, own, PROVE)
            if not found or found[0].ratio.median < LEAST_GAIN or found[0].ratio.low < 1:
                return 0.0
            logs.append(math.log(found[0].ratio.median))
        return math.exp(sum(logs) / len(logs))

    def _against(self, seat: Seat, case: Case, effort: Effort) -> list[Trial]:
        """A candidate in turns with the default; nothing if it does not run, out of memory say."""
        try:
            with Seat() as own:
                actual = self._open(own, case)
                if not _as_asked(case, actual):
                    self._report(f"{case.id}: the engine takes no such tile or batch")
                    return []
                turns = alternate(seat, own, effort)
                ratio = statistics.ratios(turns.first, turns.second)
                trial = self._trial(own, actual, case, ratio)
        except ResharpError as error:
            self._report(f"{case.id}: {error}")
            return []
        self._report(f"{case.id}: {ratio.median:.3f} times the default's speed")
        return [trial]

    def _trial(self, seat: Seat, actual: Actual, case: Case, ratio: Spread) -> Trial:
        memory = Memory(**seat.ask("memory"))
        return Trial(case=case, ratio=ratio, actual=actual, memory=memory)

    def _open(self, seat: Seat, case: Case) -> Actual:
        key = (case.height, case.width)
        if key not in self._scenes:
            self._scenes[key] = scene(self._bundle, *key, self._folder, self._report)
        return open_case(seat, case, self._scenes[key], self._bundle)[0]

    def _sizes(self) -> tuple[tuple[int, int], ...]:
        """Sizes of the pictures, made smaller for a slow network."""
        sizes = CPU_SIZES if self._on_cpu else GPU_SIZES
        with Seat() as seat:
            self._open(seat, self._default((LEAST_SIDE, LEAST_SIDE)))
            seconds = seat.seconds()[0]
        able = PATIENCE / seconds * LEAST_SIDE**2
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
            threads = sorted({usable_threads(), max(usable_threads() // 2, 1)})
            return [
                *(replace(default, tile=tile) for tile in tiles),
                *(replace(default, threads=count) for count in threads if self._threaded),
            ]
        product = itertools.product(_worth(GPU_TILES, max(size)), GPU_BATCHES, GPU_LANES)
        return [replace(default, tile=t, batch=b, lanes=lanes) for t, b, lanes in product]

    def _fits(self, trial: Trial) -> bool:
        return self._memory is None or (trial.peak or 0) <= self._memory

    @property
    def _on_cpu(self) -> bool:
        return self._device == "cpu"

    @property
    def _threaded(self) -> bool:
        return self._subject == "onnx"  # torch's threads are the process's, not ours to set

    def _tuning(self, best: Choice, line: Line | None) -> Tuning:
        """What to keep: all that was in use in the best trial, also where that is the default."""
        case, actual = best.trial.case, best.trial.actual
        lanes = None if self._on_cpu else case.lanes
        return Tuning(
            backend="tensorrt" if self._subject in trt.FLAVOURS else self._subject,
            device=device_name(self._device),
            tile=actual.tile,
            batch=None if self._on_cpu else actual.batch,
            lanes=lanes,
            threads=case.threads,
            bytes_per_pixel=None if line is None else line.per_pixel * (lanes or 1),
            memory=self._memory,
            gain=best.gain,
            versions=environment()["packages"],
        )


@dataclass(frozen=True)
class Choice:
    """What was chosen."""

    trial: Trial
    gain: float
    """Times faster than the defaults."""


def _worth(tiles: Sequence[int], side: int) -> list[int]:
    """The tiles below the picture's larger side, and the first that takes it whole."""
    below = [tile for tile in tiles if tile < side]
    return [*below, *[tile for tile in tiles if tile >= side][:1]]


def _as_asked(case: Case, actual: Actual) -> bool:
    tile = case.tile if isinstance(case.tile, int) else actual.tile
    return (actual.tile, actual.batch) == (tile, case.batch or actual.batch)


def _shrunk(size: tuple[int, int], pixels: float) -> tuple[int, int]:
    """The size, or one of its shape with so many pixels; no side under :data:`LEAST_SIDE`, or its
    own."""
    factor = min(math.sqrt(pixels / (size[0] * size[1])), 1.0)
    height, width = (max(round(side * factor), min(side, LEAST_SIDE)) for side in size)
    return height, width


def _front(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    points = [(float(one.peak or 0), one.ratio.median) for one in trials]
    return tuple(trials[index] for index in front(points))


def _device(subject: str) -> str:
    if subject not in (*trt.FLAVOURS, "torch", "onnx"):
        raise BackendError(f"there is nothing to tune for {subject}")
    if subject == "onnx":
        return "cpu"
    return "cuda" if subject in trt.FLAVOURS or has_gpu() else "cpu"

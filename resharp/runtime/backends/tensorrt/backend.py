"""The tensorrt backend: a bundle's engines on an NVIDIA GPU, over CUDA streams.

It chooses the engine and proves it on this GPU; ``executor.py`` runs it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resharp.engines import Bundle, ParityResult
from resharp.engines.selection import (
    EngineCandidate,
    current_environments,
    fitting_engines,
    no_engine_error,
)
from resharp.errors import BackendError, BundleError, OptionError, OutOfMemoryError, ResharpError
from resharp.gpu.cuda import open_provider
from resharp.gpu.devices import driver_version, gpus
from resharp.runtime.backends.base import (
    Advance,
    Backend,
    BackendOptions,
    ensure_open,
    reflected,
)
from resharp.runtime.backends.tensorrt.executor import LANES, Executor
from resharp.runtime.backends.tensorrt.loaded_engine import LoadedEngine
from resharp.runtime.backends.tensorrt.verify import verify_engine
from resharp.runtime.tiling.plan import Tile, smallest_tile
from resharp.types import Image

SHUTDOWN_TIMEOUT = 5.0
"""Seconds that the end of the process waits for runs of threads that nobody ended."""
FILLING = 512 * 512
"""Pixels of one run that keep a large GPU busy."""


class TensorrtBackend(Backend):
    """The best engine that fits and keeps the picture; the float one is opened when needed.

    Raises:
        MissingExtraError: no TensorRT is installed, or neither pycuda nor cuda-python.
        BackendError: no driver, no such GPU, or no engine that can be used; every reason is given.
    """

    name = "tensorrt"

    @staticmethod
    def probe(options: BackendOptions) -> str | None:
        """Why this backend cannot run on that device here; None if it can.

        The driver is asked first: without one, TensorRT's lean runtime crashes the process.
        """
        if not options.on_cuda:
            return "TensorRT runs on CUDA only"
        if options.precision == "fp32":
            return "fp32 was asked for, and engines are FP16 where that keeps the picture"
        try:
            found = gpus()
            if options.index >= len(found):
                return f"the NVIDIA driver shows {len(found)} GPUs, so there is no {options.device}"
            current_environments(found[options.index], driver_version())
        except (ResharpError, OSError) as error:
            return str(error)
        return None

    def __init__(self, bundle: Bundle, options: BackendOptions) -> None:
        super().__init__(bundle, options)
        self._lock = threading.Lock()
        self._engines: dict[str, LoadedEngine] = {}
        self._environments = current_environments(gpus()[options.index], driver_version())
        fitting, reasons = self._fitting("uint8")
        if not fitting:  # said before a device is opened for nothing
            raise no_engine_error(bundle, self._environments, "uint8", reasons)
        self._executor = Executor(
            open_provider(options.index), self.manifest.scale, options.lanes(LANES)
        )
        self._opened = True
        # Also where nobody closes it: before the provider goes, and the interpreter.
        self._finalizer = weakref.finalize(
            self, self._executor.close, self._engines, SHUTDOWN_TIMEOUT
        )
        try:
            with self._executor.opening():
                self._engines["uint8"], self.note = self._first_good(fitting, "uint8", reasons)
        except BaseException:
            self.close()
            raise

    def infer(self, batch: Image, extra: Mapping[str, float] | None = None) -> Image:
        """See :meth:`Backend.infer`; pictures smaller than the engine takes are padded."""
        scalars = self.scalars(batch, extra)
        count, height, width, _ = batch.shape
        least = self.smallest_side()
        below, beside = max(least - height, 0), max(least - width, 0)
        if below or beside:
            rows, columns = reflected(height, height + below), reflected(width, width + beside)
            batch = batch[:, rows][:, :, columns]
        tall, wide, scale = height + below, width + beside, self.manifest.scale
        # Pictures one below the other are one picture whose tiles they are.
        tiles = [Tile(i * tall, 0, tall, wide, 0, 0, 0, 0) for i in range(count)]
        out = self._run(batch.reshape(count * tall, wide, 3), tiles, scalars, batch=count)
        out = out.reshape(count, tall * scale, wide * scale, 3)
        return out[:, : height * scale, : width * scale]

    def run(
        self,
        image: Image,
        tiles: Sequence[Tile],
        advance: Advance | None = None,
        batch: int = 1,
        out: Image | None = None,
    ) -> Image:
        """See :meth:`Backend.run`; the picture stays on the device."""
        return self._run(image, tiles, self.manifest.extra_values(), advance, batch, out)

    def _run(
        self,
        image: Image,
        tiles: Sequence[Tile],
        scalars: Sequence[float],
        advance: Advance | None = None,
        batch: int = 1,
        out: Image | None = None,
    ) -> Image:
        loaded = self._loaded(image.dtype.name)
        if out is None:
            out = self.allocate_rows(image, tiles)
        self._executor.run(loaded, image, tiles, out, batch, advance, scalars)
        return out

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Image:
        """See :meth:`Backend.allocate`; page-locked, as far as there is."""
        return self._executor.results.allocate(shape, dtype)

    def estimate(self, tile: int, batch: int) -> int:
        """See :meth:`Backend.estimate`; of all lanes, from what TensorRT says of the engine."""
        loaded = self._loaded("uint8")
        profile, pixels = loaded.profile, tile * tile * batch
        most = loaded.activation_bytes()
        if most:
            activations = most * pixels // (profile.tile**2 * profile.batch)
        else:
            activations = super().estimate(tile, batch) // 2
        ends = pixels * 3 * 4 * (1 + self.manifest.scale**2)
        return self.options.lanes(LANES) * (activations + ends)

    def free_memory(self) -> int:
        """See :meth:`Backend.free_memory`."""
        ensure_open(self._opened, self.name)
        return self._executor.free_memory()

    def largest_tile(self) -> int:
        """See :meth:`Backend.largest_tile`: that of the engine's profile."""
        return self._loaded("uint8").profile.tile

    def smallest_side(self) -> int:
        """See :meth:`Backend.smallest_side`: that of the engine's profile."""
        return self._loaded("uint8").profile.smallest

    def unsupported_reason(self, dtype: str) -> str | None:
        """See :meth:`Backend.unsupported_reason`: whether there is an engine that can be used."""
        try:
            self._loaded(dtype)
        except (BackendError, OutOfMemoryError) as error:
            return str(error)
        return None

    def tile_limit(self) -> int | None:
        """See :meth:`Backend.tile_limit`: that of the engine's profile."""
        return self.largest_tile()

    def batch_limit(self) -> int | None:
        """See :meth:`Backend.batch_limit`: that of the engine's profile."""
        return self._loaded("uint8").profile.batch

    def batch_for(self, tile: int) -> int:
        """See :meth:`Backend.batch_for`."""
        return min(max(FILLING // tile**2, 1), self._loaded("uint8").profile.batch)

    def workers(self) -> int:
        """See :meth:`Backend.workers`."""
        return self.options.lanes(LANES)

    def close(self) -> None:
        """See :meth:`Backend.close`; waits for the runs under way."""
        self._opened = False
        if self._finalizer.detach() is not None:
            self._executor.close(self._engines)

    def _loaded(self, dtype: str) -> LoadedEngine:
        ensure_open(self._opened, self.name)
        loaded = self._engines.get(dtype)
        if loaded is not None:
            return loaded
        # A lock that close() does not need: what opens here may wait for a run that closes.
        with self._lock, self._executor.opening():
            if dtype not in self._engines:
                self._engines[dtype] = self._further(dtype)
            return self._engines[dtype]

    def _fitting(
        self, dtype: str, prefer: str | None = None
    ) -> tuple[list[EngineCandidate], list[str]]:
        least = smallest_tile(self.manifest.overlap, self.manifest.size_multiple)
        return fitting_engines(self._bundle, self._environments, dtype, least=least, prefer=prefer)

    def _further(self, dtype: str) -> LoadedEngine:
        """An engine of another dtype than the first one's, like it in precision if there is one."""
        first = self._engines["uint8"].engine.spec
        fitting, reasons = self._fitting(dtype, first.precision)
        profile = first.profile
        able = [
            item
            for item in fitting
            if item.engine.spec.profile.tile >= profile.tile
            and item.engine.spec.profile.smallest <= profile.smallest
        ]
        reasons += [f"{item}: its profile is smaller" for item in fitting if item not in able]
        return self._first_good(able, dtype, reasons)[0]

    def _first_good(
        self, fitting: Sequence[EngineCandidate], dtype: str, reasons: list[str]
    ) -> tuple[LoadedEngine, str]:
        """The first engine that loads and keeps the picture, and what to know of it."""
        rejected: list[str] = []
        for candidate in fitting:
            try:
                loaded = self._proven(candidate)
            except (BundleError, BackendError, OptionError) as error:
                rejected.append(str(error))
                continue
            notes = [loaded.note, *(f"rejected: {reason}" for reason in rejected)]
            return loaded, f"{candidate}" + "".join(f"; {note}" for note in notes if note)
        raise no_engine_error(self._bundle, self._environments, dtype, [*rejected, *reasons])

    def _proven(self, candidate: EngineCandidate) -> LoadedEngine:
        """Load an engine and see that it gives on this GPU what the FP32 graph gives.

        Raises:
            BundleError: it is damaged.
            BackendError: TensorRT refuses it, or it spoils the picture.
        """
        engine_store, engine = self._bundle.engine_store, candidate.engine
        known = engine_store.parity(engine, candidate.here)
        if known is not None and not known.passed:
            raise _unlike(candidate, known)
        with self._executor.scope():
            loaded = LoadedEngine(
                engine_store, candidate, [one.name for one in self.manifest.extra]
            )
        try:
            if known is None:
                known, whole = verify_engine(self._executor, loaded, self._bundle)
                if whole or not known.passed:
                    engine_store.record(engine, candidate.here, known)
            if not known.passed:
                raise _unlike(candidate, known)
        except BaseException:
            self._executor.forget(loaded)
            raise
        return loaded


def _unlike(candidate: EngineCandidate, found: ParityResult) -> BackendError:
    return BackendError(
        f"{candidate} is {found.psnr:.1f} dB from fp32 on this GPU, up to {found.levels} levels of "
        "255 off"
    )

"""The tensorrt backend: a bundle's engines on an NVIDIA GPU, over CUDA streams.

This module chooses the engine and verifies it on this GPU; ``executor.py`` runs it.
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
"""Shutdown timeout, in seconds, for inference threads that are still running."""
FILLING = 512 * 512
"""Pixels per run that keep a large GPU busy."""


class TensorrtBackend(Backend):
    """The best engine that fits and preserves the image; the float32 one is opened on first use.

    Raises:
        MissingExtraError: TensorRT is not installed, or neither pycuda nor cuda-python is.
        BackendError: no driver, no such GPU, or no usable engine; the message gives every reason.
    """

    name = "tensorrt"

    @staticmethod
    def probe(options: BackendOptions) -> str | None:
        """Return why TensorRT cannot run on the device; None if it can.

        The driver is checked first: without one, TensorRT's lean runtime crashes the process.
        """
        if not options.on_cuda:
            return "TensorRT requires a CUDA device"
        if options.precision == "fp32":
            return "fp32 was requested, but engines use FP16 if that preserves the image"
        try:
            found = gpus()
            if options.index >= len(found):
                return f"{options.device} does not exist: the driver reports {len(found)} GPUs"
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
        if not fitting:  # fail before opening the device
            raise no_engine_error(bundle, self._environments, "uint8", reasons)
        self._executor = Executor(
            open_provider(options.index), self.manifest.scale, options.lanes(LANES)
        )
        self._opened = True
        # Frees an unclosed backend before the provider or the interpreter is gone.
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
        """Run the network on a batch; images below the engine's smallest side are padded."""
        scalars = self.scalars(batch, extra)
        count, height, width, _ = batch.shape
        least = self.smallest_side()
        below, beside = max(least - height, 0), max(least - width, 0)
        if below or beside:
            rows, columns = reflected(height, height + below), reflected(width, width + beside)
            batch = batch[:, rows][:, :, columns]
        tall, wide, scale = height + below, width + beside, self.manifest.scale
        # Images stacked vertically form one image whose tiles they are.
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
        """Run the tiles of ``image``, which stays on the device; see :meth:`Backend.run`."""
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
        """Return an uninitialized result array, in page-locked memory if it is available."""
        return self._executor.results.allocate(shape, dtype)

    def estimate(self, tile: int, batch: int) -> int:
        """Estimate the memory of a batch over all lanes, in bytes, from TensorRT's own figures."""
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
        """Return how many bytes of device memory a run may use now."""
        ensure_open(self._opened, self.name)
        return self._executor.free_memory()

    def largest_tile(self) -> int:
        """Return the largest tile of the engine's profile."""
        return self._loaded("uint8").profile.tile

    def smallest_side(self) -> int:
        """Return the smallest side of the engine's profile."""
        return self._loaded("uint8").profile.smallest

    def unsupported_reason(self, dtype: str) -> str | None:
        """Return why no engine can be used for ``dtype``; None if one can."""
        try:
            self._loaded(dtype)
        except (BackendError, OutOfMemoryError) as error:
            return str(error)
        return None

    def tile_limit(self) -> int | None:
        """Return the largest tile of the engine's profile, which is a hard limit."""
        return self.largest_tile()

    def batch_limit(self) -> int | None:
        """Return the largest batch of the engine's profile."""
        return self._loaded("uint8").profile.batch

    def batch_for(self, tile: int) -> int:
        """Return how many tiles fill a large GPU, within the engine's profile."""
        return min(max(FILLING // tile**2, 1), self._loaded("uint8").profile.batch)

    def workers(self) -> int:
        """Return the number of lanes."""
        return self.options.lanes(LANES)

    def close(self) -> None:
        """Wait for active runs and free everything. Closing twice is harmless."""
        self._opened = False
        if self._finalizer.detach() is not None:
            self._executor.close(self._engines)

    def _loaded(self, dtype: str) -> LoadedEngine:
        ensure_open(self._opened, self.name)
        loaded = self._engines.get(dtype)
        if loaded is not None:
            return loaded
        # close() does not take this lock: opening may wait for a run that closes the backend.
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
        """Return an engine for another dtype, with the precision of the first one if possible."""
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
        """Return the first engine that loads and preserves the image, and remarks on it."""
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
        """Load an engine and check that its output on this GPU matches the FP32 graph.

        Raises:
            BundleError: the engine is damaged.
            BackendError: TensorRT rejects the engine, or its output differs too much.
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
        f"{candidate} does not match fp32 on this GPU: {found.psnr:.1f} dB PSNR, off by up to "
        f"{found.levels} levels of 255"
    )

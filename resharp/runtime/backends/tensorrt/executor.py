"""Executor of engines on one device; owns the provider, the lanes and the result memory."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence

from resharp.errors import BackendError, OptionError, OutOfMemoryError
from resharp.gpu.cuda import Provider
from resharp.runtime.backends.base import Advance, core_rows
from resharp.runtime.backends.lane_pool import LanePool
from resharp.runtime.backends.tensorrt.lane import TensorrtLane
from resharp.runtime.backends.tensorrt.loaded_engine import LoadedEngine
from resharp.runtime.backends.tensorrt.pinned_pool import PinnedPool
from resharp.runtime.backends.tensorrt.tile_run import TileRun
from resharp.runtime.tiling.plan import Tile
from resharp.types import Image

LANES = 2
"""Concurrent runs: while one waits for its copies, the other computes."""


class Executor:
    """Runs engines on one device. Safe to use from several threads.

    Args:
        provider: an open device; closed by :meth:`close`, or if this constructor fails.
        scale: the model's scale.
        lanes: number of concurrent runs.
    """

    def __init__(self, provider: Provider, scale: int, lanes: int = LANES) -> None:
        self._provider, self._scale = provider, scale
        self._lock = threading.Lock()
        self._closed = False
        self._engines: Mapping[str, LoadedEngine] = {}
        self._rejected: list[LoadedEngine] = []
        self.results = PinnedPool(provider)
        try:
            with provider.scope():
                self._lanes = [TensorrtLane(provider, scale) for _ in range(lanes)]
            self._pool = LanePool(self._lanes, "tensorrt", self._finish)
        except BaseException:
            provider.close()
            raise

    def scope(self) -> contextlib.AbstractContextManager[None]:
        """Return a context manager that makes the device current in this thread."""
        return self._provider.scope()

    def run(
        self,
        loaded: LoadedEngine,
        image: Image,
        tiles: Sequence[Tile],
        out: Image,
        batch: int = 1,
        advance: Advance | None = None,
        scalars: Sequence[float] = (),
    ) -> None:
        """Run the tiles of ``image`` into ``out``, as described in :meth:`Backend.run`.

        ``scalars`` are the values of the model's extra inputs.

        Raises:
            OptionError: a tile is outside the engine's profile, or ``out`` is not as described.
            OutOfMemoryError: the device is out of memory; the memory of the lanes was released.
            BackendError: the executor is closed, or TensorRT failed.
        """
        _check(loaded, image, tiles, out, self._scale)
        batch = max(min(batch, loaded.profile.batch), 1)
        direct = self.results.owns(out)
        job = TileRun(
            self._provider, loaded, image, tiles, batch, out, self._scale, direct, scalars
        )
        with self._pool.take() as lane, self._clean(lane):
            job.prepare(lane, self._release_idle)
            job.run(lane, advance)
            if loaded.cache is not None:
                loaded.cache.note_run()

    def forget(self, loaded: LoadedEngine) -> None:
        """Free an engine that no run uses any more. Call it inside :meth:`opening`."""
        try:
            for lane in self._pool.all_lanes():
                with self._provider.scope():
                    lane.forget(loaded)
        except BackendError:  # closed meanwhile: contexts may remain, so it is freed last
            self._rejected.append(loaded)
            return
        with self._provider.scope():
            loaded.free()

    def opening(self) -> contextlib.AbstractContextManager[None]:
        """Return a context manager that defers freeing while engines are being opened.

        Raises:
            BackendError: the executor is closed.
        """
        return self._pool.pin()

    def free_memory(self) -> int:
        """Return how many bytes a run can use: free memory and what the lanes hold for it."""
        with self._provider.scope():
            return self._provider.memory()[0] + sum(lane.held for lane in self._lanes)

    def close(self, engines: Mapping[str, LoadedEngine], timeout: float | None = None) -> None:
        """Wait for active runs and free everything, the engines last.

        If called within a run, by a progress callback, resources are freed when that run ends.

        Args:
            engines: the engines to free; read last, since one may still be opening.
            timeout: seconds to wait for runs, None for no limit; runs that take longer are left to
                the end of the process.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._engines = engines
        self._pool.close(timeout)

    def _finish(self) -> None:
        """Free what the lanes needed, after the last lane was closed."""
        with contextlib.ExitStack() as last:
            last.callback(self.results.close)
            last.enter_context(self._provider.scope())
            for loaded in (*self._engines.values(), *self._rejected):
                last.callback(loaded.free)
                if loaded.cache is not None:
                    last.callback(loaded.cache.save)

    @contextlib.contextmanager
    def _clean(self, lane: TensorrtLane) -> Iterator[None]:
        """Make the device current, and leave the lane idle even after an error."""
        with self._provider.scope():
            try:
                yield
            except OutOfMemoryError:
                lane.release_memory()
                raise
            finally:
                lane.synchronize()

    def _release_idle(self) -> None:
        with self._pool.idle() as lanes:
            for lane in lanes:
                lane.release_memory()


def _check(
    loaded: LoadedEngine, image: Image, tiles: Sequence[Tile], out: Image, scale: int
) -> None:
    profile, name = loaded.profile, loaded.engine.model
    sides = {tiles[0].height, tiles[0].width}
    if max(sides) > profile.tile or min(sides) < profile.smallest:
        raise OptionError(
            f"a tile of {tiles[0].width}x{tiles[0].height} is outside the engine's profile, "
            f"{profile.smallest} to {profile.tile}: use `tile`='auto', or run 'export-engines "
            f"{name}' with `tile`={max(sides)} to build a larger engine"
        )
    start, end = core_rows(tiles)
    shape = ((end - start) * scale, image.shape[1] * scale, 3)
    if (out.shape, out.dtype) != (shape, image.dtype) or not out.flags.c_contiguous:
        raise OptionError(f"`out` must be a C-contiguous array of {image.dtype} {shape}")

"""Runs of engines on one device: owns the provider, the lanes and the results' memory."""

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
"""Runs at a time: while one waits for its copies, the other computes."""


class Executor:
    """Safe to use from several threads.

    Args:
        provider: an open device; closed by :meth:`close`, or when it fails here.
        scale: of the model.
        lanes: runs at a time.
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
        """See :meth:`Provider.scope`."""
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
        """Run the tiles of ``image`` into ``out``; see :meth:`Backend.run`.

        ``scalars`` are the model's further inputs.

        Raises:
            OptionError: the tiles are not in the engine's profile, or ``out`` is not contiguous.
            OutOfMemoryError: the device has no room for them; the lanes' memory was given back.
            BackendError: this was closed, or TensorRT refused.
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
        """Free an engine that no run uses any more; inside :meth:`opening`."""
        try:
            for lane in self._pool.all_lanes():
                with self._provider.scope():
                    lane.forget(loaded)
        except BackendError:  # closed meanwhile: its contexts may be anywhere, so it goes last
            self._rejected.append(loaded)
            return
        with self._provider.scope():
            loaded.free()

    def opening(self) -> contextlib.AbstractContextManager[None]:
        """While engines are being opened, nothing is freed under them.

        Raises:
            BackendError: this was closed.
        """
        return self._pool.pin()

    def free_memory(self) -> int:
        """Bytes that a run can use: free ones, and those that lanes hold for it."""
        with self._provider.scope():
            return self._provider.memory()[0] + sum(lane.held for lane in self._lanes)

    def close(self, engines: Mapping[str, LoadedEngine], timeout: float | None = None) -> None:
        """Wait for the runs under way and free everything, the models last.

        Called from within a run, by a progress callback, it is the end of that run that frees.

        Args:
            engines: read at the end: one that is being opened now may still come.
            timeout: seconds to wait for runs; what has not ended by then is left to the end of the
                process.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._engines = engines
        self._pool.close(timeout)

    def _finish(self) -> None:
        """After the last lane: what the lanes needed."""
        with contextlib.ExitStack() as last:
            last.callback(self.results.close)
            last.enter_context(self._provider.scope())
            for loaded in (*self._engines.values(), *self._rejected):
                last.callback(loaded.free)
                if loaded.cache is not None:
                    last.callback(loaded.cache.save)

    @contextlib.contextmanager
    def _clean(self, lane: TensorrtLane) -> Iterator[None]:
        """The device is current, and the lane is idle at the end, however that came."""
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
            f"a tile of {tiles[0].width}x{tiles[0].height} is not in the engine's profile, "
            f"{profile.smallest} to {profile.tile}: use tile='auto', or build a larger one with "
            f"export-engines {name} --tile {max(sides)}"
        )
    start, end = core_rows(tiles)
    shape = ((end - start) * scale, image.shape[1] * scale, 3)
    if (out.shape, out.dtype) != (shape, image.dtype) or not out.flags.c_contiguous:
        raise OptionError(f"out must be a C-contiguous array of {image.dtype} {shape}")

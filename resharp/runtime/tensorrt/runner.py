"""Runs of engines on one device: owns the provider, the lanes and the results' memory."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resharp.errors import OptionError, OutOfMemoryError
from resharp.runtime.backends.base import Advance
from resharp.runtime.cuda import Provider
from resharp.runtime.plan import Tile
from resharp.runtime.tensorrt.job import Job
from resharp.runtime.tensorrt.lane import Lane, Pool
from resharp.runtime.tensorrt.loading import Model
from resharp.runtime.tensorrt.results import Results

Image = NDArray[Any]

LANES = 2
"""Runs at a time: while one waits for its copies, the other computes."""
GROUPS_PER_LANE = 2
"""Runs of the network that make a further lane worth its memory."""


class Runner:
    """Safe to use from several threads.

    Args:
        provider: an open device; closed by :meth:`close`, or when it fails here.
        scale: of the model.
    """

    def __init__(self, provider: Provider, scale: int) -> None:
        self._provider, self._scale = provider, scale
        self._lock = threading.Lock()
        self._closed = False
        self.results = Results(provider)
        try:
            with provider.scope():
                self._pool = Pool([Lane(provider, scale) for _ in range(LANES)])
        except BaseException:
            provider.close()
            raise

    def scope(self) -> contextlib.AbstractContextManager[None]:
        """See :meth:`Provider.scope`."""
        return self._provider.scope()

    def run(
        self,
        model: Model,
        image: Image,
        tiles: Sequence[Tile],
        out: Image,
        batch: int = 1,
        advance: Advance | None = None,
    ) -> None:
        """Run the tiles of ``image`` into ``out``; see :meth:`Backend.run`.

        Raises:
            OptionError: the tiles are not in the engine's profile, or ``out`` is not contiguous.
            OutOfMemoryError: the device has no room for them; the lanes' memory was given back.
            BackendError: this was closed, or TensorRT refused.
        """
        _check(model, tiles, out)
        batch = max(min(batch, model.profile.batch), 1)
        direct = self.results.holds(out)
        job = Job(self._provider, model, image, tiles, batch, out, self._scale, direct)
        with self._crew(-(-job.groups // GROUPS_PER_LANE)) as lanes:
            job.prepare(lanes, self._relieve_idle)
            job.run(advance)
            if model.cache is not None:
                model.cache.save_once()

    def forget(self, model: Model) -> None:
        """Free an engine that no run uses any more."""
        for lane in self._pool.each():
            with self._provider.scope():
                lane.forget(model)
        with self._provider.scope():
            model.free()

    def free_memory(self) -> int:
        """Bytes that a run can use: free ones, and those that idle lanes hold for it."""
        with self._provider.scope():
            return self._provider.memory()[0] + self._pool.held

    def close(self, models: Sequence[Model] = ()) -> None:
        """Wait for the runs under way and free everything, the models last."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        lanes = self._pool.close()
        with self._provider.scope():
            for lane in lanes:
                lane.free()
            for model in models:
                if model.cache is not None:
                    model.cache.save()
                model.free()
        self.results.close()

    @contextlib.contextmanager
    def _crew(self, most: int) -> Iterator[list[Lane]]:
        """Lanes for one run; they are idle when they go back, however it ended."""
        lanes = self._pool.take(most)
        try:
            with self._provider.scope():
                try:
                    yield lanes
                except OutOfMemoryError:
                    for lane in lanes:
                        lane.relieve()
                    raise
                finally:
                    for lane in lanes:
                        lane.settle()
        finally:
            self._pool.give(lanes)

    def _relieve_idle(self) -> None:
        lanes = self._pool.spare()
        try:
            for lane in lanes:
                lane.relieve()
        finally:
            self._pool.give(lanes)


def _check(model: Model, tiles: Sequence[Tile], out: Image) -> None:
    profile, name = model.profile, model.engine.model
    sides = {tiles[0].height, tiles[0].width}
    if max(sides) > profile.tile or min(sides) < profile.smallest:
        raise OptionError(
            f"a tile of {tiles[0].width}x{tiles[0].height} is not in the engine's profile, "
            f"{profile.smallest} to {profile.tile}: use tile='auto', or build a larger one with "
            f"export-engines {name} --tile {max(sides)}"
        )
    if not out.flags.c_contiguous or out.dtype not in (np.uint8, np.float32):
        raise OptionError("out must be a C-contiguous array of uint8 or float32")

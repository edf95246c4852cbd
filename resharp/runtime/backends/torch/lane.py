"""One run of the torch backend on one lane, with several tile rows in flight.

This module only defines the order of operations; CUDA is behind :class:`TorchLane`
(``cuda_lane.py``). It does not import torch, and all of it is tested without a GPU.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from resharp.runtime.backends.base import Advance, batched, check_result, core_rows, paste
from resharp.runtime.tiling.plan import Tile
from resharp.types import Image

IN_FLIGHT = 2
"""Chunks of tile rows that are queued or being copied while the host waits for an older one."""

Wait = Callable[[], object]
"""Returns when a download is done; keeps the tensor that it reads until then."""


class TorchLane(Protocol):
    """GPU operations of one run. Used by one thread at a time."""

    def active(self) -> AbstractContextManager[object]:
        """Make the lane's stream current."""

    def upload(self, image: Image) -> Any:
        """Start copying an image to the device."""

    def prepare(self, count: int, height: int, width: int, dtype: Any) -> None:
        """Announce the shape of the next batches, before anything of the run is queued."""

    def empty(self, height: int, width: int, dtype: Any) -> Any:
        """Return an uninitialized image on the device."""

    def cut(self, source: Any, tile: Tile) -> Any:
        """Return a tile's window, padded by reflection where it exceeds the image."""

    def forward(self, windows: Sequence[Any]) -> Any:
        """Queue the network on windows of one shape. The next call may overwrite the result."""

    def download(self, rows: Any, target: Image) -> Wait:
        """Start copying ``rows`` to the host once they are computed, while later work continues."""

    def set_scalars(self, scalars: Sequence[float]) -> None:
        """Queue new values of the network's extra inputs."""

    def synchronize(self) -> None:
        """Wait until nothing of the lane is running."""

    def close(self) -> None:
        """Wait until the lane is idle, and free everything."""


def run_tiles(
    lane: TorchLane,
    image: Image,
    tiles: Sequence[Tile],
    out: Image,
    scale: int,
    advance: Advance | None,
    batch: int,
    scalars: Sequence[float] = (),
) -> None:
    """Run the tiles of ``image`` into ``out``, as described in :meth:`Backend.run`.

    The host queues work and waits only for the chunk that it hands over, with :data:`IN_FLIGHT`
    newer ones queued behind it. After any error, e.g. from ``advance``, the lane is idle: until
    then the frames keep every tensor that a stream still reads.
    """
    start, waiting = core_rows(tiles)[0], deque[tuple[Wait, int]]()

    def hand_over() -> None:
        wait, count = waiting.popleft()
        wait()
        if advance is not None:  # outside active(): the caller's torch code keeps its stream
            advance(count)

    try:
        with lane.active():
            lane.set_scalars(scalars)
            source = lane.upload(image)
            for count in {len(g) for c in chunks(tiles, batch) for g in batched(c, batch)}:
                lane.prepare(count, tiles[0].height, tiles[0].width, source.dtype)
        for chunk in chunks(tiles, batch):
            first, end = core_rows(chunk)
            target = out[(first - start) * scale : (end - start) * scale]
            with lane.active():
                rows = lane.empty(target.shape[0], target.shape[1], source.dtype)
                for group in batched(chunk, batch):
                    windows = [lane.cut(source, tile) for tile in group]
                    results = lane.forward(windows)
                    check_result(results, windows[0], len(windows), scale, "the model")
                    for tile, result in zip(group, results, strict=True):
                        paste(rows, result, tile, first, scale)
                waiting.append((lane.download(rows, target), len(chunk)))
            if len(waiting) > IN_FLIGHT:
                hand_over()
        while waiting:
            hand_over()
    except BaseException:
        lane.synchronize()
        raise


def run_batch(lane: TorchLane, batch: Image, out: Image, scalars: Sequence[float] = ()) -> None:
    """Run the network on ``[n, h, w, 3]`` into ``out``, as described in :meth:`Backend.infer`."""
    try:
        with lane.active():
            lane.set_scalars(scalars)
            source = lane.upload(batch)
            count, height, width, _ = batch.shape
            lane.prepare(count, height, width, source.dtype)
            results = lane.forward(list(source))
            check_result(results, source[0], count, out.shape[1] // height, "the model")
            wait = lane.download(results, out)
        wait()
    except BaseException:
        lane.synchronize()
        raise


def chunks(tiles: Sequence[Tile], batch: int) -> Iterator[list[Tile]]:
    """Yield chunks of whole tile rows that fill a batch; each is copied back at once."""
    chunk: list[Tile] = []
    for _, row in itertools.groupby(tiles, key=lambda tile: tile.y):
        chunk.extend(row)
        if len(chunk) >= batch:
            yield chunk
            chunk = []
    if chunk:
        yield chunk

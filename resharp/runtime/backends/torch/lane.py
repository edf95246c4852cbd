"""One run of the torch backend on one lane: tile rows in flight.

Only the order of things is here; CUDA is behind :class:`TorchLane` (``cuda_lane.py``). So all of it
is tested without a GPU, and nothing here imports torch.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from resharp.runtime.backends.base import Advance, batched, core_rows, paste
from resharp.runtime.tiling.plan import Tile
from resharp.types import Image

IN_FLIGHT = 2
"""Chunks of tile rows that are queued or on their way while the host waits for an older one."""

Wait = Callable[[], object]
"""Returns when a download is done; holds the tensor that it reads until then."""


class TorchLane(Protocol):
    """What one run needs of a GPU. Used by one thread at a time."""

    def active(self) -> AbstractContextManager[object]:
        """Make the lane's stream the current one."""

    def upload(self, image: Image) -> Any:
        """Begin to copy an array to the device."""

    def prepare(self, count: int, height: int, width: int, dtype: Any) -> None:
        """Say which batch comes next, before anything of the run is queued."""

    def empty(self, height: int, width: int, dtype: Any) -> Any:
        """A picture on the device, uninitialised."""

    def cut(self, source: Any, tile: Tile) -> Any:
        """A tile's window; what hangs over repeats the last row and column."""

    def forward(self, windows: Sequence[Any]) -> Any:
        """Queue the network on windows of one shape. The next call may overwrite the result."""

    def download(self, rows: Any, target: Image) -> Wait:
        """Begin to copy to the host what is queued for ``rows``, while later work goes on."""

    def set_scalars(self, scalars: Sequence[float]) -> None:
        """Queue what the network's further inputs are from here on."""

    def synchronize(self) -> None:
        """Wait until nothing of the lane is running."""

    def close(self) -> None:
        """Settle, and free everything."""


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
    """Run the tiles of ``image`` into ``out``; see :meth:`Backend.run`.

    The host queues, and waits only for the chunk that it hands over, with :data:`IN_FLIGHT` newer
    ones queued behind it. Whatever is raised, by ``advance`` say, leaves the lane idle: until then
    the frames keep every tensor that a stream still reads.
    """
    start, waiting = core_rows(tiles)[0], deque[tuple[Wait, int]]()

    def hand_over() -> None:
        wait, count = waiting.popleft()
        wait()
        if advance is not None:  # outside active(): a caller's own torch code keeps its stream
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
                    results = lane.forward([lane.cut(source, tile) for tile in group])
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
    """Run the network on ``[n, h, w, 3]`` into ``out``; see :meth:`Backend.infer`."""
    try:
        with lane.active():
            lane.set_scalars(scalars)
            source = lane.upload(batch)
            count, height, width, _ = batch.shape
            lane.prepare(count, height, width, source.dtype)
            wait = lane.download(lane.forward(list(source)), out)
        wait()
    except BaseException:
        lane.synchronize()
        raise


def chunks(tiles: Sequence[Tile], batch: int) -> Iterator[list[Tile]]:
    """Whole rows of tiles, as many as fill a batch: what is copied back in one go."""
    chunk: list[Tile] = []
    for _, row in itertools.groupby(tiles, key=lambda tile: tile.y):
        chunk.extend(row)
        if len(chunk) >= batch:
            yield chunk
            chunk = []
    if chunk:
        yield chunk

"""One run on one lane: upload rows, run tiles through the network, download finished rows.

Rows of the image are uploaded when the first tile that needs them is queued, so that the host
fills the staging memory while the device computes. The host waits only for chunks of finished
rows, never for single tiles.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resharp.errors import OutOfMemoryError
from resharp.gpu.cuda import Event, Provider
from resharp.runtime.backends.base import Advance, batched, core_rows, reflected
from resharp.runtime.backends.tensorrt.lane import AHEAD, Slot, TensorrtLane
from resharp.runtime.backends.tensorrt.loaded_engine import LoadedEngine
from resharp.runtime.tiling.plan import Tile
from resharp.types import Image

PIECE = 8 << 20
"""Bytes per download into staging memory."""


@dataclass(frozen=True)
class _Chunk:
    """Rows of the result whose computation is queued."""

    start: int
    """First byte."""
    end: int
    tiles: int
    mark: Event
    """Event recorded after the computation."""


class TileRun:
    """One tiled run of an engine; create a new one for each run.

    Args:
        provider: an open device; its scope must be active during all calls.
        loaded: the engine.
        image: ``[h, w, 3]``.
        tiles: tiles in reading order.
        batch: tiles per run of the network.
        out: C-contiguous array for the rows that the tiles' cores cover.
        scale: the model's scale.
        direct: whether ``out`` is page-locked.
        scalars: values of the model's extra inputs.
    """

    def __init__(
        self,
        provider: Provider,
        loaded: LoadedEngine,
        image: Image,
        tiles: Sequence[Tile],
        batch: int,
        out: Image,
        scale: int,
        direct: bool,
        scalars: Sequence[float] = (),
    ) -> None:
        self._provider, self._loaded, self._image = provider, loaded, image
        self._tiles, self._batch, self._scale, self._direct = tiles, batch, scale, direct
        self._scalars = scalars
        self._bytes: NDArray[np.uint8] = out.reshape(-1).view(np.uint8)
        self._pixel = 3 * image.dtype.itemsize
        self._start = core_rows(tiles)[0]
        self._pitch_out = image.shape[1] * scale * self._pixel
        self._height = max(image.shape[0], max(tile.y + tile.height for tile in tiles))
        self._width = max(image.shape[1], max(tile.x + tile.width for tile in tiles))
        self._sent = 0

    def prepare(self, lane: TensorrtLane, release_others: Callable[[], None]) -> None:
        """Allocate memory on the lane.

        Args:
            lane: a lane leased to this run.
            release_others: frees the memory of lanes that are not in use.

        Raises:
            OutOfMemoryError: the device is out of memory.
        """
        try:
            self._make_room(lane)
        except OutOfMemoryError:
            release_others()
            self._make_room(lane)

    def run(self, lane: TensorrtLane, advance: Advance | None) -> None:
        """Run on a lane that was prepared; return when every row is in ``out``."""
        lane.set_scalars(self._scalars)
        chunks = self._compute_all(lane)
        queued: deque[_Chunk] = deque()
        while True:
            chunk = next(chunks, None)
            if chunk is not None:
                queued.append(chunk)
            if not queued:
                return
            if chunk is None or len(queued) > AHEAD:
                done = queued.popleft()
                self._fetch(lane, done)
                if advance is not None:
                    advance(done.tiles)

    def _make_room(self, lane: TensorrtLane) -> None:
        lane.source.grow(self._height * self._width * self._pixel)
        lane.rows.grow(self._bytes.size)
        lane.prepare(self._loaded, self._shape(self._batch))

    def _shape(self, count: int) -> tuple[int, int, int]:
        return min(count, len(self._tiles)), self._tiles[0].height, self._tiles[0].width

    def _send(self, lane: TensorrtLane, upto: int) -> None:
        """Upload rows of the image, padded by reflection where they exceed it."""
        first, height, width = self._sent, *self._image.shape[:2]
        if upto <= first:
            return
        pitch = self._width * self._pixel
        staging = lane.staging.grow(self._height * pitch)[first * pitch : upto * pitch]
        rows = staging.view(self._image.dtype).reshape(upto - first, self._width, 3)
        real = max(min(upto, height) - first, 0)
        rows[:real, :width] = self._image[first : first + real]
        beyond = reflected(height, upto)[first + real :]
        rows[real:, :width] = self._image[beyond]
        rows[:, width:] = rows[:, reflected(width, self._width)[width:]]
        self._provider.upload(lane.source.address + first * pitch, staging, lane.copy)
        lane.uploaded.record(lane.copy)
        lane.compute.wait(lane.uploaded)
        self._sent = upto

    def _compute_all(self, lane: TensorrtLane) -> Iterator[_Chunk]:
        """Queue group after group, and yield each chunk once all of it is queued."""
        ends = [
            (index + 1, (tile.core[2] - self._start) * self._scale * self._pitch_out)
            for index, tile in enumerate(self._tiles)
            if index + 1 == len(self._tiles) or self._tiles[index + 1].y != tile.y
        ]
        marks = itertools.cycle(lane.computed)
        queued = tiles = start = 0
        for group in batched(self._tiles, self._batch):
            self._send(lane, max(tile.y + tile.height for tile in group))
            self._compute(lane, group)
            queued += len(group)
            finished = [row for row in ends if tiles < row[0] <= queued]
            if not finished:
                continue
            upto, end = finished[-1]
            mark = next(marks)
            mark.record(lane.compute)
            yield _Chunk(start, end, upto - tiles, mark)
            tiles, start = upto, end

    def _compute(self, lane: TensorrtLane, group: Sequence[Tile]) -> None:
        shape = self._shape(len(group))
        _, height, width = shape
        window, pitch = height * width * self._pixel, self._width * self._pixel
        for index, tile in enumerate(group):
            self._provider.copy_rows(
                lane.tiles.address + index * window,
                width * self._pixel,
                lane.source.address + tile.y * pitch + tile.x * self._pixel,
                pitch,
                width * self._pixel,
                height,
                lane.compute,
            )
        lane.contexts(self._loaded).enqueue(shape)
        for index, tile in enumerate(group):
            self._paste(lane, lane.results.address + index * window * self._scale**2, tile)

    def _paste(self, lane: TensorrtLane, result: int, tile: Tile) -> None:
        """Copy the tile's core into the rows of the result."""
        top, left, bottom, right = tile.core
        scale, pixel = self._scale, self._pixel
        pitch = tile.width * scale * pixel
        self._provider.copy_rows(
            lane.rows.address
            + (top - self._start) * scale * self._pitch_out
            + left * scale * pixel,
            self._pitch_out,
            result + tile.top * scale * pitch + tile.left * scale * pixel,
            pitch,
            (right - left) * scale * pixel,
            (bottom - top) * scale,
            lane.compute,
        )

    def _fetch(self, lane: TensorrtLane, chunk: _Chunk) -> None:
        """Download a chunk into ``out``."""
        lane.copy.wait(chunk.mark)
        step = chunk.end - chunk.start if self._direct else PIECE
        under_way: deque[tuple[Slot, NDArray[np.uint8], NDArray[np.uint8]]] = deque()
        for number, start in enumerate(range(chunk.start, chunk.end, max(step, 1))):
            slot = lane.slots[number % len(lane.slots)]
            if len(under_way) == len(lane.slots):
                _land(*under_way.popleft())
            target = self._bytes[start : min(start + step, chunk.end)]
            landing = target if self._direct else slot.buffer.grow(target.size)
            self._provider.download(landing, lane.rows.address + start, lane.copy)
            slot.event.record(lane.copy)
            under_way.append((slot, landing, target))
        while under_way:
            _land(*under_way.popleft())


def _land(slot: Slot, landing: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
    slot.event.synchronize()
    if landing is not target:
        target[...] = landing

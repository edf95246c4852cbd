"""One run over one or more lanes: upload, tiles through the network, rows back as they finish.

The first lane holds the picture and the rows of the result; the others read and write there too,
each in its own stream. Only chunks of finished rows are waited for, never single tiles.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resharp.errors import OutOfMemoryError
from resharp.runtime.backends.base import Advance, batched, core_rows
from resharp.runtime.cuda import Provider
from resharp.runtime.plan import Tile
from resharp.runtime.tensorrt.lane import AHEAD, Lane, Slot
from resharp.runtime.tensorrt.loading import Model

Image = NDArray[Any]

PIECE = 8 << 20
"""Bytes of one download into staging memory."""


@dataclass(frozen=True)
class _Chunk:
    """Rows of the result whose computation is queued."""

    start: int
    """First byte."""
    end: int
    tiles: int
    mark: int
    """Which of the lanes' marks stands behind it."""


class Job:
    """Made for one run and thrown away.

    Args:
        provider: an open device, in whose scope all is called.
        model: the engine.
        image: ``[h, w, 3]``.
        tiles: in reading order.
        batch: tiles of one run of the network.
        out: the rows that the tiles' cores cover, C-contiguous.
        scale: of the model.
        direct: whether ``out`` is page-locked.
    """

    def __init__(
        self,
        provider: Provider,
        model: Model,
        image: Image,
        tiles: Sequence[Tile],
        batch: int,
        out: Image,
        scale: int,
        direct: bool,
    ) -> None:
        self._provider, self._model, self._image = provider, model, image
        self._tiles, self._batch, self._scale, self._direct = tiles, batch, scale, direct
        self._bytes: NDArray[np.uint8] = out.reshape(-1).view(np.uint8)
        self._pixel = 3 * image.dtype.itemsize
        self._start = core_rows(tiles)[0]
        self._pitch_out = image.shape[1] * scale * self._pixel
        self._height = max(image.shape[0], max(tile.y + tile.height for tile in tiles))
        self._width = max(image.shape[1], max(tile.x + tile.width for tile in tiles))
        self._lanes: list[Lane] = []

    @property
    def groups(self) -> int:
        """Runs of the network."""
        return -(-len(self._tiles) // self._batch)

    def prepare(self, lanes: Sequence[Lane], spare: Callable[[], None]) -> None:
        """Make room on the lanes; those that find none are not used.

        Args:
            lanes: at least one.
            spare: frees what lanes outside this run hold.

        Raises:
            OutOfMemoryError: not even one lane found room.
        """
        main, *others = lanes
        try:
            self._prepare_main(main)
        except OutOfMemoryError:
            for lane in others:
                lane.relieve()
            spare()
            others = []
            self._prepare_main(main)
        self._lanes = [main]
        for lane in others:
            try:
                lane.prepare(self._model, self._shape(self._batch))
            except OutOfMemoryError:
                lane.relieve()
                break
            self._lanes.append(lane)

    def run(self, advance: Advance | None) -> None:
        """Do it; returns when every row is in ``out``."""
        self._upload()
        chunks = self._compute_all()
        queued: deque[_Chunk] = deque()
        while True:
            chunk = next(chunks, None)
            if chunk is not None:
                queued.append(chunk)
            if not queued:
                return
            if chunk is None or len(queued) > AHEAD:
                done = queued.popleft()
                self._fetch(done)
                if advance is not None:
                    advance(done.tiles)

    def _prepare_main(self, lane: Lane) -> None:
        lane.source.grow(self._height * self._width * self._pixel)
        lane.rows.grow(self._bytes.size)
        lane.prepare(self._model, self._shape(self._batch))

    def _shape(self, count: int) -> tuple[int, int, int]:
        return min(count, len(self._tiles)), self._tiles[0].height, self._tiles[0].width

    def _upload(self) -> None:
        main, (height, width) = self._lanes[0], self._image.shape[:2]
        size = self._height * self._width * self._pixel
        pinned = main.staging.grow(size).array[:size]
        whole = pinned.view(self._image.dtype).reshape(self._height, self._width, 3)
        whole[:height, :width] = self._image
        whole[:height, width:] = whole[:height, width - 1 : width]
        whole[height:] = whole[height - 1]
        self._provider.upload(main.source.address, pinned, main.copy)
        main.uploaded.record(main.copy)
        for lane in self._lanes:
            lane.compute.wait(main.uploaded)

    def _compute_all(self) -> Iterator[_Chunk]:
        """Queue group after group; what is yielded is queued as a whole."""
        ends = [
            (index + 1, (tile.core[2] - self._start) * self._scale * self._pitch_out)
            for index, tile in enumerate(self._tiles)
            if index + 1 == len(self._tiles) or self._tiles[index + 1].y != tile.y
        ]
        queued = tiles = start = mark = 0
        for number, group in enumerate(batched(self._tiles, self._batch)):
            self._compute(self._lanes[number % len(self._lanes)], group)
            queued += len(group)
            finished = [row for row in ends if tiles < row[0] <= queued]
            if not finished:
                continue
            upto, end = finished[-1]
            for lane in self._lanes:
                lane.computed[mark].record(lane.compute)
            yield _Chunk(start, end, upto - tiles, mark)
            tiles, start, mark = upto, end, (mark + 1) % (AHEAD + 1)

    def _compute(self, lane: Lane, group: Sequence[Tile]) -> None:
        shape = self._shape(len(group))
        _, height, width = shape
        window, pitch = height * width * self._pixel, self._width * self._pixel
        for index, tile in enumerate(group):
            self._provider.copy_rows(
                lane.tiles.address + index * window,
                width * self._pixel,
                self._lanes[0].source.address + tile.y * pitch + tile.x * self._pixel,
                pitch,
                width * self._pixel,
                height,
                lane.compute,
            )
        lane.contexts(self._model).enqueue(shape)
        for index, tile in enumerate(group):
            self._paste(lane, lane.results.address + index * window * self._scale**2, tile)

    def _paste(self, lane: Lane, result: int, tile: Tile) -> None:
        """The tile's core into the rows of the result."""
        top, left, bottom, right = tile.core
        scale, pixel = self._scale, self._pixel
        pitch = tile.width * scale * pixel
        self._provider.copy_rows(
            self._lanes[0].rows.address
            + (top - self._start) * scale * self._pitch_out
            + left * scale * pixel,
            self._pitch_out,
            result + tile.top * scale * pitch + tile.left * scale * pixel,
            pitch,
            (right - left) * scale * pixel,
            (bottom - top) * scale,
            lane.compute,
        )

    def _fetch(self, chunk: _Chunk) -> None:
        """Bring a chunk into ``out``."""
        main = self._lanes[0]
        for lane in self._lanes:
            main.copy.wait(lane.computed[chunk.mark])
        step = chunk.end - chunk.start if self._direct else PIECE
        under_way: deque[tuple[Slot, NDArray[np.uint8], NDArray[np.uint8]]] = deque()
        for number, start in enumerate(range(chunk.start, chunk.end, max(step, 1))):
            slot = main.slots[number % len(main.slots)]
            if len(under_way) == len(main.slots):
                _land(*under_way.popleft())
            target = self._bytes[start : min(start + step, chunk.end)]
            landing = target if self._direct else slot.room.grow(target.size).array[: target.size]
            self._provider.download(landing, main.rows.address + start, main.copy)
            slot.event.record(main.copy)
            under_way.append((slot, landing, target))
        while under_way:
            _land(*under_way.popleft())


def _land(slot: Slot, landing: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
    slot.event.synchronize()
    if landing is not target:
        target[...] = landing

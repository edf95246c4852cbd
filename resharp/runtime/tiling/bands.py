"""One pass over an image: plan, bands, tiles, and smaller tiles where memory ran out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral

from resharp.errors import OptionError, OutOfMemoryError
from resharp.runtime.backends import Backend
from resharp.runtime.tiling.plan import Tile, bands, plan, smallest_tile
from resharp.types import Image

logger = logging.getLogger(__name__)

Rows = Callable[[int, int], Image]
"""Rows first..stop of the input, as the network takes them."""

BAND_BYTES = 64 << 20
"""Output of a band, at most, unless one row of tiles is more."""
DIRECT = 4
"""So many times larger are bands that are written where they belong, and cost no memory."""
STEP = 32
"""Tile sizes tried by ``auto`` differ by this many pixels."""
WHOLE = 0
"""The tile that ``whole`` stands for."""
LARGEST = 16_384
"""Tile with which ``whole`` begins to look for one that the memory holds."""


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How images are cut for one backend."""

    size: int
    """Largest side of a tile, in pixels."""
    batch: int = 1
    """Tiles per run."""


def smallest_for(backend: Backend) -> int:
    """The smallest tile that the model's overlap allows."""
    least = smallest_tile(backend.manifest.overlap, backend.manifest.size_multiple)
    return max(least, backend.smallest_side())


def check_tile(tile: object) -> int | None:
    """The tile in pixels, None for ``auto``, or :data:`WHOLE`.

    Raises:
        OptionError: it is neither.
    """
    if tile is None or tile == "auto":
        return None
    if tile == "whole":
        return WHOLE
    if isinstance(tile, bool) or not isinstance(tile, Integral) or tile < 1:
        raise OptionError(f"tile {tile!r} is neither 'auto' nor 'whole' nor a number of pixels")
    return int(tile)


def choose_tiling(backend: Backend, tile: int | None, share: float = 0.5) -> Tiling:
    """The tile to use now.

    Args:
        backend: an open backend.
        tile: pixels, brought into what the overlap and the backend allow; None takes the largest
            worth using that the share of the free memory holds, :data:`WHOLE` the largest that it
            holds.
        share: of the free memory, above 0 and up to 1.
    """
    least = smallest_for(backend)
    if tile:
        size = max(min(tile, backend.tile_limit() or tile), least)
        return Tiling(size=size, batch=_batch(backend, size))
    most = _goal(backend) if tile is None else backend.tile_limit() or LARGEST
    free, size = int(backend.free_memory() * share), max(most, least)
    while size - STEP >= least and backend.memory(size, _batch(backend, size)) > free:
        size -= STEP
    return Tiling(size=size, batch=_batch(backend, size))


def _goal(backend: Backend) -> int:
    """The tile to use where memory allows: the one that was tuned, or the largest worth using."""
    tuning = backend.options.tuning
    if tuning is None or tuning.tile is None:
        return backend.largest_tile()
    return min(tuning.tile, backend.tile_limit() or tuning.tile)


def _batch(backend: Backend, size: int) -> int:
    """Tiles of one run: what was tuned holds for the tile that it was tuned with, and below."""
    tuning = backend.options.tuning
    if tuning is None or tuning.batch is None or size > (tuning.tile or size):
        return backend.batch_for(size)
    return min(tuning.batch, backend.batch_limit() or tuning.batch)


def plan_for(backend: Backend, height: int, width: int, size: int) -> tuple[Tile, ...]:
    """The plan of an image for one backend's model."""
    manifest = backend.manifest
    least = backend.smallest_side()
    return plan(height, width, size, manifest.overlap, manifest.size_multiple, least)


class TiledPass:
    """One run of the network over one image. Made for one image and thrown away.

    Args:
        backend: an open backend.
        height: of the image.
        width: of the image.
        tiling: how to cut it.
        item_bytes: bytes of one output value.
    """

    def __init__(
        self, backend: Backend, height: int, width: int, tiling: Tiling, item_bytes: int
    ) -> None:
        self._backend, self.height, self.width = backend, height, width
        self._tiling = tiling
        self._tiles = plan_for(backend, height, width, tiling.size)
        self._pixels = BAND_BYTES // (3 * item_bytes * backend.manifest.scale**2)

    @property
    def total(self) -> int:
        """Tiles of the plan."""
        return len(self._tiles)

    def bands(
        self, rows: Rows, advance: Callable[[int], None], out: Image | None = None
    ) -> Iterator[Image]:
        """Consecutive output rows ``[r, width * scale, 3]``, from the first to the last.

        Where a band finds no memory, the work goes on after the last finished band, one tile at a
        time and then with ever smaller tiles.

        Args:
            rows: gives the input.
            advance: told the tiles done.
            out: the whole result, ``[height * scale, width * scale, 3]`` and C-contiguous, for the
                backend to write into; the bands are then views of it.

        Raises:
            OutOfMemoryError: not even the smallest tile found memory.
        """
        done, scale = 0, self._backend.manifest.scale
        tiles, tiling = self._tiles, self._tiling
        pixels = self._pixels * (1 if out is None else DIRECT)
        while done < self.height:
            try:
                for band in bands([t for t in tiles if t.core[2] > done], pixels):
                    result = self._backend.run(
                        rows(band.first, band.stop),
                        band.local(),
                        advance,
                        tiling.batch,
                        None if out is None else out[band.start * scale : band.end * scale],
                    )
                    yield result[max(done - band.start, 0) * scale :]
                    done = band.end
            except MemoryError as error:  # ours, or numpy's
                tiling, pixels = self._smaller(tiling, len(tiles), error), self._pixels
                tiles = plan_for(self._backend, self.height, self.width, tiling.size)

    def _smaller(self, tiling: Tiling, tiles: int, error: MemoryError) -> Tiling:
        least = smallest_for(self._backend)
        size = min(tiling.size, max(self.height, self.width))
        if tiling.batch > 1 and tiles > 1:
            logger.warning("out of memory with %d tiles at a time: going on with one", tiling.batch)
            return Tiling(size=max(size, least))
        if size <= least:
            raise OutOfMemoryError(
                f"no memory for a tile of {size} pixels on {self._backend.options.device}, and "
                f"{least} is the smallest: close other programs or use --backend onnx. {error}"
            ) from error
        smaller = max(size // 2, least)
        logger.warning("out of memory with tiles of %d pixels: going on with %d", size, smaller)
        return Tiling(size=smaller)

"""One tiled pass over an image: plan, bands, tiles, and smaller tiles if memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral

from resharp.checks import shown
from resharp.errors import OptionError, OutOfMemoryError
from resharp.runtime.backends import Backend
from resharp.runtime.tiling.plan import Tile, bands, plan, smallest_tile
from resharp.types import Image

logger = logging.getLogger(__name__)

Rows = Callable[[int, int], Image]
"""Returns rows first..stop of the input in the layout that the network takes."""

BAND_BYTES = 64 << 20
"""Maximum output of a band in bytes, unless a single row of tiles is larger."""
DIRECT = 4
"""Factor on the size of bands that are written in place and thus cost no memory."""
STEP = 32
"""Difference in pixels between the tile sizes that ``auto`` tries."""
WHOLE = 0
"""Number that stands for the tile ``whole``."""
LARGEST = 16_384
"""Largest tile that ``whole`` tries, in pixels, unless the backend has a limit of its own."""


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How images are cut into tiles for one backend."""

    size: int
    """Largest side of a tile, in pixels."""
    batch: int = 1
    """Tiles per run."""


def smallest_for(backend: Backend) -> int:
    """Return the smallest tile that the model's overlap and the backend allow."""
    least = smallest_tile(backend.manifest.overlap, backend.manifest.size_multiple)
    return max(least, backend.smallest_side())


def check_tile(tile: object) -> int | None:
    """Return the tile in pixels, None for ``auto``, or :data:`WHOLE` for ``whole``.

    Raises:
        OptionError: ``tile`` is none of these.
    """
    if tile is None:
        return None
    if isinstance(tile, str) and tile in ("auto", "whole"):
        return None if tile == "auto" else WHOLE
    if isinstance(tile, bool) or not isinstance(tile, Integral) or tile < 1:
        raise OptionError(
            f"`tile` must be 'auto', 'whole' or a number of pixels, got {shown(tile)}"
        )
    return int(tile)


def choose_tiling(backend: Backend, tile: int | None, share: float = 0.5) -> Tiling:
    """Choose the tile to use now.

    Args:
        backend: an open backend.
        tile: pixels, clamped to what the overlap and the backend allow; None takes the largest
            tile worth using that fits into the memory, :data:`WHOLE` the largest that fits.
        share: fraction of the free memory to use, in (0, 1].
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
    """Return the tile to use if memory allows: the tuned one, or the largest worth using."""
    tuning = backend.options.tuning
    if tuning is None or tuning.tile is None:
        return backend.largest_tile()
    return min(tuning.tile, backend.tile_limit() or tuning.tile)


def _batch(backend: Backend, size: int) -> int:
    """Return the tiles per run; a tuned batch is valid up to the tile that it was tuned with."""
    tuning = backend.options.tuning
    if tuning is None or tuning.batch is None or size > (tuning.tile or size):
        return backend.batch_for(size)
    return min(tuning.batch, backend.batch_limit() or tuning.batch)


def plan_for(backend: Backend, height: int, width: int, size: int) -> tuple[Tile, ...]:
    """Return the tile plan of an image for one backend."""
    manifest = backend.manifest
    least = backend.smallest_side()
    return plan(height, width, size, manifest.overlap, manifest.size_multiple, least)


class TiledPass:
    """One tiled run of the network over one image; create a new one for each image.

    Args:
        backend: an open backend.
        height: height of the image, in pixels.
        width: width of the image, in pixels.
        tiling: how to cut the image.
        item_bytes: bytes per output value.
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
        """Number of tiles in the plan."""
        return len(self._tiles)

    def bands(
        self, rows: Rows, advance: Callable[[int], None], out: Image | None = None
    ) -> Iterator[Image]:
        """Yield consecutive output rows ``[r, width * scale, 3]``, from the first to the last.

        If a band runs out of memory, the pass resumes after the last finished band, first one tile
        at a time, then with smaller and smaller tiles.

        Args:
            rows: returns input rows.
            advance: called with the number of tiles just finished.
            out: C-contiguous array ``[height * scale, width * scale, 3]`` for the whole result,
                which the backend writes to; the bands are then views of it.

        Raises:
            OutOfMemoryError: even the smallest tile does not fit into memory.
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
            logger.warning("out of memory with %d tiles per run: continuing with 1", tiling.batch)
            return Tiling(size=max(size, least))
        if size <= least:
            raise OutOfMemoryError(
                f"no memory for a tile of {size} pixels on {self._backend.options.device}, and "
                f"{least} is the smallest: close other programs or use `backend`='onnx' ({error})"
            ) from error
        smaller = max(size // 2, least)
        logger.warning("out of memory with tiles of %d pixels: continuing with %d", size, smaller)
        return Tiling(size=smaller)

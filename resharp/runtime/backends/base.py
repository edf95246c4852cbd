"""What every backend does: open a bundle, run a plan, say what it costs, close.

A backend owns its library's objects and nothing of an image, so one instance serves several
threads. Arrays are BGR ``[h, w, 3]`` and C-contiguous, uint8, or float32 in 0..1.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resharp.engines import Bundle, Tuning
from resharp.errors import BackendError, OptionError
from resharp.runtime.tiling.plan import Tile
from resharp.types import Image, Precision

Advance = Callable[[int], None]
"""Called with the number of tiles just finished."""


_DEVICE = re.compile(r"cpu|cuda(:\d+)?")
PRECISIONS = ("auto", "fp32")


@dataclass(frozen=True, kw_only=True)
class BackendOptions:
    """What a caller may ask of a backend."""

    device: str = "cpu"
    """``cpu``, ``cuda`` or ``cuda:N``."""
    threads: int | None = None
    """CPU threads of one run; None leaves it to the library."""
    precision: Precision = "auto"
    """``auto``: FP16 on CUDA, where that keeps the picture; ``fp32``: never FP16."""
    tuning: Tuning | None = None
    """What was measured to be fastest here; what a caller says himself goes first."""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise OptionError(f"precision {self.precision!r} is not {' or '.join(PRECISIONS)}")
        if not isinstance(self.device, str) or not _DEVICE.fullmatch(self.device):
            raise OptionError(f"device {self.device!r} is not cpu, cuda or cuda:N")
        most = max(4 * (os.cpu_count() or 1), 64)  # far beyond use, and a machine still survives it
        if self.threads is not None and not (
            isinstance(self.threads, int) and 1 <= self.threads <= most
        ):
            raise OptionError(f"threads is {self.threads!r}; it must be in 1..{most} here")

    @property
    def index(self) -> int:
        """Number of the CUDA device."""
        return int(self.device.partition(":")[2] or 0)

    @property
    def cpu_threads(self) -> int | None:
        """Threads of one run on the CPU: those asked for, or tuned; None: the library's own."""
        return self.threads or (self.tuning.threads if self.tuning else None)

    def lanes(self, usual: int) -> int:
        """Pictures in work at once on a GPU."""
        return (self.tuning.lanes if self.tuning else None) or usual

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")


class Backend(AbstractContextManager["Backend"], ABC):
    """One model, ready to run on one device. A context manager."""

    name: str
    """``onnx``, ``torch``, ..."""

    def __init__(self, bundle: Bundle, options: BackendOptions) -> None:
        reason = self.probe(options)
        if reason:
            raise BackendError(reason)
        self._bundle, self.manifest = bundle, bundle.manifest
        self.options = options
        self.note = ""
        """What the user should know of how it runs, if anything."""

    @staticmethod
    def probe(options: BackendOptions) -> str | None:
        """Why this backend cannot run on that device here; None if it can."""
        return None

    @abstractmethod
    def infer(self, batch: Image, extra: Mapping[str, float] | None = None) -> Image:
        """Run the network on ``[n, h, w, 3]``, giving ``[n, h*s, w*s, 3]`` of the same dtype.

        Args:
            batch: pictures; of ``manifest.fixed_size``, if the model has one.
            extra: scalars for the model's further inputs (``manifest.extra``), by name; those not
                given are the model's defaults.

        Raises:
            OptionError: the model has no such input, or a number is out of its range.
            OutOfMemoryError: the device has no room for this batch.
        """

    def scalars(self, batch: Image, extra: Mapping[str, float] | None) -> tuple[float, ...]:
        """The model's further inputs for a call of :meth:`infer`, which this checks.

        Raises:
            OptionError: see :meth:`infer`; or the pictures are not of the model's one size.
        """
        side = self.manifest.fixed_size
        if side is not None and batch.shape[1:3] != (side, side):
            raise OptionError(
                f"{self.manifest.name} takes pictures of {side}x{side}, not of "
                f"{batch.shape[2]}x{batch.shape[1]}"
            )
        return self.manifest.extra_values(extra)

    @abstractmethod
    def free_memory(self) -> int:
        """Bytes that a run may use on the device now."""

    @abstractmethod
    def close(self) -> None:
        """Give every resource back; closing twice does nothing."""

    def memory(self, tile: int, batch: int = 1) -> int:
        """Bytes of working memory that a batch of square tiles takes, as far as was measured."""
        tuning = self.options.tuning
        if tuning is not None and tuning.bytes_per_pixel is not None:
            return int(tuning.bytes_per_pixel * tile * tile * batch)
        return self.estimate(tile, batch)

    def estimate(self, tile: int, batch: int) -> int:
        """Such bytes where nothing was measured on this device: from the manifest."""
        per_pixel = self.manifest.activation_bytes or DEFAULT_ACTIVATION_BYTES
        return int(per_pixel * tile * tile * batch)

    def largest_tile(self) -> int:
        """The largest tile worth using on this device, memory aside."""
        return 512

    def smallest_side(self) -> int:
        """The smallest side of a window that it takes; smaller pictures are padded to it."""
        return 1

    def unsupported_reason(self, dtype: str) -> str | None:
        """Why it cannot take pictures of that dtype, ``uint8`` or ``float32``; None if it can."""
        return None

    def tile_limit(self) -> int | None:
        """The largest side of a tile that it can take; None: any."""
        return None

    def batch_limit(self) -> int | None:
        """The most tiles that one run can take; None: any number."""
        return None

    def batch_for(self, tile: int) -> int:
        """Tiles of that size that one run should take to fill the device."""
        return 1

    def workers(self) -> int:
        """Pictures that it can have in work at once with profit."""
        return 1

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Image:
        """An array for a result, uninitialised, in memory that results reach fastest."""
        return np.empty(shape, dtype)

    def allocate_rows(self, image: Image, tiles: Sequence[Tile]) -> Image:
        """An array for the rows that the cores of some tiles of ``image`` cover."""
        (start, end), scale = core_rows(tiles), self.manifest.scale
        return self.allocate(((end - start) * scale, image.shape[1] * scale, 3), image.dtype)

    def run(
        self,
        image: Image,
        tiles: Sequence[Tile],
        advance: Advance | None = None,
        batch: int = 1,
        out: Image | None = None,
    ) -> Image:
        """Run the tiles of ``image``.

        Args:
            image: ``[h, w, 3]``, uint8 or float32.
            tiles: of one size, whose cores together are whole rows of the image.
            advance: called as tiles finish, from the caller's thread.
            batch: tiles per call of :meth:`infer`.
            out: C-contiguous array of the result's shape and the image's dtype to write into.

        Returns:
            The rows that the cores cover, at the model's scale: ``out``, if it was given.
        """
        scale, start = self.manifest.scale, core_rows(tiles)[0]
        if out is None:
            out = self.allocate_rows(image, tiles)
        for group in batched(tiles, batch):
            results = self.infer(stack([cut(image, tile) for tile in group]))
            for tile, result in zip(group, results, strict=True):
                paste(out, result, tile, start, scale)
            if advance is not None:
                advance(len(group))
        return out

    def __exit__(self, *error: object) -> None:
        self.close()


DEFAULT_ACTIVATION_BYTES = 16_384.0
"""Per input pixel, for a bundle that was exported where it could not be measured."""


def core_rows(tiles: Sequence[Tile]) -> tuple[int, int]:
    """First and end row that the cores of ``tiles`` cover."""
    cores = [tile.core for tile in tiles]
    return min(core[0] for core in cores), max(core[2] for core in cores)


def cut(image: Image, tile: Tile) -> Image:
    """The tile's window; what hangs over the image reflects it."""
    window = image[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width]
    if window.shape[:2] == (tile.height, tile.width):
        return window
    rows, columns = (
        reflected(size, wanted)
        for size, wanted in zip(window.shape[:2], (tile.height, tile.width), strict=True)
    )
    return window[rows][:, columns]


def reflected(size: int, wanted: int) -> NDArray[np.intp]:
    """Which of ``size`` rows each of ``wanted`` rows is: to the last, back to the first, on it.

    As the networks themselves pad (``models/archs/layers.py``), so it does not matter who does.
    """
    index = np.arange(wanted)
    return np.maximum(np.minimum(index, 2 * (size - 1) - index), 0)


def stack(windows: Sequence[Image]) -> Image:
    """Windows of one shape as one C-contiguous batch, without a copy where one suffices."""
    if len(windows) == 1:
        return np.ascontiguousarray(windows[0])[None]
    return np.stack(windows)


def paste(out: Any, result: Any, tile: Tile, start: int, scale: int) -> None:
    """Write a tile's core into ``out``, whose first row is row ``start`` of the image.

    Both are arrays, or both tensors.
    """
    top, left, bottom, right = tile.core
    inner = result[
        tile.top * scale : (tile.height - tile.bottom) * scale,
        tile.left * scale : (tile.width - tile.right) * scale,
    ]
    out[(top - start) * scale : (bottom - start) * scale, left * scale : right * scale] = inner


def batched(tiles: Sequence[Tile], size: int) -> Iterator[Sequence[Tile]]:
    """Consecutive groups of at most ``size``."""
    for first in range(0, len(tiles), size):
        yield tiles[first : first + size]


def ensure_open(opened: bool, name: str) -> None:
    """Refuse to run a closed backend."""
    if not opened:
        raise BackendError(f"this {name} backend is closed: make a new Upscaler")

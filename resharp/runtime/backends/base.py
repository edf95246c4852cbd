"""The interface of every backend: open a bundle, run a tile plan, report memory use, close.

A backend owns the objects of its library but keeps no state per image, so one instance serves
several threads. Arrays are C-contiguous BGR ``[h, w, 3]``, uint8 or float32 in 0..1.
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

from resharp.checks import check_choice, check_int, shown
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
    """Options of a backend."""

    device: str = "cpu"
    """Device to run on: ``cpu``, ``cuda`` or ``cuda:N``."""
    threads: int | None = None
    """CPU threads per run; None uses the library's default."""
    precision: Precision = "auto"
    """``auto``: FP16 on CUDA if that preserves the image; ``fp32``: never FP16."""
    tuning: Tuning | None = None
    """Settings measured to be fastest on this device; explicit arguments take precedence."""

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, PRECISIONS)
        if not isinstance(self.device, str) or not _DEVICE.fullmatch(self.device):
            raise OptionError(f"`device` must be cpu, cuda or cuda:N, got {shown(self.device)}")
        most = max(4 * (os.cpu_count() or 1), 64)  # far more than useful, yet harmless
        if self.threads is not None:
            threads = check_int("threads", self.threads, 1, most)
            object.__setattr__(self, "threads", threads)  # libraries do not accept numpy integers

    @property
    def index(self) -> int:
        """Index of the CUDA device."""
        return int(self.device.partition(":")[2] or 0)

    @property
    def cpu_threads(self) -> int | None:
        """CPU threads per run: requested, else tuned; None uses the library's default."""
        return self.threads or (self.tuning.threads if self.tuning else None)

    def lanes(self, usual: int) -> int:
        """Return how many images run at once on a GPU: the tuned number, else ``usual``."""
        return (self.tuning.lanes if self.tuning else None) or usual

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")


class Backend(AbstractContextManager["Backend"], ABC):
    """A model opened on one device. A context manager."""

    name: str
    """Name of the backend, e.g. ``onnx``."""

    def __init__(self, bundle: Bundle, options: BackendOptions) -> None:
        reason = self.probe(options)
        if reason:
            raise BackendError(reason)
        self._bundle, self.manifest = bundle, bundle.manifest
        self.options = options
        self.note = ""
        """Remarks for the user on how it runs; empty if there are none."""

    @staticmethod
    def probe(options: BackendOptions) -> str | None:
        """Return why this backend cannot run on the device; None if it can."""
        return None

    @abstractmethod
    def infer(self, batch: Image, extra: Mapping[str, float] | None = None) -> Image:
        """Run the network on ``[n, h, w, 3]`` and return ``[n, h*s, w*s, 3]`` of the same dtype.

        Args:
            batch: images; their sides must be ``manifest.fixed_size`` if the model has one.
            extra: scalars for the model's extra inputs (``manifest.extra``), by name; missing ones
                take the model's defaults.

        Raises:
            OptionError: an unknown input, a value out of range, or images of another size.
            OutOfMemoryError: the batch does not fit into the device's memory.
            BackendError: the library failed, or the result has not the size or the dtype that the
                manifest promises.
        """

    def scalars(self, batch: Image, extra: Mapping[str, float] | None) -> tuple[float, ...]:
        """Check the arguments of :meth:`infer` and return the values of the extra inputs.

        Raises:
            OptionError: an argument is invalid, as for :meth:`infer`.
        """
        side = self.manifest.fixed_size
        if side is not None and batch.shape[1:3] != (side, side):
            raise OptionError(
                f"{self.manifest.name} takes images of {side}x{side} pixels, got "
                f"{batch.shape[2]}x{batch.shape[1]}"
            )
        return self.manifest.extra_values(extra)

    @abstractmethod
    def free_memory(self) -> int:
        """Return how many bytes a run may use on the device now."""

    @abstractmethod
    def close(self) -> None:
        """Release all resources. Closing twice is harmless."""

    def memory(self, tile: int, batch: int = 1) -> int:
        """Return the working memory of a batch of square tiles, in bytes: measured or estimated."""
        tuning = self.options.tuning
        if tuning is not None and tuning.bytes_per_pixel is not None:
            return int(tuning.bytes_per_pixel * tile * tile * batch)
        return self.estimate(tile, batch)

    def estimate(self, tile: int, batch: int) -> int:
        """Estimate the working memory of a batch from the manifest, in bytes."""
        per_pixel = self.manifest.activation_bytes or DEFAULT_ACTIVATION_BYTES
        return int(per_pixel * tile * tile * batch)

    def largest_tile(self) -> int:
        """Return the largest tile worth using on this device, regardless of memory."""
        return 512

    def smallest_side(self) -> int:
        """Return the smallest side of a window; smaller images are padded to it."""
        return 1

    def unsupported_reason(self, dtype: str) -> str | None:
        """Return why it cannot process images of ``dtype``, uint8 or float32; None if it can."""
        return None

    def tile_limit(self) -> int | None:
        """Return the largest possible side of a tile; None if there is no limit."""
        return None

    def batch_limit(self) -> int | None:
        """Return the largest number of tiles per run; None if there is no limit."""
        return None

    def batch_for(self, tile: int) -> int:
        """Return how many tiles of that size one run should take to fill the device."""
        return 1

    def workers(self) -> int:
        """Return how many images are worth processing at the same time."""
        return 1

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Image:
        """Return an uninitialized result array in the memory that the device writes fastest."""
        return np.empty(shape, dtype)

    def allocate_rows(self, image: Image, tiles: Sequence[Tile]) -> Image:
        """Return an array for the result rows that the cores of ``tiles`` cover."""
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
            tiles: tiles of one size, whose cores together cover whole rows of the image.
            advance: called from the caller's thread as tiles finish.
            batch: tiles per call of :meth:`infer`.
            out: C-contiguous array to write to, with the result's shape and the image's dtype.

        Returns:
            The rows that the cores cover, at the model's scale; this is ``out`` if it is given.
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
"""Bytes per input pixel, for a bundle whose export could not measure them."""


def check_result(result: Any, given: Any, count: int, scale: int, name: str) -> None:
    """Check the output of a network against the scale of its manifest.

    Args:
        result: what the network returned, an array or a tensor.
        given: one image ``[h, w, 3]`` of the batch, of the same library.
        count: images in the batch.
        scale: scale of the manifest.
        name: name of the model.

    Raises:
        BackendError: the result is not ``[count, h * scale, w * scale, 3]`` of the input's dtype.
    """
    (height, width), found = given.shape[:2], tuple(result.shape)
    if result.dtype == given.dtype and found == (count, height * scale, width * scale, 3):
        return
    factor = found[1] // height if len(found) == 4 else 0
    if result.dtype == given.dtype and found == (count, height * factor, width * factor, 3):
        text = f"returned {factor} times the size, but its manifest says {scale}"
    else:
        wanted = (count, height * scale, width * scale, 3)
        text = f"returned {result.dtype} {found}, expected {given.dtype} {wanted}"
    raise BackendError(f"the graph of {name} {text}: export the model again")


def core_rows(tiles: Sequence[Tile]) -> tuple[int, int]:
    """Return the first and the end row that the cores of ``tiles`` cover."""
    cores = [tile.core for tile in tiles]
    return min(core[0] for core in cores), max(core[2] for core in cores)


def cut(image: Image, tile: Tile) -> Image:
    """Return the tile's window, padded by reflection where it exceeds the image."""
    window = image[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width]
    if window.shape[:2] == (tile.height, tile.width):
        return window
    rows, columns = (
        reflected(size, wanted)
        for size, wanted in zip(window.shape[:2], (tile.height, tile.width), strict=True)
    )
    return window[rows][:, columns]


def reflected(size: int, wanted: int) -> NDArray[np.intp]:
    """Return which of ``size`` rows fills each of ``wanted`` rows, extended by reflection.

    Past the reflection, row 0 is repeated. The networks pad in the same way
    (``models/archs/layers.py``), so it does not matter which of the two does.
    """
    index = np.arange(wanted)
    return np.maximum(np.minimum(index, 2 * (size - 1) - index), 0)


def stack(windows: Sequence[Image]) -> Image:
    """Stack windows of one shape into a C-contiguous batch; copy a single one only if needed."""
    if len(windows) == 1:
        return np.ascontiguousarray(windows[0])[None]
    return np.stack(windows)


def paste(out: Any, result: Any, tile: Tile, start: int, scale: int) -> None:
    """Write a tile's core into ``out``, whose first row is row ``start`` of the image.

    ``out`` and ``result`` are both arrays or both tensors.
    """
    top, left, bottom, right = tile.core
    inner = result[
        tile.top * scale : (tile.height - tile.bottom) * scale,
        tile.left * scale : (tile.width - tile.right) * scale,
    ]
    out[(top - start) * scale : (bottom - start) * scale, left * scale : right * scale] = inner


def batched(tiles: Sequence[Tile], size: int) -> Iterator[Sequence[Tile]]:
    """Yield consecutive groups of at most ``size`` tiles."""
    for first in range(0, len(tiles), size):
        yield tiles[first : first + size]


def ensure_open(opened: bool, name: str) -> None:
    """Raise BackendError if the backend is closed."""
    if not opened:
        raise BackendError(f"this {name} backend is closed: create a new Upscaler")

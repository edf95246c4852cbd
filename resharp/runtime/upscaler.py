"""Upscaler: the public face of the runtime."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from resharp.checks import check_int, check_number, shown
from resharp.engines import Bundle, Manifest, Tuning
from resharp.errors import OptionError, OutOfMemoryError
from resharp.runtime.backends import Backend
from resharp.runtime.backends.base import cut, stack
from resharp.runtime.bundle_lookup import DEFAULT_MODEL, resolve_upscaler
from resharp.runtime.fallback import BackendAttempt, attempt_of, open_first
from resharp.runtime.imaging.alpha import bleed
from resharp.runtime.imaging.layout import Layout, check_gray, from_network, layout_of, to_network
from resharp.runtime.imaging.resize import RowResizer, resize
from resharp.runtime.streaming import stream
from resharp.runtime.tiling.bands import (
    TiledPass,
    check_tile,
    choose_tiling,
    plan_for,
    smallest_for,
)
from resharp.types import BackendName, Image, Precision, Progress, Tile

logger = logging.getLogger(__name__)


LARGEST_SCALE = 32.0


class Upscaler:
    """Restores images with one model on one device.

    Args:
        model: a model's name, a bundle or its folder. The default is built in.
        backend: ``auto`` for the first that works, ``tensorrt``, ``torch`` or ``onnx``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        tile: largest side of a tile in pixels; ``auto``: as free memory allows; ``whole``: as few
            tiles as that allows.
        scale: output size over input size; None is the model's own. Other scales are reached by
            resizing the result (Lanczos-3, antialiased).
        denoise: strength 0..1, for a model exported with one.
        store: folder of the bundles; None is the default.
        threads: CPU threads per run; None leaves it to the library.
        memory_fraction: fraction (0, 1] of the device's free memory that ``tile="auto"`` may use.
        precision: ``auto`` for FP16 on a GPU where that preserves the image, or ``fp32``.
        tuning: ``auto`` for the settings that were measured to be fastest here, if any, a
            :class:`Tuning`, or None for the defaults. ``tile`` and ``threads`` take precedence.

    Safe to call from several threads at once; it keeps nothing of an image. A context manager.

    Raises:
        UnknownModelError: no model has that name.
        NotExportedError: the store does not have the model's graph.
        BundleError: the bundle is damaged.
        BackendError: no backend can run it here; the message lists every reason.
        OptionError: an option is invalid.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Bundle = DEFAULT_MODEL,
        *,
        backend: BackendName = "auto",
        device: str = "auto",
        tile: Tile | None = "auto",
        scale: float | None = None,
        denoise: float | None = None,
        store: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        memory_fraction: float = 0.5,
        precision: Precision = "auto",
        tuning: Tuning | str | None = "auto",
    ) -> None:
        self._scale, self._tile = check_scale(scale), check_tile(tile)
        if not (tuning is None or isinstance(tuning, Tuning) or tuning == "auto"):
            raise OptionError(f"`tuning` must be 'auto', a Tuning or None, got {shown(tuning)}")
        self._memory = check_number("memory_fraction", memory_fraction, 0, 1, above=True)
        bundle = resolve_upscaler(model, store=store, denoise=denoise)
        bundle.verify()
        self._open = partial(
            open_first, bundle, backend, device, threads, precision=precision, tuning=tuning
        )
        self._backend, self._attempts = self._open()
        self._deep: Backend | None = None  # for 16-bit and float images, opened with the first
        self._lock, self._closed = threading.Lock(), False
        self._warn_of_tile()

    def _warn_of_tile(self) -> None:
        tile, least, most = self._tile, smallest_for(self._backend), self._backend.tile_limit()
        if not tile:
            return
        if tile < least:
            overlap = self.manifest.overlap
            text = "a tile of %d leaves nothing between overlaps of %d pixels: using %d"
            logger.warning(text, tile, overlap, least)
        elif most is not None and tile > most:
            text = (
                "the engine takes tiles of up to %d, not %d: run 'export-engines %s' with `tile`=%d"
            )
            logger.warning(text, most, tile, self.manifest.name, tile)

    @property
    def manifest(self) -> Manifest:
        """The manifest of the model."""
        return self._backend.manifest

    @property
    def scale(self) -> float:
        """Output size over input size."""
        return self._scale or float(self.manifest.scale)

    @property
    def backend(self) -> str:
        """Name of the backend in use, e.g. ``onnx``."""
        return self._backend.name

    @property
    def device(self) -> str:
        """Device in use, e.g. ``cpu``."""
        return self._backend.options.device

    @property
    def workers(self) -> int:
        """Number of concurrent calls that keep the device busy."""
        return self._backend.workers()

    @property
    def tile(self) -> int:
        """Largest side of a tile, in pixels, that the next call would use."""
        return choose_tiling(self._backend, self._tile, self._memory).size

    def pin_tile(self, tile: int) -> None:
        """Use tiles of that size from now on, e.g. the same for all frames of a video.

        Raises:
            OptionError: it is not a number of pixels.
        """
        self._tile = check_tile(tile)

    def batch_for(self, height: int, width: int) -> int:
        """Return how many 8-bit images of that size :meth:`batch` needs to fill the device.

        It is 1 where an image takes more than one tile.
        """
        if len(plan_for(self._backend, height, width, self.tile)) > 1:
            return 1
        return self._backend.batch_for(max(height, width))

    @property
    def attempts(self) -> tuple[BackendAttempt, ...]:
        """The backends that were tried, up to the one in use; each skipped one has its reason.

        If 16-bit and float images need another backend, its attempts follow once the first such
        image has been restored. A backend may add a note after its first runs, e.g. that CUDA
        graphs do not fit in memory.
        """
        opened = [one for one in (self._backend, self._deep) if one is not None]
        now = {(one.name, one.options.device): attempt_of(one) for one in opened}
        return tuple(
            now.get((one.backend, one.device), one) if one.works else one for one in self._attempts
        )

    def explain(self) -> str:
        """Return the attempts as text, one per line."""
        return "\n".join(str(one) for one in self.attempts)

    def __call__(self, image: Image, *, progress: Progress | None = None) -> Image:
        """Restore one image.

        Args:
            image: gray ``[h, w]`` or ``[h, w, 1]``, BGR ``[h, w, 3]`` or BGRA ``[h, w, 4]``, of
                any size from 1x1; uint8, uint16, or float32 in 0..1.
            progress: called with (tiles done, tiles in all) from this thread; raising cancels.

        Returns:
            An image ``scale`` times the size, with the input's dtype and channels. Colors under
            fully transparent pixels are not kept.

        Raises:
            ImageError: the array is not such an image, or is a color image for a gray model.
            OutOfMemoryError: not even the smallest tile fits in memory.
            BackendError: the requested backend cannot restore 16-bit or float images.
        """
        layout = self._layout(image)
        image = np.asarray(image)  # drops subclasses, whose indexing differs
        shape = layout.shape(*self._size(layout.height, layout.width))
        backend = self._backend_for(layout)
        out = _allocate(backend, shape, image.dtype)
        planes = self._planes(image, out, layout)
        tiling = choose_tiling(backend, self._tile, self._memory)
        item = np.dtype(layout.network_dtype).itemsize
        passes = [TiledPass(backend, layout.height, layout.width, tiling, item) for _ in planes]
        advance = _Counter(progress, sum(p.total for p in passes)).add
        raised: Exception | None = None
        try:
            for (source, target), one in zip(planes, passes, strict=True):
                self._fill(one, source, target, advance)
        except _RaisedByProgress as error:
            raised = error.error
        if raised is not None:  # outside the handler, so that it has no context
            raise raised
        return out

    def batch(
        self, images: Iterable[Image], size: int = 8, *, progress: Progress | None = None
    ) -> list[Image]:
        """Restore several images; small ones of one shape share a run of the network.

        Args:
            images: as for a call.
            size: most images per run of the network.
            progress: called with (images done, images in all) from this thread; raising cancels.

        Returns:
            The results in order.

        Raises:
            OptionError: ``size`` is below 1.
            ImageError: an array is not an image; nothing has been run then.
        """
        size = check_int("size", size)
        images = list(images)
        layouts = [self._layout(image) for image in images]
        results: dict[int, Image] = {}
        done = 0
        for group in _alike(layouts, size):
            for index, result in self._together(images, group, layouts[group[0]]):
                results[index] = result
                done += 1
                if progress is not None:
                    progress(done, len(images))
        return [results[index] for index in range(len(images))]

    def stream(self, frames: Iterable[Image], *, ahead: int = 2) -> Iterator[Image]:
        """Restore frames in order, working ahead while the caller uses the last one.

        Args:
            frames: images, read one by one, at most ``ahead`` before they are needed.
            ahead: number of frames in flight or waiting.

        Raises:
            OptionError: ``ahead`` is below 1.
            ImageError: a frame is not an image; all earlier frames have come out by then. The same
                holds for anything that ``frames`` raises.
        """
        return stream(self, frames, ahead=ahead, workers=self._backend.workers())

    def close(self) -> None:
        """Release every resource; closing twice does nothing."""
        with self._lock:
            self._closed, deep = True, self._deep
        self._backend.close()
        if deep is not None:
            deep.close()

    def __enter__(self) -> Upscaler:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _layout(self, image: Image) -> Layout:
        layout = layout_of(image)
        if self.manifest.channels == 1:
            check_gray(np.asarray(image), layout, self.manifest.name)
        return layout

    def _backend_for(self, layout: Layout) -> Backend:
        """Return the backend for that dtype, with a warning if it is not the usual one."""
        if layout.network_dtype == "uint8":
            return self._backend
        with self._lock:
            if self._deep is None and self._closed:
                return self._backend  # raises that it is closed
            if self._deep is None:
                reason = self._backend.unsupported_reason(layout.network_dtype)
                self._deep = self._backend if reason is None else self._next(reason)
            return self._deep

    def _next(self, reason: str) -> Backend:
        lacking = BackendAttempt(
            self.backend, self.device, False, f"16-bit and float images: {reason}"
        )
        found, attempts = self._open(after=lacking)
        logger.warning("%s; using %s on %s for them", lacking, found.name, found.options.device)
        self._attempts = (*self._attempts, *attempts)
        return found

    def _size(self, height: int, width: int) -> tuple[int, int]:
        return max(round(height * self.scale), 1), max(round(width * self.scale), 1)

    def _planes(self, image: Image, out: Image, layout: Layout) -> list[tuple[Image, Image]]:
        """Return (input, output) of each pass: color, and alpha unless it is constant."""
        if layout.channels == 1:
            return [(image, out.reshape(out.shape[:2]))]
        if layout.channels == 3:
            return [(image, out)]
        alpha = image[:, :, 3]
        if alpha.min() == alpha.max():
            out[:, :, 3] = alpha.flat[0]
            return [(image[:, :, :3], out[:, :, :3])]
        return [(bleed(image)[:, :, :3], out[:, :, :3]), (alpha, out[:, :, 3])]

    def _fill(
        self, one: TiledPass, source: Image, target: Image, advance: Callable[[int], None]
    ) -> None:
        """Run a pass over ``source`` into ``target``, resizing to another scale if asked."""
        native = self.manifest.scale
        height, width = one.height * native, one.width * native
        resizer = None
        if target.shape[:2] != (height, width):
            resizer = RowResizer(height, width, target.shape[0], target.shape[1])
        as_it_is = target.dtype in (np.uint8, np.float32) and target.flags.c_contiguous
        direct = resizer is None and as_it_is and target.ndim == 3 and target.shape[2] == 3
        start = 0
        bands = one.bands(
            lambda first, stop: to_network(source[first:stop]), advance, target if direct else None
        )
        for band in bands:
            finished = band if resizer is None else resizer.push(band)
            if len(finished) and not direct:
                from_network(finished, target[start : start + len(finished)])
            start += len(finished)

    def _together(
        self, images: Sequence[Image], group: list[int], layout: Layout
    ) -> Iterator[tuple[int, Image]]:
        backend = self._backend_for(layout)
        tiling = choose_tiling(backend, self._tile, self._memory)
        tiles = plan_for(backend, layout.height, layout.width, tiling.size)
        if len(group) == 1 or len(tiles) > 1 or layout.channels == 4:
            for index in group:
                yield index, self(images[index])
            return
        windows = [cut(to_network(images[index]), tiles[0]) for index in group]
        native = self.manifest.scale
        try:
            results = backend.infer(stack(windows))
        except OutOfMemoryError:
            logger.warning(
                "out of memory with %d images at once: restoring them one by one", len(group)
            )
            for index in group:
                yield index, self(images[index])
            return
        for index, full in zip(group, results, strict=True):
            result = full[: layout.height * native, : layout.width * native]
            height, width = self._size(layout.height, layout.width)
            if result.shape[:2] != (height, width):
                result = resize(result, height, width)
            out = np.empty(layout.shape(height, width), layout.dtype)
            from_network(result, out.reshape(height, width) if layout.channels == 1 else out)
            yield index, out


class _RaisedByProgress(BaseException):
    """Carries an exception of the caller's ``progress`` past the backends.

    They would otherwise take it for their own, e.g. a MemoryError for a tile that is too large.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class _Counter:
    """Counts towards a total for a progress callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            # Halving the tile means more tiles than planned; the total stays.
            try:
                self._progress(min(self._done, self._total), self._total)
            except Exception as error:
                raise _RaisedByProgress(error) from None


def _allocate(backend: Backend, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Image:
    try:
        return backend.allocate(shape, dtype)
    except MemoryError as error:
        size = math.prod(shape) * dtype.itemsize / 2**30
        raise OutOfMemoryError(
            f"no memory for a result of {shape[1]}x{shape[0]} pixels ({size:.1f} GiB): use a "
            "smaller `scale`, or crop the image"
        ) from error


def _alike(layouts: Sequence[Layout], size: int) -> Iterator[list[int]]:
    """Yield the indices of images of one layout, at most ``size`` together."""
    groups: dict[Layout, list[int]] = {}
    for index, layout in enumerate(layouts):
        group = groups.setdefault(layout, [])
        group.append(index)
        if len(group) == size:
            yield groups.pop(layout)
    yield from groups.values()


def check_scale(scale: Any) -> float | None:
    """Return a scale as a number; raise OptionError unless it is None or in (0, 32]."""
    return None if scale is None else check_number("scale", scale, 0, LARGEST_SCALE, above=True)

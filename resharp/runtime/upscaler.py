"""Upscaler: the public face of the runtime."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from numbers import Integral, Real
from typing import Any

import numpy as np

from resharp.engines import Bundle, Manifest, Tuning
from resharp.errors import OptionError, OutOfMemoryError, ResharpError
from resharp.runtime.backends import Backend
from resharp.runtime.backends.base import cut, stack
from resharp.runtime.bundle_lookup import DEFAULT_MODEL, check_upscales, resolve
from resharp.runtime.fallback import BackendAttempt, attempt_of, open_first
from resharp.runtime.imaging.alpha import bleed
from resharp.runtime.imaging.layout import Layout, check_gray, from_network, layout_of, to_network
from resharp.runtime.imaging.resize import RowResizer, resize
from resharp.runtime.tiling.bands import (
    TiledPass,
    check_tile,
    choose_tiling,
    plan_for,
    smallest_for,
)
from resharp.types import BackendName, Image, Precision, Progress

logger = logging.getLogger(__name__)


LARGEST_SCALE = 32.0


class Upscaler:
    """Restores pictures with one model on one device.

    Args:
        model: a model's name, the folder of a bundle, or a bundle. The default is built in.
        backend: ``auto``, ``tensorrt``, ``torch`` or ``onnx``; auto takes the first that works.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        tile: largest side of a tile in pixels; ``auto``: from the free memory; ``whole``: as few
            tiles as that allows.
        scale: output size over input size; None is the model's own. Others are reached by
            resizing at the end (Lanczos-3, antialiased).
        denoise: strength 0..1 of a model exported with it.
        store: folder of the store; None takes the default.
        threads: CPU threads of one run; None leaves it to the library.
        memory_fraction: share of the device's free memory that ``tile="auto"`` may plan with, in
            (0, 1].
        precision: ``auto``, FP16 on a GPU where that keeps the picture; or ``fp32``.
        tuning: what ``export-engines --tune`` found (``auto``), settings of your own, or None for
            the defaults. ``tile`` and ``threads`` go first.

    Safe to call from several threads at once; nothing of an image is kept. A context manager.

    Raises:
        UnknownModelError: nothing has that name.
        NotExportedError: the model's graph is not in the store.
        BundleError: its bundle is damaged.
        BackendError: no backend can run it here; the message holds every reason.
        OptionError: an option makes no sense.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Bundle = DEFAULT_MODEL,
        *,
        backend: BackendName = "auto",
        device: str = "auto",
        tile: int | str | None = "auto",
        scale: float | None = None,
        denoise: float | None = None,
        store: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        memory_fraction: float = 0.5,
        precision: Precision = "auto",
        tuning: Tuning | str | None = "auto",
    ) -> None:
        self._scale, self._tile = _check_scale(scale), check_tile(tile)
        if not (tuning is None or isinstance(tuning, Tuning) or tuning == "auto"):
            raise OptionError(f"tuning {tuning!r} is neither 'auto' nor a Tuning nor None")
        self._memory = _check_memory(memory_fraction)
        try:
            bundle = resolve(model, store=store, denoise=denoise)
        except ResharpError:
            check_upscales(model)  # to export a face model would be in vain
            raise
        check_upscales(bundle)
        bundle.verify()
        self._open = partial(
            open_first, bundle, backend, device, threads, precision=precision, tuning=tuning
        )
        self._backend, self._attempts = self._open()
        self._deep: Backend | None = None  # for what is not uint8, once there was any
        self._lock, self._closed = threading.Lock(), False
        self._warn_of_tile()

    def _warn_of_tile(self) -> None:
        tile, least, most = self._tile, smallest_for(self._backend), self._backend.tile_limit()
        if not tile:
            return
        if tile < least:
            overlap = self.manifest.overlap
            text = "tile %d leaves nothing between overlaps of %d pixels: using %d"
            logger.warning(text, tile, overlap, least)
        elif most is not None and tile > most:
            text = "the engine takes tiles of up to %d: not %d (export-engines %s --tile %d)"
            logger.warning(text, most, tile, self.manifest.name, tile)

    @property
    def manifest(self) -> Manifest:
        """What is known of the model."""
        return self._backend.manifest

    @property
    def scale(self) -> float:
        """Output size over input size."""
        return self._scale or float(self.manifest.scale)

    @property
    def backend(self) -> str:
        """Name of the backend in use, ``onnx`` say."""
        return self._backend.name

    @property
    def device(self) -> str:
        """Device in use, ``cpu`` say."""
        return self._backend.options.device

    @property
    def workers(self) -> int:
        """Pictures that it can have in work at once, from several threads, with profit."""
        return self._backend.workers()

    @property
    def tile(self) -> int:
        """Largest side of a tile, in pixels, that it would use now."""
        return choose_tiling(self._backend, self._tile, self._memory).size

    def pin_tile(self, tile: int) -> None:
        """From now on use tiles of that size, whatever memory is free: all frames of a video alike.

        Raises:
            OptionError: it is no number of pixels.
        """
        self._tile = check_tile(tile)

    def batch_for(self, height: int, width: int) -> int:
        """8-bit pictures of that size that :meth:`restore_many` should be given to fill the device.

        It is 1 where a picture takes more than one tile.
        """
        if len(plan_for(self._backend, height, width, self.tile)) > 1:
            return 1
        return self._backend.batch_for(max(height, width))

    @property
    def attempts(self) -> tuple[BackendAttempt, ...]:
        """What was tried, up to the backend in use; each that was skipped with its reason.

        Where 16-bit and float pictures need another backend, its attempts follow when the first
        such picture has come. A backend may learn something in its first runs: that CUDA graphs
        have no room, say.
        """
        opened = [one for one in (self._backend, self._deep) if one is not None]
        now = {(one.name, one.options.device): attempt_of(one) for one in opened}
        return tuple(
            now.get((one.backend, one.device), one) if one.works else one for one in self._attempts
        )

    def explain(self) -> str:
        """The attempts as text, a line each."""
        return "\n".join(str(one) for one in self.attempts)

    def __call__(self, image: Image, *, progress: Progress | None = None) -> Image:
        """Restore one picture.

        Args:
            image: gray ``[h, w]`` or ``[h, w, 1]``, BGR ``[h, w, 3]`` or BGRA ``[h, w, 4]``, of
                any size from 1x1; uint8, uint16, or float32 in 0..1.
            progress: called as (done, total), counting tiles, from this thread. Raising in it
                cancels.

        Returns:
            ``scale`` times the size, of the input's dtype and channels. The colors under fully
            transparent pixels are not kept.

        Raises:
            ImageError: the array is no such picture, or has colors and the model only gray.
            OutOfMemoryError: not even the smallest tile found memory.
            BackendError: a 16-bit or float picture, and the backend that was asked for has nothing
                for it.
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
        for (source, target), one in zip(planes, passes, strict=True):
            self._fill(one, source, target, advance)
        return out

    def restore_many(
        self, images: Iterable[Image], batch_size: int = 8, *, progress: Progress | None = None
    ) -> list[Image]:
        """Restore several pictures, small ones of one shape together.

        Args:
            images: as for a call.
            batch_size: pictures per run of the network, at most.
            progress: called as (pictures done, pictures in all).

        Returns:
            The results in order.

        Raises:
            OptionError: ``batch_size`` is under 1.
            ImageError: one array is no picture; nothing has been run then.
        """
        _check_count("batch_size", batch_size)
        images = list(images)
        layouts = [self._layout(image) for image in images]
        results: dict[int, Image] = {}
        count = _Counter(progress, len(images))
        for group in _alike(layouts, batch_size):
            for index, result in self._together(images, group, layouts[group[0]]):
                results[index] = result
                count.add(1)
        return [results[index] for index in range(len(images))]

    def stream(self, frames: Iterable[Image], *, ahead: int = 2) -> Iterator[Image]:
        """Restore frames in order, working ahead while the caller uses the last one.

        Args:
            frames: pictures, read one by one, at most ``ahead`` before they are wanted.
            ahead: frames in work or waiting.

        Raises:
            OptionError: ``ahead`` is under 1.
            ImageError: at the frame that is no picture; the ones before it have come out. So it is
                with whatever ``frames`` raises.
        """
        _check_count("ahead", ahead)
        return self._stream(frames, ahead)

    def close(self) -> None:
        """Give every resource back; closing twice does nothing."""
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
        """The backend for pictures of that dtype; another than the usual one is said aloud."""
        if layout.network_dtype == "uint8":
            return self._backend
        with self._lock:
            if self._deep is None and self._closed:
                return self._backend  # which says that it is closed
            if self._deep is None:
                reason = self._backend.unsupported_reason(layout.network_dtype)
                self._deep = self._backend if reason is None else self._next(reason)
            return self._deep

    def _next(self, reason: str) -> Backend:
        lacking = BackendAttempt(
            self.backend, self.device, False, f"16-bit and float pictures: {reason}"
        )
        found, attempts = self._open(after=lacking)
        logger.warning("%s; they go to %s on %s", lacking, found.name, found.options.device)
        self._attempts = (*self._attempts, *attempts)
        return found

    def _size(self, height: int, width: int) -> tuple[int, int]:
        return max(round(height * self.scale), 1), max(round(width * self.scale), 1)

    def _planes(self, image: Image, out: Image, layout: Layout) -> list[tuple[Image, Image]]:
        """(input, output) of each pass: color, and alpha where it says anything."""
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
        """Run a pass over ``source`` into ``target``, resizing where another scale is asked for."""
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
                "out of memory with %d pictures at once: going on one by one", len(group)
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

    def _stream(self, frames: Iterable[Image], ahead: int) -> Iterator[Image]:
        pending: deque[Future[Image]] = deque()
        workers = min(self._backend.workers(), ahead)
        pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="resharp-stream")
        source, failure = iter(frames), None
        try:
            while True:
                try:
                    frame = next(source)
                except StopIteration:
                    break
                except Exception as error:  # what was read before it still comes out
                    failure = error
                    break
                # A copy, since readers of video like to fill one buffer again and again.
                own = np.array(frame) if isinstance(frame, np.ndarray) else frame
                pending.append(pool.submit(self, own))
                if len(pending) >= ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
            if failure is not None:
                raise failure
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Counter:
    """Counts towards a total for a progress callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            # A halved tile means more tiles than were planned: the end stays the end.
            self._progress(min(self._done, self._total), self._total)


def _allocate(backend: Backend, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Image:
    try:
        return backend.allocate(shape, dtype)
    except MemoryError as error:
        size = math.prod(shape) * dtype.itemsize / 2**30
        raise OutOfMemoryError(
            f"no memory for a result of {shape[1]}x{shape[0]} pixels ({size:.1f} GiB): use a "
            "smaller scale, or cut the picture"
        ) from error


def _alike(layouts: Sequence[Layout], size: int) -> Iterator[list[int]]:
    """Indices of pictures of one layout, at most ``size`` together."""
    groups: dict[Layout, list[int]] = {}
    for index, layout in enumerate(layouts):
        group = groups.setdefault(layout, [])
        group.append(index)
        if len(group) == size:
            yield groups.pop(layout)
    yield from groups.values()


def _check_scale(scale: Any) -> float | None:
    if scale is None:
        return None
    if not isinstance(scale, Real) or not 0 < float(scale) <= LARGEST_SCALE:
        raise OptionError(f"scale {scale!r} is not in 0..{LARGEST_SCALE:g}")
    return float(scale)


def _check_memory(memory: Any) -> float:
    if isinstance(memory, bool) or not isinstance(memory, Real) or not 0 < float(memory) <= 1:
        raise OptionError(f"memory_fraction {memory!r} is not a share of the free memory, 0.7 say")
    return float(memory)


def _check_count(name: str, count: Any) -> None:
    if not isinstance(count, Integral) or count < 1:
        raise OptionError(f"{name} is {count!r}; it must be at least 1")

"""Result arrays in page-locked memory, which the device writes directly.

An array's memory must live as long as the array or any view of it, even after the backend is
closed. Its base is an object of ours, whose finalizer may run in any thread at any point: it only
puts the memory on a list, which the next :meth:`PinnedPool.allocate` reads. Once the pool is
closed, nothing reads the list, so the finalizer frees the memory itself, and the last one closes
the device.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from typing import Any

import numpy as np

from resharp.errors import ResharpError
from resharp.gpu.cuda import Pinned, Provider
from resharp.types import Image

logger = logging.getLogger(__name__)


MOST_OUT = 1 << 30
"""Limit of page-locked memory held by results, in bytes; beyond it, memory is ordinary."""
MOST_IDLE = 256 << 20
"""Bytes kept for the next results."""
STEP = 1 << 20


class PinnedPool:
    """Pool of page-locked memory for results; owns the provider once the pool is closed.

    Args:
        provider: an open device; closed when the pool is closed and the last array is gone.
        most_out: limit of memory held by results, in bytes.
        most_idle: limit of memory kept for the next results, in bytes.
    """

    def __init__(
        self, provider: Provider, most_out: int = MOST_OUT, most_idle: int = MOST_IDLE
    ) -> None:
        self._provider, self._most_out, self._most_idle = provider, most_out, most_idle
        self._lock = threading.Lock()
        self._out: dict[int, Pinned] = {}  # by address
        self._back: deque[tuple[int, Pinned]] = deque()  # left by finalizers, which take no lock
        self._idle: list[Pinned] = []
        self._closed = False
        # Taken by finalizers once the pool is closed; reentrant, as one may interrupt another.
        self._settling = threading.RLock()
        self._busy = self._let_go = False

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Image:
        """Return an uninitialized array, page-locked if possible."""
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        try:
            pinned = self._take(size)
        except (ResharpError, MemoryError) as error:
            logger.debug("using ordinary memory for results: %s", str(error))
            pinned = None
        return np.empty(shape, dtype) if pinned is None else self._wrap(pinned, shape, dtype)

    def owns(self, array: Image) -> bool:
        """Return whether a C-contiguous array lies entirely in memory of this pool."""
        start = _address(array)
        return any(
            place <= start and start + array.nbytes <= place + len(pinned.array)
            for place, pinned in list(self._out.items())  # other threads may change it
        )

    def close(self) -> None:
        """Free unused memory; arrays in use stay valid. Call it outside any scope."""
        with self._lock:
            self._closed = True
        self._settle()

    def _take(self, size: int) -> Pinned | None:
        size = -(-size // STEP) * STEP
        with self._lock:
            if self._closed or not size:
                return None
            with self._provider.scope():
                return self._find(size)

    def _find(self, size: int) -> Pinned | None:
        self._sweep()
        held = sum(len(pinned.array) for pinned in self._out.values())
        if held + size > self._most_out:
            return None
        fitting = [p for p in self._idle if size <= len(p.array) <= 2 * size]
        if fitting:
            pinned = min(fitting, key=lambda p: len(p.array))
            self._idle.remove(pinned)
        else:
            pinned = self._provider.pin(size)
        self._out[_address(pinned.array)] = pinned
        return pinned

    def _sweep(self) -> None:
        """Take back what finalizers left; free the oldest memory beyond the limit."""
        while self._back:
            address, pinned = self._back.popleft()
            del self._out[address]
            self._idle.append(pinned)
        while sum(len(pinned.array) for pinned in self._idle) > self._most_idle:
            self._idle.pop(0).free()

    def _wrap(self, pinned: Pinned, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Image:
        base = _PinnedOwner(_address(pinned.array), shape, dtype)
        finalizer = weakref.finalize(base, self._give_back, _address(pinned.array), pinned)
        finalizer.atexit = False  # the process exit frees it; until then arrays stay valid
        return np.asarray(base)

    def _give_back(self, address: int, pinned: Pinned) -> None:
        self._back.append((address, pinned))
        if self._closed:
            try:
                self._settle()
            except ResharpError as error:
                logger.debug("cannot free page-locked memory: %s", str(error))

    def _settle(self) -> None:
        """After closing, free what was returned; close the device after the last array."""
        with self._settling:
            if self._busy or self._let_go:  # a finalizer inside this call: the loop sees it
                return
            self._busy = True
            try:
                with self._provider.scope():
                    while self._idle:
                        self._idle.pop().free()
                    while self._back:
                        address, pinned = self._back.popleft()
                        pinned.free()
                        del self._out[address]
            finally:
                self._busy = False
            if self._back:  # returned since the loop ended
                self._settle()
            elif not self._out:
                self._let_go = True
                self._provider.close()


class _PinnedOwner:
    """Base of arrays and their views: numpy skips bases that are arrays, but keeps this one."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.__array_interface__ = {
            "data": (address, False),
            "shape": shape,
            "typestr": dtype.str,
            "version": 3,
        }


def _address(array: Image) -> int:
    return int(array.__array_interface__["data"][0])

"""Result arrays in page-locked memory, so that the device writes them without a detour.

An array's memory must live as long as the array or any view of it, also after the backend was
closed. Its base is an object of ours, whose finaliser may run in any thread, in the middle of
anything: it only puts the memory on a list, which the next :meth:`PinnedPool.allocate` reads. Once
the pool is closed nobody would read it, so the finaliser frees the memory itself, and the last one
lets go of the device.
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
"""Bytes that results may hold; further ones are ordinary memory."""
MOST_IDLE = 256 << 20
"""Bytes kept for the next results."""
STEP = 1 << 20


class PinnedPool:
    """A pool of page-locked memory for results, which owns the provider from its own closing on.

    Args:
        provider: an open device; closed when the pool is closed and the last array is gone.
        most_out: see :data:`MOST_OUT`.
        most_idle: see :data:`MOST_IDLE`.
    """

    def __init__(
        self, provider: Provider, most_out: int = MOST_OUT, most_idle: int = MOST_IDLE
    ) -> None:
        self._provider, self._most_out, self._most_idle = provider, most_out, most_idle
        self._lock = threading.Lock()
        self._out: dict[int, Pinned] = {}  # by address
        self._back: deque[tuple[int, Pinned]] = deque()  # left by finalisers, which take no lock
        self._idle: list[Pinned] = []
        self._closed = False
        # Finalisers take this one, once it is closed: a thread may meet itself in it.
        self._settling = threading.RLock()
        self._busy = self._let_go = False

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Image:
        """An uninitialised array, page-locked where that is possible."""
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        try:
            pinned = self._take(size)
        except (ResharpError, MemoryError) as error:
            logger.debug("results in ordinary memory: %s", str(error))
            pinned = None
        return np.empty(shape, dtype) if pinned is None else self._wrap(pinned, shape, dtype)

    def owns(self, array: Image) -> bool:
        """Whether all of a C-contiguous array lies in memory of this pool."""
        start = _address(array)
        return any(
            place <= start and start + array.nbytes <= place + len(pinned.array)
            for place, pinned in list(self._out.items())  # others change it meanwhile
        )

    def close(self) -> None:
        """Free what nobody holds; arrays that are held stay valid. Outside any scope."""
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
        """Take back what finalisers left; forget the oldest of too much."""
        while self._back:
            address, pinned = self._back.popleft()
            del self._out[address]
            self._idle.append(pinned)
        while sum(len(pinned.array) for pinned in self._idle) > self._most_idle:
            self._idle.pop(0).free()

    def _wrap(self, pinned: Pinned, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Image:
        base = _PinnedOwner(_address(pinned.array), shape, dtype)
        finalizer = weakref.finalize(base, self._give_back, _address(pinned.array), pinned)
        finalizer.atexit = False  # the process's end frees it, and no array is cut off before
        return np.asarray(base)

    def _give_back(self, address: int, pinned: Pinned) -> None:
        self._back.append((address, pinned))
        if self._closed:
            try:
                self._settle()
            except ResharpError as error:
                logger.debug("page-locked memory was not freed: %s", str(error))

    def _settle(self) -> None:
        """After closing: free what came back, and the device after the last."""
        with self._settling:
            if self._busy or self._let_go:  # a finaliser in the midst of this: the loop sees it
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
            if self._back:  # put there between the loop's end and here
                self._settle()
            elif not self._out:
                self._let_go = True
                self._provider.close()


class _PinnedOwner:
    """What arrays and their views hold on to: numpy looks through arrays, not through this."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.__array_interface__ = {
            "data": (address, False),
            "shape": shape,
            "typestr": dtype.str,
            "version": 3,
        }


def _address(array: Image) -> int:
    return int(array.__array_interface__["data"][0])

"""Memory that grows on demand and is kept for the next picture."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from resharp.errors import ResharpError
from resharp.gpu.cuda import Buffer, Pinned, Provider

logger = logging.getLogger(__name__)

STEP = 1 << 16
"""Sizes are rounded up to this, so that pictures of nearly one size share a buffer."""


class DeviceBuffer:
    """A buffer of the device. Not thread safe; its lane has one user at a time."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._buffer: Buffer | None = None

    @property
    def address(self) -> int:
        """0 while there is none."""
        return 0 if self._buffer is None else self._buffer.address

    @property
    def size(self) -> int:
        """Bytes."""
        buffer = self._buffer  # others ask, and it may go meanwhile
        return 0 if buffer is None else buffer.size

    def grow(self, size: int) -> None:
        """Hold at least ``size`` bytes; the content is lost. Nothing may be using it.

        Raises:
            OutOfMemoryError: the device has no room; it holds nothing then.
        """
        if self.size >= size and self._buffer is not None:
            return
        self.free()
        self._buffer = self._provider.allocate(-(-max(size, 1) // STEP) * STEP)

    def free(self) -> None:
        """Give it back."""
        if self._buffer is not None:
            buffer, self._buffer = self._buffer, None
            buffer.free()


class PinnedBuffer:
    """Memory of the host for copies to or from the device. Used as :class:`DeviceBuffer` is.

    Page-locked, as far as the system allows: with ordinary memory the same copies are right too,
    only slower, since CUDA then goes through memory of its own.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._pinned: Pinned | None = None
        self._array: NDArray[np.uint8] = np.empty(0, np.uint8)

    def grow(self, size: int) -> NDArray[np.uint8]:
        """``size`` bytes; the content is lost."""
        if len(self._array) < size:
            self.free()
            self._array = self._allocate(-(-max(size, 1) // STEP) * STEP)
        return self._array[:size]

    def _allocate(self, size: int) -> NDArray[np.uint8]:
        try:
            self._pinned = self._provider.pin(size)
        except ResharpError as error:
            logger.warning("copies will be slower, without page-locked memory: %s", str(error))
            return np.empty(size, np.uint8)
        return self._pinned.array

    def free(self) -> None:
        """Give it back."""
        self._array = np.empty(0, np.uint8)
        if self._pinned is not None:
            pinned, self._pinned = self._pinned, None
            pinned.free()

"""Buffers that grow on demand and are kept for the next image."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from resharp.errors import ResharpError
from resharp.gpu.cuda import Buffer, Pinned, Provider

logger = logging.getLogger(__name__)

STEP = 1 << 16
"""Sizes in bytes are rounded up to this, so that images of similar size share a buffer."""


class DeviceBuffer:
    """Device memory. Not thread-safe; its lane has one user at a time."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._buffer: Buffer | None = None

    @property
    def address(self) -> int:
        """Device address; 0 while nothing is allocated."""
        return 0 if self._buffer is None else self._buffer.address

    @property
    def size(self) -> int:
        """Size in bytes."""
        buffer = self._buffer  # other threads ask, and it may be freed meanwhile
        return 0 if buffer is None else buffer.size

    def grow(self, size: int) -> None:
        """Hold at least ``size`` bytes; the contents are lost. The memory must not be in use.

        Raises:
            OutOfMemoryError: the device is out of memory; the buffer is empty then.
        """
        if self.size >= size and self._buffer is not None:
            return
        self.free()
        self._buffer = self._provider.allocate(-(-max(size, 1) // STEP) * STEP)

    def free(self) -> None:
        """Free the memory."""
        if self._buffer is not None:
            buffer, self._buffer = self._buffer, None
            buffer.free()


class PinnedBuffer:
    """Host memory for copies to and from the device, used like :class:`DeviceBuffer`.

    Page-locked if the system allows it. Copies of ordinary memory are equally correct, but slower,
    since CUDA stages them in memory of its own.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._pinned: Pinned | None = None
        self._array: NDArray[np.uint8] = np.empty(0, np.uint8)

    def grow(self, size: int) -> NDArray[np.uint8]:
        """Return ``size`` bytes; the contents are lost."""
        if len(self._array) < size:
            self.free()
            self._array = self._allocate(-(-max(size, 1) // STEP) * STEP)
        return self._array[:size]

    def _allocate(self, size: int) -> NDArray[np.uint8]:
        try:
            self._pinned = self._provider.pin(size)
        except ResharpError as error:
            logger.warning("copies will be slower without page-locked memory: %s", str(error))
            return np.empty(size, np.uint8)
        return self._pinned.array

    def free(self) -> None:
        """Free the memory."""
        self._array = np.empty(0, np.uint8)
        if self._pinned is not None:
            pinned, self._pinned = self._pinned, None
            pinned.free()

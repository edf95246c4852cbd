"""Memory that grows on demand and is kept for the next picture."""

from __future__ import annotations

from resharp.runtime.cuda import Buffer, Pinned, Provider

STEP = 1 << 16
"""Sizes are rounded up to this, so that pictures of nearly one size share a buffer."""


class Room:
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


class HostRoom:
    """Page-locked memory for copies to or from the device. Used as :class:`Room` is."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._pinned: Pinned | None = None

    def grow(self, size: int) -> Pinned:
        """At least ``size`` bytes; the content is lost.

        Raises:
            OutOfMemoryError: the host has no room.
        """
        if self._pinned is None or len(self._pinned.array) < size:
            self.free()
            self._pinned = self._provider.pin(-(-max(size, 1) // STEP) * STEP)
        return self._pinned

    def free(self) -> None:
        """Give it back."""
        if self._pinned is not None:
            pinned, self._pinned = self._pinned, None
            pinned.free()

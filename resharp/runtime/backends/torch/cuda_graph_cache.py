"""Recorded shapes and page-locked results, which the torch backend keeps between runs.

This module does not import torch: recording and page-locking are passed as functions, so the rules
are tested without a GPU.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import numpy as np

from resharp.types import Image, Log

REMEMBERED = 64
"""Number of shapes whose first use is remembered."""
ACCIDENTS = 2
"""Consecutive failures, other than out of memory, after which recording stops."""
PAUSE = 8
"""Uses to wait before recording again after memory ran out; doubled each time."""

Key = TypeVar("Key", bound=Hashable)
Recorded = TypeVar("Recorded")


class CudaGraphCache(Generic[Key, Recorded]):
    """LRU cache of recordings, each made at the second use of its key.

    All recordings of one generation share a memory pool. Its parts are only freed together, and new
    sizes would add more and more of them, so after ``limit ** 2`` recordings all are dropped.

    Args:
        record: records for a key, in a pool.
        make_pool: returns a new pool.
        synchronize: called before a recording is dropped, since it may still be running.
        log: called with why recording failed; with an empty string once it works again.
        passing: returns whether an error is out of memory, which may be temporary.
        limit: maximum number of recordings.
    """

    def __init__(
        self,
        record: Callable[[Key, Any], Recorded],
        *,
        make_pool: Callable[[], Any],
        synchronize: Callable[[], None],
        log: Log,
        passing: Callable[[Exception], bool],
        limit: int = 4,
    ) -> None:
        self._record, self._make_pool = record, make_pool
        self._synchronize, self._log, self._limit = synchronize, log, limit
        self._passing = passing
        self._kept: OrderedDict[Key, Recorded] = OrderedDict()
        self._seen: OrderedDict[Key, None] = OrderedDict()
        self._pool: Any = None
        self.changes = 0
        """Incremented whenever a recording is made or dropped."""
        self._made, self._accidents = 0, 0
        self._pauses, self._pause = 0, 0

    def get(self, key: Key) -> Recorded | None:
        """Return the recording of a key, or None."""
        return self._kept.get(key)

    def prepare(self, key: Key) -> None:
        """Count a use, and record at the second one. Recording errors are not raised."""
        if key in self._kept:
            self._kept.move_to_end(key)
        elif self._accidents >= ACCIDENTS:
            return
        elif self._pause:
            self._pause -= 1
        elif key not in self._seen:
            self._seen[key] = None
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        else:
            try:
                self._add(key)
            except Exception as error:  # out of memory, or an operation that no graph supports
                self._seen.pop(key, None)
                self._pool = None  # the failed one may be unusable
                self._note_failure(error)
            else:
                if self._pauses:
                    self._log("")
                self._accidents = self._pauses = 0

    def _note_failure(self, error: Exception) -> None:
        said = f"{type(error).__name__}: {error}"
        if self._passing(error):
            self._pause = PAUSE << min(self._pauses, 10)
            self._pauses += 1
            if self._pauses == 1:
                self._log(f"{said}; will retry later")
            return
        self._accidents += 1
        if self._accidents == ACCIDENTS:
            self._log(said)

    def drop(self) -> None:
        """Drop all recordings."""
        self.changes += 1
        if self._kept:
            self._synchronize()
        self._kept.clear()
        self._seen.clear()
        self._pool, self._made = None, 0

    def _add(self, key: Key) -> None:
        if self._made >= self._limit**2:
            self.drop()
        elif len(self._kept) >= self._limit:
            self._synchronize()
            gone, _ = self._kept.popitem(last=False)
            self._seen.pop(gone, None)
        if self._pool is None:
            self._pool = self._make_pool()
        self._made += 1
        self.changes += 1
        self._kept[key] = self._record(key, self._pool)


class PinnedResults:
    """Result arrays in page-locked memory, which the GPU writes without a copy by the host.

    Page-locked memory cannot be swapped and stays in use as long as the caller keeps the array, so
    it is limited; beyond the allowance arrays use ordinary memory.

    Args:
        allowance: total number of bytes.
        make: returns a page-locked uint8 array of a given size, or None if it is not available.
    """

    def __init__(self, allowance: int, make: Callable[[int], Image | None]) -> None:
        self._allowance, self._make = allowance, make
        self._numbers, self._live = itertools.count(), dict[int, int]()

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Image:
        """Return an uninitialized array, page-locked within the allowance."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        taken = 1 << (size - 1).bit_length()  # torch rounds up like this
        if sum(list(self._live.values())) + taken <= self._allowance:
            whole = self._make(size)
            if whole is not None:
                number = next(self._numbers)
                self._live[number] = taken
                # Views keep `whole`. No lock: this may run during any allocation, in any thread.
                weakref.finalize(whole, self._live.pop, number, None).atexit = False
                return whole.view(dtype).reshape(shape)
        return np.empty(shape, dtype)

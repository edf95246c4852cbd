"""Bounded reading of files that resharp, or a stranger, has written.

A file may be a pipe that never ends, larger than the memory, or nested so deeply that a parser
fails. Nothing here waits for a file that is not one, and nothing reads more than it was allowed.
"""

from __future__ import annotations

import io
import json
import os
import select
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Protocol, overload

LARGEST_STREAM = 4 << 30
"""Largest number of bytes that are read from a pipe or a device, which may be endless."""
_TICK = 0.1
SMALL = 16 << 20
"""Bytes that a file of settings, a manifest or a sidecar may have."""


class TooLargeError(OSError):
    """A file that is larger than the limit."""


class NotRegularError(OSError):
    """A path that is neither a file nor a folder: a pipe, a socket or a device."""


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading, but not a pipe, a socket or a device, on which reading may wait.

    Raises:
        NotRegularError: it is not a file.
        OSError: it cannot be opened; IsADirectoryError for a folder.
    """
    _check_regular(os.stat(path).st_mode)  # noqa: PTH116 - opening a pipe would wake its writer
    stream = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - Path has no opener
    try:
        _check_regular(os.fstat(stream.fileno()).st_mode)
    except BaseException:
        stream.close()
        raise
    return stream


def _check_regular(mode: int) -> None:
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # open() raises the right error for a folder
        raise NotRegularError(f"it is {kind_of(mode)}, not a file")


def open_any(
    path: str | os.PathLike[str], check: Callable[[], object] = lambda: None
) -> io.BufferedReader:
    """Open a file, or a pipe or device that delivers one, for reading.

    Args:
        path: what to open. For a pipe, reading waits for a writer.
        check: called several times a second while reading waits for data; raising ends the wait.

    Raises:
        OSError: it cannot be opened; IsADirectoryError for a folder. Reading raises
            :class:`TooLargeError` after :data:`LARGEST_STREAM` bytes of a pipe or a device.
    """
    raw = io.FileIO(path, opener=_without_waiting)
    mode = os.fstat(raw.fileno()).st_mode
    if stat.S_ISREG(mode) or not hasattr(select, "poll"):
        return io.BufferedReader(raw)
    return io.BufferedReader(_Waiting(raw, check))


class _Waiting(io.RawIOBase):
    """A pipe or a device; reading waits for data in short steps."""

    def __init__(self, raw: io.FileIO, check: Callable[[], object]) -> None:
        self._raw, self._check, self._left = raw, check, LARGEST_STREAM
        self._poll = select.poll()
        self._poll.register(raw.fileno(), select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        while True:
            self._check()
            if self._poll.poll(_TICK * 1000):
                count = self._raw.readinto(buffer)
                if count is not None:  # another process has read the data
                    break
        self._left -= count
        if self._left < 0:
            raise TooLargeError(f"it delivers more than {LARGEST_STREAM} bytes")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def kind_of(mode: int) -> str:
    """Return what a path with this ``st_mode`` is, with an article."""
    kinds = {stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket", stat.S_ISDIR: "a folder"}
    return next((what for test, what in kinds.items() if test(mode)), "a device")


def read_bounded(path: str | os.PathLike[str], limit: int = SMALL) -> bytes:
    """Return the bytes of a file that may have at most ``limit`` of them.

    Raises:
        TooLargeError: it has more.
        NotRegularError: it is not a file.
        OSError: it cannot be read.
    """
    with open_regular(path) as stream:
        if os.fstat(stream.fileno()).st_size <= limit:  # do not read a file that is refused
            data = stream.read(limit + 1)
            if len(data) <= limit:
                return data
    raise TooLargeError(f"it has more than {limit} bytes")


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: str | os.PathLike[str], limit: int = SMALL) -> Any:
    """Parse a JSON file in UTF-8.

    Raises:
        OSError: as for :func:`read_bounded`.
        ValueError: as for :func:`parse_json`.
    """
    return parse_json(read_bounded(Path(path), limit))


class Data(Protocol):
    """Data that a parser slices: ``bytes``, or :class:`FileData`."""

    def __len__(self) -> int: ...

    @overload
    def __getitem__(self, at: int, /) -> int: ...

    @overload
    def __getitem__(self, at: slice, /) -> bytes: ...


class FileData:
    """The bytes of a seekable file, of which only the requested slices are read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, 2)

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, at: int, /) -> int: ...

    @overload
    def __getitem__(self, at: slice, /) -> bytes: ...

    def __getitem__(self, at: int | slice, /) -> int | bytes:
        start, stop, _ = (at if isinstance(at, slice) else slice(at, at + 1)).indices(self._size)
        self._file.seek(start)
        found = self._file.read(max(stop - start, 0))
        return found if isinstance(at, slice) else found[0]


def _without_waiting(path: str, flags: int) -> int:
    # Opening a pipe waits for its writer unless O_NONBLOCK is set; Windows has no such flag.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))

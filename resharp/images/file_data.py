"""The bytes of a file, in memory or read on demand."""

from __future__ import annotations

from typing import BinaryIO, Protocol, overload


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

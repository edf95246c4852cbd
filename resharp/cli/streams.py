"""Standard streams that are closed or broken, and characters that their encoding lacks.

A message that cannot be shown never ends a run. Results that cannot be printed are an error.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, NoReturn

import click

from resharp.errors import OutputError

GONE = 141
"""Exit code if the reader of standard output has exited, as for tools that SIGPIPE ends."""


@contextmanager
def standard_streams() -> Iterator[None]:
    """Make the standard streams of this process safe; those of a test runner are kept."""
    _occupy()
    before = sys.stdout, sys.stderr
    sys.stdout = _safe(sys.stdout, sys.__stdout__, _Out, 1)
    sys.stderr = _safe(sys.stderr, sys.__stderr__, _Lossy, 2)
    try:
        yield
    finally:
        with suppress(OSError, ValueError, OutputError, click.exceptions.Exit):
            sys.stdout.flush()
        sys.stdout, sys.stderr = before


def is_closed(stream: IO[Any] | None) -> bool:
    """Whether a standard stream was closed when the process was started."""
    return stream is None or getattr(stream, "name", "") == os.devnull


def _occupy() -> None:
    """Open the null device for descriptors 0 to 2 that are closed.

    Otherwise the next file gets such a number, and what libraries print is written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                # open() returns the lowest free number. Child processes inherit it.
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


class _Out(io.FileIO):
    """Standard output, with errors that name it."""

    _broken = False

    def write(self, data: Any) -> int:
        if self._broken:  # the rest of the buffer
            return len(data)
        try:
            return super().write(data) or 0
        except OSError as error:
            self._broken = True
            _fail(error)


def _fail(error: OSError) -> NoReturn:
    if error.errno == errno.EPIPE:
        raise click.exceptions.Exit(GONE) from None
    raise OutputError(
        f"standard output cannot be written: {error.strerror}. Redirect it elsewhere."
    ) from error


class _Lossy(io.FileIO):
    """Standard error, which drops what cannot be written."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or len(data)
        except OSError:
            return len(data)


def _safe(stream: Any, original: Any, kind: type[io.FileIO], number: int) -> Any:
    """Return a stream that takes any character, over a ``kind`` if it is the process's own."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8", errors="replace")  # noqa: PTH123
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    with suppress(OSError, ValueError):  # it is closed
        stream.flush()
        if stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")
        raw = getattr(stream.buffer, "raw", stream.buffer)
        # The console of Windows is a file of another type.
        if stream is original and type(raw) is io.FileIO and stream.fileno() == number:
            file = io.BufferedWriter(kind(number, "w", closefd=False))
            lines = stream.line_buffering or number == 2
            return io.TextIOWrapper(file, stream.encoding, "replace", line_buffering=lines)
    return stream

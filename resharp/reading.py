"""Bounded reading of files that resharp, or a stranger, has written.

A file may be a pipe that never ends, larger than the memory, or nested so deeply that a parser
fails. Nothing here waits for a file that is not one, and nothing reads more than it was allowed.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

SMALL = 16 << 20
"""Bytes that a file of settings, a manifest or a sidecar may have."""


class TooLargeError(OSError):
    """A file with more bytes than it may have."""


class NotRegularError(OSError):
    """A path that is neither a file nor a folder: a pipe, a socket or a device."""


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading, but not a pipe, a socket or a device, on which reading may wait.

    Raises:
        NotRegularError: it is none.
        OSError: it cannot be opened; IsADirectoryError for a folder.
    """
    stream = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - Path has no opener
    try:
        mode = os.fstat(stream.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise NotRegularError(f"it is {kind_of(mode)}, not a file")
    except BaseException:
        stream.close()
        raise
    return stream


def kind_of(mode: int) -> str:
    """Return what a path with this ``st_mode`` is, with an article."""
    kinds = {stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket", stat.S_ISDIR: "a folder"}
    return next((what for test, what in kinds.items() if test(mode)), "a device")


def read_bounded(path: str | os.PathLike[str], limit: int = SMALL) -> bytes:
    """Return the bytes of a file that may have at most ``limit`` of them.

    Raises:
        TooLargeError: it has more.
        NotRegularError: it is no file.
        OSError: it cannot be read.
    """
    with open_regular(path) as stream:
        if os.fstat(stream.fileno()).st_size <= limit:  # or it would be read in vain
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


def _without_waiting(path: str, flags: int) -> int:
    # Opening a pipe waits for its writer unless O_NONBLOCK is set; Windows has no such flag.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))

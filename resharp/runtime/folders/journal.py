"""What was made of which input, in a file of JSON lines that several processes append to.

A line is written at once and read only when its end is there; the last line of a target counts.
What is no line of ours, a half one after a power cut say, is passed over.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from resharp.images import write_whole

log = logging.getLogger(__name__)

SCHEMA = 1
"""Version of a line; lines of others are passed over."""
SPARE = 200
"""Lines that a journal may hold beyond two for each target, before it is written anew."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One result."""

    target: str
    """Its path below the folder of results, with slashes."""
    source: str
    """Path of its input, relative to the folder of results where there is such a path."""
    key: str
    """See :func:`key_of`."""
    input_sha256: str
    """Of the bytes that were restored."""
    input_size: int
    input_mtime_ns: int
    output_sha256: str
    """Of the bytes that were written."""
    output_size: int
    output_mtime_ns: int

    def line(self) -> bytes:
        """As it is stored."""
        return json.dumps({"v": SCHEMA, **asdict(self)}).encode("ascii") + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Entry | None:
        """Read a line; None if it is none of this schema."""
        try:
            values = json.loads(line)
        except ValueError:
            return None
        if not isinstance(values, dict) or values.pop("v", None) != SCHEMA:
            return None
        types = {field.name: int if field.type == "int" else str for field in fields(cls)}
        if set(values) != set(types):
            return None
        if not all(type(values[name]) is kind for name, kind in types.items()):
            return None
        return cls(**values)


def key_of(options: str, input_sha256: str) -> str:
    """Hash of all that a result depends on: the key of recipe and format, and the input's bytes."""
    return hashlib.sha256(f"{options} {input_sha256}".encode()).hexdigest()


class Journal:
    """The entries of one file. Safe to use from several threads.

    Args:
        path: of the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._warned = False
        self._forget()

    def _forget(self) -> None:
        self._entries: dict[str, tuple[int, Entry]] = {}
        self._lines, self._offset = 0, 0
        self._file: tuple[int, int] | None = None

    @property
    def lines(self) -> int:
        """Lines read so far: a mark for :meth:`since`."""
        return self._lines

    def refresh(self) -> None:
        """Read what was appended since the last time, by whomever."""
        with self._lock:
            try:
                with self._path.open("rb") as file:
                    self._read(file)
            except FileNotFoundError:
                self._forget()
            except OSError as error:
                log.warning(
                    "%s cannot be read, so results are known by name: %s", self._path, error
                )

    def _read(self, file: Any) -> None:
        found = os.fstat(file.fileno())
        if (found.st_dev, found.st_ino) != self._file or found.st_size < self._offset:
            self._forget()
            self._file = (found.st_dev, found.st_ino)
        file.seek(self._offset)
        whole, end, _ = file.read().rpartition(b"\n")
        self._offset += len(whole + end)
        for line in whole.split(b"\n") if end else ():
            self._lines += 1
            entry = Entry.parse(line)
            if entry is not None:
                self._entries[entry.target] = (self._lines, entry)
        if found.st_size and not self._entries and not self._warned:
            self._warned = True
            log.warning("%s holds nothing that is known: results are known by name", self._path)

    def get(self, target: str) -> Entry | None:
        """The newest entry of a target that was read."""
        return self._entries.get(target, (0, None))[1]

    def since(self, target: str, mark: int) -> bool:
        """Whether a target's entry was read after the mark."""
        return self._entries.get(target, (0, None))[0] > mark

    def append(self, entry: Entry) -> None:
        """Add a line; the caller holds the lock that keeps other processes from it.

        Raises:
            OSError: the disk refused.
        """
        with self._path.open("a+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 1, 0))
            torn = size and file.read(1) != b"\n"  # somebody was killed in the middle of a line
            file.write((b"\n" if torn else b"") + entry.line())

    def compact(self) -> None:
        """Write it anew if most of it is history; the caller is alone with it."""
        self.refresh()
        if self._lines > 2 * len(self._entries) + SPARE:
            with contextlib.suppress(OSError):
                write_whole(
                    self._path, b"".join(entry.line() for _, entry in self._entries.values())
                )

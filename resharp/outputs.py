"""The rules about output names for every command, and the journal of what was made.

1. An input is never overwritten. The name that is really used, after every substitution, is
   compared with every input of the run by file identity, so that hard links, symbolic links and
   other spellings of a path count too.
2. An existing file is finished work only if the journal says that this program has made it. Any
   other file is replaced only if the user typed its name and said ``overwrite``; never one whose
   name the program chose.
3. A name without an extension, with a slash at its end, or of an existing folder is a folder. An
   extension that cannot be written is refused.

The journal is a file of JSON lines that several processes append to. A line is written at once and
read only when it is complete; the last line of an output counts. Invalid lines are ignored, e.g. a
partial one after a power cut. The journal of a folder of results is in ``.resharp`` in that folder,
or in the cache folder. The second place leaves no trace beside the results, but is not seen from
other machines.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from resharp.checks import shown
from resharp.errors import OptionError
from resharp.fsutil import locked, sha256_of, write_whole
from resharp.paths import expanded, home, path_text
from resharp.reading import kind_of, open_regular, parse_json

logger = logging.getLogger(__name__)

FOLDER = ".resharp"
"""Name of our folder in the folder of results; hidden folders are not searched for images."""
JOURNAL = "journal.jsonl"
SCHEMA = 1
"""Version of the journal's lines; lines of other versions are ignored."""
GATE = "gate"
"""Name of the lock that excludes other processes from changing the journal."""
LOCK_TIMEOUT = 60.0
"""Seconds to wait for that lock, which is never held for more than a moment."""
JournalPlace = Literal["output", "cache"]
"""Beside the results, or in the cache folder."""
JournalOption = Literal["auto", "output", "cache"]
"""A place, or ``auto``: beside the results in a folder, in the cache folder for single files."""
SPARE = 200
"""Number of lines, beyond two per target, above which a journal is compacted."""


@dataclass(frozen=True)
class OutputName:
    """The output that a user asked for."""

    path: Path
    is_file: bool
    """Whether the user typed the name of a file, and not of a folder."""


def parse_output(
    dst: str | os.PathLike[str], endings: Collection[str], hint: str = ""
) -> OutputName:
    """Tell whether an output is a file or a folder.

    Args:
        dst: what the user typed.
        endings: extensions of files that can be written, in lowercase and with the dot.
        hint: what else to do about an extension that cannot be written, for the error message.

    Raises:
        OptionError: it is empty, or has an extension that cannot be written.
    """
    text = path_text(dst, "`dst`")
    path = expanded(text)
    separators = ("/", os.sep, *filter(None, [os.altsep]))
    is_folder = text.endswith(separators) or os.path.isdir(path) or path.suffix in ("", ".")
    of_user = text[0] == "~" and (is_folder or len(path.parts) > 1) and path == Path(text)
    if of_user and not os.path.exists(path.parts[0]):
        user = path.parts[0][1:]
        raise OptionError(f"`dst` refers to the unknown user {shown(user)}: write ./{text} instead")
    if is_folder:
        if os.path.exists(path) and not os.path.isdir(path):
            raise OptionError(f"`dst` must be a folder, got {text}: it is {_kind(path)}")
        return OutputName(path, is_file=False)
    if path.suffix.lower() not in endings:
        able = ", ".join(sorted(endings))
        raise OptionError(
            f"the extension of `dst` must be one of {able}, got {shown(path.name)}; to create a "
            f"folder of that name, end it with a slash: {text}/{hint}"
        )
    return OutputName(path, is_file=True)


class InputFiles:
    """The files that a run reads, which it must not write.

    Args:
        paths: the files; missing ones are ignored.
    """

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._known: dict[tuple[int, int], Path] = {}
        for path in paths:
            self.add(path)

    def add(self, path: Path, handle: int | None = None) -> None:
        """Add a file; ``handle`` is its descriptor if it is open under no path of its own."""
        identity = _identity(path if handle is None else handle)
        if identity is not None:
            self._known.setdefault(identity, path)

    def find(self, target: Path | int) -> Path | None:
        """Return the input that a path or descriptor leads to; None if there is none."""
        identity = _identity(target)
        return None if identity is None else self._known.get(identity)

    def refusal(self, target: Path) -> str:
        """Return why a path must not be written; empty if it is not an input."""
        found = self.find(target)
        if found is None:
            return ""
        return f"the result would overwrite the input {found}: choose another `dst`"


def _identity(path: Path | int) -> tuple[int, int] | None:
    """Return device and inode of an existing or open file, which all its names share."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a descriptor has no methods
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino) if found.st_ino else None


def refusal(
    target: Path, *, ours: bool, typed: bool, overwrite: bool, recorded: bool = False
) -> str:
    """Return why a path must not be written; empty if nothing would be lost.

    Args:
        target: path of the output.
        ours: whether the journal says that this program made what is there.
        typed: whether the user typed this name.
        overwrite: whether the user asked to replace existing outputs.
        recorded: whether the journal has an entry of that name, of whatever contents.
    """
    if not os.path.lexists(target):
        return ""
    if os.path.exists(target) and not os.path.isfile(target):
        return f"{target} is {_kind(target)}, which is not replaced: choose another `dst`"
    if ours or (typed and overwrite):
        return ""
    text = f"{target} already exists, and the journal does not say that resharp made it"
    if recorded:
        text = f"{target} was changed since it was written"
    if typed:
        return f"{text}: use `overwrite` to replace it, or choose another `dst`"
    return f"{text}, so it is not replaced: rename or remove it, or choose another `dst`"


def _kind(path: Path) -> str:
    return "a file" if os.path.isfile(path) else kind_of(path.stat().st_mode)


def folder_beside(root: Path) -> Path:
    """Return the folder of the journal beside the results in ``root``."""
    return root / FOLDER


def folder_in_cache(root: Path) -> Path:
    """Return the folder of the journal of ``root`` in the cache folder."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()
    return home() / "journals" / name[:32]


@dataclass(frozen=True)
class FileStat:
    """A file's size and time, to detect a change without reading the file."""

    size: int
    """Size in bytes."""
    mtime_ns: int
    """Time of the last change, in nanoseconds."""

    @classmethod
    def of(cls, path: Path) -> FileStat:
        """Read them from the file system.

        Raises:
            OSError: the file does not exist or is not accessible.
        """
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns)


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """One finished output: an image, a video or a sequence of images."""

    target: str
    """Path of the result, relative to the folder of results, with slashes."""
    source: str
    """Path of the input, relative to the folder of results if they are on one drive."""
    key: str
    """Hash of everything that the result depends on."""
    input_sha256: str
    """Hash of the input file."""
    input_size: int
    input_mtime_ns: int
    output_sha256: str
    """Hash of the file that was written."""
    output_size: int
    output_mtime_ns: int

    def wrote(self, path: Path, hashed: Callable[[Path], str] = sha256_of) -> bool:
        """Return whether a file is what was written, by its hash, so that a copy counts too.

        Args:
            path: the file.
            hashed: returns the SHA-256 of a file; called only if its time is another.
        """
        try:
            found = FileStat.of(path)
            if found == FileStat(self.output_size, self.output_mtime_ns):
                return True
            return found.size == self.output_size and hashed(path) == self.output_sha256
        except OSError:
            return False

    def line(self) -> bytes:
        """Return the entry as a line of the journal."""
        return json.dumps({"v": SCHEMA, **asdict(self)}).encode("ascii") + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> JournalEntry | None:
        """Parse a line; return None if it is not a valid line of this version."""
        try:
            values = parse_json(line)
        except ValueError:
            return None
        if not isinstance(values, dict) or values.pop("v", None) != SCHEMA:
            return None
        types = {field.name: field.type for field in fields(cls)}
        found = {name: type(value).__name__ for name, value in values.items()}
        return cls(**values) if found == types else None


class Journal:
    """The entries of one journal file. Safe to use from several threads.

    Args:
        path: path of the file, which may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._warned = False
        self._forget()

    def _forget(self) -> None:
        self._entries: dict[str, tuple[int, JournalEntry]] = {}
        self._earlier: dict[str, JournalEntry] = {}
        self.lines, self._offset = 0, 0
        self._file: tuple[int, int] | None = None

    def refresh(self) -> None:
        """Read the lines that any process has appended since the last call."""
        with self._lock:
            try:
                with open_regular(self._path) as file:
                    self._read(file)
            except (FileNotFoundError, NotADirectoryError):
                self._forget()
            except OSError as error:
                logger.warning(
                    "cannot read %s, so the results in it are not recognized: %s", self._path, error
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
            self.lines += 1
            entry = JournalEntry.parse(line)
            if entry is not None:
                _, before = self._entries.get(entry.target, (0, entry))
                if before.output_sha256 != entry.output_sha256:
                    self._earlier[entry.target] = before
                self._entries[entry.target] = (self.lines, entry)
        if found.st_size and not self._entries and not self._warned:
            self._warned = True
            text = "%s has no valid entries, so the results in it are not recognized"
            logger.warning(text, self._path)

    @property
    def empty(self) -> bool:
        """Whether it has no valid entry."""
        return not self._entries

    @property
    def names(self) -> set[str]:
        """Names of all outputs that it knows."""
        return set(self._entries)

    def get(self, target: str, since: int = -1) -> JournalEntry | None:
        """Return the newest entry of a target if its line number is above ``since``, else None."""
        line, entry = self._entries.get(target, (-1, None))
        return entry if line > since else None

    def all(self, target: str) -> list[JournalEntry]:
        """Return the newest entry of a target, and the last one of other contents before it.

        A run killed while it replaced a result has recorded the new one, and left the other.
        """
        found = (self._entries.get(target, (0, None))[1], self._earlier.get(target))
        return [entry for entry in found if entry is not None]

    def append(self, entry: JournalEntry) -> None:
        """Append a line; the caller holds the lock that excludes other processes.

        Raises:
            OSError: the file cannot be written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 1, 0))
            torn = size and file.read(1) != b"\n"  # a process was killed while writing a line
            file.write((b"\n" if torn else b"") + entry.line())

    def compact(self) -> None:
        """Drop outdated lines if they are the majority; no other process may use the file."""
        self.refresh()
        if self.lines > 2 * len(self._entries) + SPARE:
            newest = (entry for _, entry in self._entries.values())
            lines = [entry.line() for entry in (*self._earlier.values(), *newest)]
            with contextlib.suppress(OSError):
                write_whole(self._path, b"".join(lines))


class OutputRecords:
    """What is recorded about the outputs in one folder, in the journals of both places.

    Args:
        root: the folder.
        place: where new entries go: ``output`` is beside the results, ``cache`` the cache folder.
    """

    def __init__(self, root: Path, place: JournalPlace) -> None:
        self.root, self.place, self._real_root = root, place, os.path.realpath(root)
        beside, cached = folder_beside(root), folder_in_cache(root)
        both = (beside, cached) if place == "output" else (cached, beside)
        self.folder, self.other_folder = both
        self.journal, self._other = (Journal(folder / JOURNAL) for folder in both)
        self._remembered: dict[str, JournalEntry] = {}
        self.journal.refresh()
        self._other.refresh()

    @property
    def names(self) -> set[str]:
        """Names of all recorded outputs."""
        return {name for one in self._both for name in one.names} | self._remembered.keys()

    def get(self, name: str) -> JournalEntry | None:
        """Return the newest entry of an output, from either journal; None if there is none."""
        return next(iter(self.all(name)), None)

    def all(self, name: str) -> list[JournalEntry]:
        """Return the entries of an output whose contents may be on disk, the newest first."""
        found = [entry for one in self._both for entry in one.all(name)]
        if name in self._remembered:
            found.append(self._remembered[name])
        return sorted(found, key=lambda entry: entry.output_mtime_ns, reverse=True)

    def made(self, path: Path) -> bool:
        """Return whether a file in the folder is recorded as an output."""
        if all(one.empty for one in self._both) and not self._remembered:
            return False
        real, root = os.path.realpath(path), self._real_root
        if not real.startswith(os.path.join(root, "")):  # noqa: PTH118 - strings of realpath
            return False
        return self.get(name_in(real, root)) is not None

    @property
    def _both(self) -> Sequence[Journal]:
        return self.journal, self._other

    def use_cache(self) -> None:
        """Keep new entries in the cache folder instead of beside the results."""
        self.place, self.folder = "cache", folder_in_cache(self.root)
        self.other_folder = folder_beside(self.root)
        self.journal, self._other = self._other, self.journal

    def remember(self, entry: JournalEntry) -> None:
        """Keep an entry in memory, since no journal can be written."""
        self._remembered[entry.target] = entry

    def source_of(self, source: Path) -> str:
        """Return an input as it is named in the journal."""
        path = os.path.realpath(source)
        with contextlib.suppress(ValueError):  # on another Windows drive
            path = os.path.relpath(path, self._real_root)
        return path.replace(os.sep, "/")

    def add(self, *entries: JournalEntry) -> None:
        """Append entries, with other processes excluded.

        Raises:
            OSError: the journal cannot be written.
        """
        with locked(self.folder / "locks" / f"{GATE}.lock", timeout=LOCK_TIMEOUT):
            for entry in entries:
                self.journal.append(entry)


def name_in(path: str | os.PathLike[str], root: str | os.PathLike[str]) -> str:
    """Return the name of an output in the journal: its path relative to ``root``, with slashes."""
    return Path(path).relative_to(root).as_posix()

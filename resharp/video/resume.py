"""The workspace of a run: a folder of finished segments, and a journal that lists them.

An interrupted run leaves it behind, and the next run resumes from it. It is next to the result and
is named ``<result>.resharp``.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from resharp import fsutil
from resharp.errors import OutputError
from resharp.fsutil import LockTimeoutError, locked, replacing, sha256_of
from resharp.video.clip import ResumePoint
from resharp.video.sequence import FrameFiles
from resharp.video.timeline import Position

logger = logging.getLogger(__name__)

SCHEMA = 1
JOURNAL = "journal.jsonl"
LOCK = ".lock"
_OWN = re.compile(
    rf"\d{{6,}}\.mp4(\.part)?|{re.escape(JOURNAL)}|\.{re.escape(JOURNAL)}\.[0-9a-f]+\.part|{LOCK}"
)
"""Names of the files of a workspace."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A finished part of the result."""

    index: int
    first: int
    """Number of the first frame."""
    times: tuple[int, ...]
    """Timestamps of the frames, in ticks of the result."""
    duration: int
    """Duration of the last frame, in ticks; 0 if unknown."""
    delay: int
    """Number of frames by which decoding order runs ahead of display order."""
    mark: ResumePoint
    """Input frame that the last frame shows."""
    restored: int
    """Number of frames that went through the model; the others repeat one."""
    file: str | None
    """File name in the workspace; None if frames are image files of the result."""
    sha256: str | None
    """SHA-256 of that file, or over the image files."""
    end: str | None
    """Option ``end`` of the run; a segment of full length fits any."""

    @property
    def place(self) -> Position:
        """Start of the next segment."""
        return Position(self.first + len(self.times), self.mark)


class Workspace:
    """A folder of finished segments, opened by :func:`workspace`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: FrameFiles | None = None
        """Image files of the result, to be checked before a run resumes; None for a video file."""
        self.header: dict[str, Any] | None = None
        self.segments: list[Segment] = []
        self.begun = False
        """Whether this run has begun to write."""
        self.created: list[Path] = []
        """Folders of this run, which are removed if they are empty at its end."""
        self._load()

    def _load(self) -> None:
        try:
            lines = (self.folder / JOURNAL).read_text(encoding="utf-8").splitlines()
            whole = takewhile(lambda line: line.endswith("}"), lines)  # stop at a truncated one
            header, *entries = [json.loads(line) for line in whole]
            if header.get("schema") == SCHEMA:
                self.header = header
                known = {segment.index: segment for segment in map(_segment, entries)}
                self.segments = [known[index] for index in sorted(known)]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError, IndexError):
            self.header, self.segments = {}, []  # unreadable: start over

    def begin(
        self,
        header: dict[str, Any],
        end: str | None,
        until: int | None = None,
        *,
        gaps: bool = False,
    ) -> str:
        """Keep the segments that an earlier run with this header has finished, or start over.

        Args:
            header: all that determines the frames, as JSON.
            end: option ``end`` of this run; a segment cut short by another is restored again.
            until: ``end`` in ticks of the input; a segment that reaches it is restored again.
            gaps: keep segments even if an earlier one is missing.

        Returns:
            A note for the user on what is kept; empty if there was nothing before.

        Raises:
            OutputError: the folder cannot be written.
        """
        header = {"schema": SCHEMA, **header}
        if self.header == header:
            length = int(header["options"]["segment"])
            sound = [one for one in self.segments if self._is_sound(one, end, until, length)]
            self.segments = sound if gaps else list(_in_order(sound))
            done = sum(len(one.times) for one in self.segments)
            note = f"resuming after {done} finished frames" if done else ""
        else:
            note = "" if self.header is None else f"starting over: {_changes(self.header, header)}"
            self.segments = []
        self.header, self.begun = header, True
        kept = {one.file for one in self.segments} | {JOURNAL, LOCK}
        for path in _own_files(self.folder):
            if path.name not in kept:
                path.unlink(missing_ok=True)
        self._rewrite()
        return note

    def _is_sound(self, segment: Segment, end: str | None, until: int | None, length: int) -> bool:
        """Return whether a segment is intact and is what this run would write."""
        if len(segment.times) < length and segment.end != end:
            return False
        if until is not None and segment.mark.pts >= until:
            return False
        if segment.file is not None:
            found = _hash(self.folder / segment.file)
        elif self.files is not None:
            found = self.files.digest(segment.first, len(segment.times))
        else:
            return True
        if found != segment.sha256:
            logger.warning("segment %d is damaged and will be restored again", segment.index)
            return False
        return True

    def _rewrite(self) -> None:
        lines = [json.dumps(self.header), *map(_line, self.segments)]
        try:
            with replacing(self.folder / JOURNAL) as part:
                part.write_text("\n".join(lines) + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write to {self.folder}: {error.strerror}") from error

    def add(self, segment: Segment) -> None:
        """Record a finished segment durably, so that a power cut does not lose it.

        Raises:
            OutputError: the journal cannot be written.
        """
        try:
            with (self.folder / JOURNAL).open("a", encoding="utf-8") as file:
                file.write(_line(segment) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"cannot write to {self.folder}: {error.strerror}. Free space there, then run it "
                "again to resume."
            ) from error
        self.segments = sorted([*self.segments, segment], key=lambda one: one.index)

    @property
    def is_vain(self) -> bool:
        """Whether this run has begun, but finished nothing that another run could use."""
        images = self.files is not None and self.files.existing()
        return self.begun and not self.segments and not images

    @property
    def place(self) -> Position:
        """Start of the first segment that is not finished."""
        done = list(_in_order(self.segments))
        return done[-1].place if done else Position()

    def remove(self) -> None:
        """Delete the folder, when the result is complete."""
        _remove(self.folder)


@contextmanager
def workspace(target: Path) -> Iterator[Workspace]:
    """Open the workspace of a result, for one process at a time.

    Raises:
        OutputError: the folder cannot be created, or another process is writing this result.
    """
    folder = folder_of(target)
    if os.path.isdir(folder) and not os.path.exists(folder / JOURNAL):
        foreign = set(folder.iterdir()) - set(_own_files(folder))
        if foreign:
            raise OutputError(
                f"{folder} is needed for unfinished work, but holds other files, e.g. "
                f"{min(foreign).name}: rename it, or choose another `dst`"
            )
    created = make_folder(folder)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / LOCK, timeout=0))
        except LockTimeoutError as error:
            raise OutputError(
                f"another process is writing {target}: wait for it, or choose another `dst`"
            ) from error
        except OSError as error:
            raise OutputError(f"cannot write to {folder}: {error.strerror}") from error
        work = Workspace(folder)
        work.created += created
        try:
            yield work
        finally:
            stack.close()
            # Nothing was begun, nothing was finished, or everything is done.
            if not (folder / JOURNAL).exists() or work.is_vain:
                _remove(folder)
            for path in reversed(work.created):
                with suppress(OSError):
                    path.rmdir()


def is_unfinished(target: Path, files: FrameFiles | None) -> bool:
    """Return whether an interrupted run has left a workspace, and writes the same files."""
    folder = folder_of(target)
    if not os.path.exists(folder / JOURNAL):
        return False
    return files is None or (Workspace(folder).header or {}).get("files") == identity_of(files)


def identity_of(files: FrameFiles | None) -> list[str] | None:
    """Return an image sequence as it stands in the header; None for a video file."""
    return None if files is None else [str(files.folder), files.pattern]


def _own_files(folder: Path) -> list[Path]:
    """Return the files in a workspace that a run has made."""
    return [path for path in folder.iterdir() if _OWN.fullmatch(path.name)]


def _remove(folder: Path) -> None:
    """Delete a workspace; files in it that no run has made are kept, and the folder with them."""
    with suppress(OSError):
        for path in _own_files(folder):
            path.unlink(missing_ok=True)
        folder.rmdir()


def make_folder(folder: Path) -> list[Path]:
    """Create a folder and its parents; return those that did not exist, the outermost first.

    Raises:
        OutputError: the folder cannot be created.
    """
    try:
        return fsutil.make_folder(folder)
    except OSError as error:
        raise OutputError(f"cannot create the folder {folder}: {error.strerror}") from error


def folder_of(target: Path) -> Path:
    """Return the workspace folder of a result."""
    return target.with_name(f"{target.name}.resharp")


def _hash(path: Path) -> str | None:
    try:
        return sha256_of(path)
    except OSError:
        return None


def _in_order(segments: list[Segment]) -> Iterator[Segment]:
    """Yield the segments from the first one up to the first gap."""
    place = 0
    for segment in segments:
        if segment.first != place:
            return
        yield segment
        place += len(segment.times)


def _line(segment: Segment) -> str:
    return json.dumps(asdict(segment) | {"mark": list(segment.mark)})


def _segment(entry: dict[str, Any]) -> Segment:
    return Segment(
        **(entry | {"times": tuple(entry["times"]), "mark": ResumePoint(*entry["mark"])})
    )


def _changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Describe the differences for the user: ``crf changed from 18 to 20``."""
    changes = [
        f"the {name} changed" for name in ("input", "model") if old.get(name) != new.get(name)
    ]
    for name in ("options", "encoder", "machine"):
        before, now = old.get(name) or {}, new.get(name) or {}
        differing = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
        if not changes or name == "options":  # the others follow from these
            changes += [
                f"{key} changed from {before.get(key)} to {now.get(key)}" for key in differing
            ]
    return ", ".join(changes) or "the earlier run used another version or wrote other files"

"""The folder in which a video is made: finished segments, and a journal that says which they are.

An interrupted run leaves it, and the next one goes on in it. It is beside the result and called
``<result>.resharp``.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from resharp.errors import OutputError
from resharp.fsutil import LockTimeoutError, locked, replacing, sha256_of
from resharp.video.clip import ResumePoint
from resharp.video.sequence import FrameFiles
from resharp.video.timeline import Position

logger = logging.getLogger(__name__)

SCHEMA = 1
JOURNAL = "journal.jsonl"


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A finished part of the result."""

    index: int
    first: int
    """Number of its first frame."""
    times: tuple[int, ...]
    """Timestamps of its frames, in ticks of the result."""
    duration: int
    """Of its last frame, in ticks; 0 where nothing tells."""
    delay: int
    """Frames by which the order of its packets runs ahead of that of showing."""
    mark: ResumePoint
    """The picture of the input that its last frame shows."""
    restored: int
    """Frames of it that went through the network; the others repeat one."""
    file: str | None
    """Its name in the workspace; None where frames are files of the result."""
    sha256: str | None
    """Of that file, or over the frames' files."""
    end: str | None
    """The ``end`` that cut it short; a segment of full length is good for any."""

    @property
    def place(self) -> Position:
        """Where the next one begins."""
        return Position(self.first + len(self.times), self.mark)


class Workspace:
    """A folder of finished segments. Made by :func:`workspace`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: FrameFiles | None = None
        """Where frames are files of the result, so that they can be looked after."""
        self.header: dict[str, Any] | None = None
        self.segments: list[Segment] = []
        self._load()

    def _load(self) -> None:
        try:
            lines = (self.folder / JOURNAL).read_text(encoding="utf-8").splitlines()
            whole = takewhile(lambda line: line.endswith("}"), lines)  # but one that was cut off
            header, *entries = [json.loads(line) for line in whole]
            if header.get("schema") == SCHEMA:
                self.header = header
                known = {segment.index: segment for segment in map(_segment, entries)}
                self.segments = [known[index] for index in sorted(known)]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError, IndexError):
            self.header, self.segments = {}, []  # there is one, and nobody can read it

    def begin(
        self,
        header: dict[str, Any],
        end: str | None,
        until: int | None = None,
        *,
        gaps: bool = False,
    ) -> str:
        """Keep what an earlier run with this header has finished, or start over.

        Args:
            header: what decides the frames, as JSON.
            end: where this run stops; a segment that another end cut short is made again.
            until: the same in ticks of the input: what shows a later picture is made again.
            gaps: keep segments also where one before them is missing.

        Returns:
            What happened, for people; empty where there was nothing before.

        Raises:
            OutputError: the folder cannot be written.
        """
        header = {"schema": SCHEMA, **header}
        if self.header == header:
            length = int(header["options"]["segment"])
            sound = [one for one in self.segments if self._is_sound(one, end, until, length)]
            self.segments = sound if gaps else list(_in_order(sound))
            done = sum(len(one.times) for one in self.segments)
            note = f"going on after {done} finished frames" if done else ""
        else:
            note = "" if self.header is None else f"starting over: {_changes(self.header, header)}"
            self.segments = []
        self.header = header
        kept = {one.file for one in self.segments} | {JOURNAL, ".lock"}
        for path in self.folder.iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)
        self._rewrite()
        return note

    def _is_sound(self, segment: Segment, end: str | None, until: int | None, length: int) -> bool:
        """Whether a segment is as it was written, and as this run would make it."""
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
            logger.warning("segment %d is damaged: it is made again", segment.index)
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
        """Note a finished segment, so that no power cut loses it.

        Raises:
            OutputError: it cannot be noted.
        """
        try:
            with (self.folder / JOURNAL).open("a", encoding="utf-8") as file:
                file.write(_line(segment) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"cannot write to {self.folder}: {error.strerror}. Free space there and run the "
                "same again: it goes on"
            ) from error
        self.segments = sorted([*self.segments, segment], key=lambda one: one.index)

    @property
    def place(self) -> Position:
        """Where the first segment begins that is not finished."""
        done = list(_in_order(self.segments))
        return done[-1].place if done else Position()

    def remove(self) -> None:
        """Leave nothing: the result is there."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def workspace(target: Path) -> Iterator[Workspace]:
    """The workspace of a result, for one process at a time.

    Raises:
        OutputError: the folder cannot be made, or another process is making this result.
    """
    folder = folder_of(target)
    make_folder(folder)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / ".lock", timeout=0))
        except LockTimeoutError as error:
            raise OutputError(
                f"another process is making {target}: wait for it, or choose another -o"
            ) from error
        except OSError as error:
            raise OutputError(f"cannot write to {folder}: {error.strerror}") from error
        try:
            yield Workspace(folder)
        finally:
            stack.close()
            if not (folder / JOURNAL).exists():  # nothing was begun, or all is done
                shutil.rmtree(folder, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """With those above it, if they are not there.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from error


def folder_of(target: Path) -> Path:
    """Where the workspace of a result is."""
    return target.with_name(f"{target.name}.resharp")


def _hash(path: Path) -> str | None:
    try:
        return sha256_of(path)
    except OSError:
        return None


def _in_order(segments: list[Segment]) -> Iterator[Segment]:
    """The segments from the first on, up to one that is missing."""
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
    """What differs, for people: ``crf 18 -> 20``."""
    changes = [
        f"the {name} changed" for name in ("input", "model") if old.get(name) != new.get(name)
    ]
    for name in ("options", "encoder", "machine"):
        before, now = old.get(name) or {}, new.get(name) or {}
        differing = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
        if not changes or name == "options":  # the others follow from these
            changes += [f"{key} {before.get(key)} -> {now.get(key)}" for key in differing]
    return ", ".join(changes) or "it was made by another version, or into other files"

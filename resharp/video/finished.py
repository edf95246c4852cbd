"""Whether a video is finished, and what may be replaced: the rules of :mod:`resharp.outputs`.

A video file and the file of timestamps of an image sequence are recorded before they take their
name, so that a run killed in between leaves an entry without a file. An image sequence is recorded
as a whole, by the name of its pattern, and the number and sizes of its images.
"""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from resharp.errors import OptionError, OutputError, VideoError
from resharp.fsutil import sha256_of
from resharp.outputs import (
    FileStat,
    InputFiles,
    JournalEntry,
    JournalPlace,
    OutputRecords,
    name_in,
    refusal,
)
from resharp.video.clip import Clip
from resharp.video.sequence import TIMECODES, FrameFiles

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VideoOutput:
    """What is known about the files that a run writes, and what they replace.

    Args:
        clip: the input.
        target: the video file, or the folder of an image sequence.
        files: the image sequence; None for a video file.
        typed: whether the user typed the name of the file or the pattern.
        overwrite: whether the user asked to replace existing results.
        key: hash of the model and the options.
        place: where the journal is kept.
    """

    clip: Clip
    target: Path
    files: FrameFiles | None
    typed: bool
    overwrite: bool
    key: str
    place: JournalPlace

    @property
    def _root(self) -> Path:
        return self.target if self.files is not None else self.target.parent

    @property
    def _name(self) -> str:
        return self.files.pattern if self.files is not None else name_in(self.target, self._root)

    def check_inputs(self) -> None:
        """Check that no input would be overwritten.

        Raises:
            OptionError: one would.
        """
        inputs = InputFiles(self.clip.files or [self.clip.path])
        for path in [self.target] if self.files is None else self.files.existing():
            if error := inputs.refusal(path):
                raise OptionError(error)
        if self.files is not None:
            for path in self.clip.files:  # also the names of frames that do not exist yet
                if self.files.has(path):
                    raise OptionError(f"a frame would overwrite {path}: choose another `dst`")

    def standing(self, *, resumes: bool) -> JournalEntry | None:
        """Return the entry of a finished result; None if there is none, or only a part of one.

        Args:
            resumes: whether an interrupted run has left a workspace.

        Raises:
            OutputError: what exists was not made by this program, and must not be replaced.
        """
        records = OutputRecords(self._root, self.place)
        entries = records.all(self._name)
        found = next((entry for entry in entries if self._wrote(entry)), None)
        paths, errors = [self.target], []
        if self.files is not None:
            times = self._root / TIMECODES
            known = records.all(TIMECODES)
            ours = any(one.wrote(times) for one in known)
            errors += [self._refusal(times, ours, typed=False, recorded=bool(known))]
            paths = [] if resumes else self.files.existing()[:1]
        errors += [
            self._refusal(path, found is not None, typed=self.typed, recorded=bool(entries))
            for path in paths
        ]
        for error in filter(None, errors):
            raise OutputError(error)
        return None if resumes and self.files is not None else found

    def _refusal(self, path: Path, ours: bool, *, typed: bool, recorded: bool) -> str:
        images = recorded and self.files is not None and self.files.has(path)
        if images and not ours and not self.overwrite:
            return (
                f"{self._root / self._name}: images are missing, or were changed since they were "
                "written: use `overwrite` to replace them all, or choose another `dst`"
            )
        return refusal(path, ours=ours, typed=typed, overwrite=self.overwrite, recorded=recorded)

    def _wrote(self, entry: JournalEntry) -> bool:
        """Return whether the result is what was written; of images, all are there in their size."""
        if self.files is None:
            return entry.wrote(self.target)
        return self.files.sizes(entry.output_size) == entry.output_sha256

    def earlier(self) -> FileStat:
        """Return the longest sequence that was written under the same names.

        Returns:
            The number of its images, and the time of the last change of any, in nanoseconds.
        """
        entries = OutputRecords(self._root, self.place).all(self._name)
        found = [FileStat(one.output_size, one.output_mtime_ns) for one in entries]
        return max(found, key=lambda one: one.size, default=FileStat(0, 0))

    def matches(self, entry: JournalEntry) -> bool:
        """Return whether a result has the options of this run, and its input as it is now.

        Raises:
            OutputError: it is the result of another input.
        """
        same = self._is_input(entry)
        source = OutputRecords(self._root, self.place).source_of(self.clip.path)
        if not same and source != entry.source:
            raise OutputError(
                f"{self._root / self._name} is already the result of {entry.source}: choose "
                "another `dst`, or use `overwrite`"
            )
        return same and entry.key == self.key

    def _is_input(self, entry: JournalEntry) -> bool:
        """Return whether a result was made from the input as it is now."""
        read = self._read()
        if read == FileStat(entry.input_size, entry.input_mtime_ns):
            return True
        return read.size == entry.input_size and hash_of(self.clip) == entry.input_sha256

    def _read(self) -> FileStat:
        """Return size and time of the input; of images, their number and the newest time."""
        files = self.clip.files
        if not files:
            return FileStat.of(self.clip.path)
        return FileStat(len(files), max(FileStat.of(path).mtime_ns for path in files))

    def record_file(self, part: Path, input_sha256: str) -> None:
        """Record the video file, which is complete under a temporary name.

        Raises:
            OutputError: a file of others has appeared under its name meanwhile.
        """
        self.standing(resumes=True)
        self._record(self._name, FileStat.of(part), sha256_of(part), input_sha256)

    def record_sequence(self, count: int, times: bytes, input_sha256: str) -> None:
        """Record an image sequence whose images are complete, and its timestamps."""
        assert self.files is not None
        written = FileStat(count, self.files.changed(count))
        self._record(self._name, written, self.files.sizes(count) or "", input_sha256)
        sha256 = sha256_of(times)
        self._record(TIMECODES, FileStat(len(times), 0), sha256, input_sha256)

    def _record(self, name: str, written: FileStat, sha256: str, input_sha256: str) -> None:
        read = FileStat(0, 0)
        with suppress(OSError):  # it was removed meanwhile
            read = self._read()
        records = OutputRecords(self._root, self.place)
        entry = JournalEntry(
            target=name,
            source=records.source_of(self.clip.path),
            key=self.key,
            input_sha256=input_sha256,
            input_size=read.size,
            input_mtime_ns=read.mtime_ns,
            output_sha256=sha256,
            output_size=written.size,
            output_mtime_ns=written.mtime_ns,
        )
        try:
            records.add(entry)
        except OSError as error:
            text = "cannot keep the journal in %s, so %s will not be recognized as finished: %s"
            logger.warning(text, records.folder, name, error)


def hash_of(clip: Clip) -> str:
    """Return the SHA-256 of the input.

    Raises:
        VideoError: the input cannot be read.
    """
    try:
        if not clip.files:
            return sha256_of(clip.path)
        return sha256_of(b"".join(bytes.fromhex(sha256_of(path)) for path in clip.files))
    except OSError as error:
        raise VideoError(f"{clip.path} cannot be read: {error.strerror}") from error


def key_of(config_key: str, options: dict[str, object]) -> str:
    """Hash a model and options, as JSON."""
    text = json.dumps({"config": config_key, "options": options}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

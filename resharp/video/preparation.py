"""A video and where it goes, found out before anything is restored."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from resharp.errors import OptionError
from resharp.video.clip import Clip
from resharp.video.color import Converter
from resharp.video.encoding import Encoding, choose_encoder
from resharp.video.muxing import CONTAINERS, MuxPlan, choose_delivery
from resharp.video.options import VideoOptions
from resharp.video.report import VideoReport
from resharp.video.sequence import FrameFiles, probe_any, sequence_target


class Notes:
    """What the user should know, said once each."""

    def __init__(self, say: Callable[[str], object] | None) -> None:
        self._say = say
        self.all: tuple[str, ...] = ()

    def add(self, *notes: str) -> None:
        """Say what has not been said."""
        for note in notes:
            if note and note not in self.all:
                self.all = (*self.all, note)
                if self._say is not None:
                    self._say(note)


@dataclass(frozen=True, kw_only=True)
class VideoTask:
    """A video and where it goes, before anything is restored."""

    clip: Clip
    options: VideoOptions
    target: Path
    """The file or folder of the result."""
    delivery: MuxPlan | None
    """None where frames are files."""
    files: FrameFiles | None
    notes: Notes

    @property
    def done(self) -> bool:
        """Whether a result is there."""
        if self.files is not None:
            return os.path.exists(self.files.path(0))
        return os.path.exists(self.target)

    def there(self) -> VideoReport:
        """Nothing was done, for the result is there."""
        self.notes.add(
            f"{self.target} is there already, made with these options or others: --overwrite "
            "makes it anew"
        )
        return VideoReport(
            target=self.target, frames=0, restored=0, repeated=0, resumed_at=0, width=0, height=0,
            seconds=0.0, skipped=True, notes=self.notes.all,
        )  # fmt: skip


def plan(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    options: VideoOptions,
    say: Callable[[str], object] | None = None,
) -> VideoTask:
    """Look at the input, and find out whether its result can be made.

    Raises:
        VideoError, OptionError, OutputError: it cannot.
    """
    clip = probe_any(source, options)
    if clip.files:  # the rate is that of the input
        options = replace(options, fps=None)
    notes, wanted = Notes(say), _named(target, clip)
    notes.add(*clip.notes)
    files = sequence_target(wanted)
    if files is not None:
        _spare(files, clip)
        return VideoTask(
            clip=clip, options=options, target=files.folder, delivery=None, files=files, notes=notes
        )
    delivery = _tried(wanted, clip, options)
    notes.add(*delivery.notes)
    return VideoTask(
        clip=clip, options=options, target=delivery.target, delivery=delivery, files=None,
        notes=notes,
    )  # fmt: skip


def _named(target: str | os.PathLike[str], clip: Clip) -> Path:
    """The file of the result: in a folder it is called as the input.

    Raises:
        OptionError: it is the input.
    """
    text = os.fspath(target)
    path = Path(text)
    if os.path.isdir(path) or text.endswith(("/", os.sep)) or not path.suffix:
        ending = clip.path.suffix.lower()
        path = path / f"{clip.path.stem}{ending if ending in CONTAINERS else '.mp4'}"
    if os.path.realpath(path) == os.path.realpath(clip.path):
        raise OptionError(f"the result would overwrite {clip.path}: choose another -o")
    return path


def _spare(files: FrameFiles, clip: Clip) -> None:
    """Refuse names that pictures of the input have.

    Raises:
        OptionError: a frame could overwrite one.
    """
    for path in clip.files:
        if files.has(path):
            raise OptionError(f"a frame would overwrite {path}: choose another folder with -o")


def _tried(target: Path, clip: Clip, options: VideoOptions) -> MuxPlan:
    """The container, found out with one gray frame: better now than after hours."""
    encoder = choose_encoder(clip, options, 256, 256, 1)
    with tempfile.TemporaryDirectory(prefix="resharp-") as folder:
        path = Path(folder, "trial.mp4")
        encoding = Encoding(path, encoder)
        try:
            gray = np.full((256, 256, 3), 128, np.uint8)
            encoding.add(Converter().to_frame(gray, encoder.form, encoder.color), 0)
            encoding.finish()
        finally:
            encoding.abandon()
        return choose_delivery(target, clip, path)

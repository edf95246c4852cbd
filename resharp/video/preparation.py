"""Preparation of a run: input, options and output are checked before anything is restored."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from resharp.errors import OptionError, VideoError
from resharp.fsutil import sha256_of
from resharp.pipeline.restorer import RestorerInfo
from resharp.types import Log
from resharp.video.clip import Clip
from resharp.video.color import Converter
from resharp.video.container_choice import CONTAINERS, MuxPlan, choose_container
from resharp.video.encoding import Encoding, VideoEncoder, choose_encoder
from resharp.video.options import VideoOptions
from resharp.video.pyav import pyav
from resharp.video.report import VideoReport
from resharp.video.sequence import FrameFiles, probe_any, sequence_target


class Notes:
    """Notes for the user, each of them logged once."""

    def __init__(self, log: Log | None) -> None:
        self._log = log
        self.all: tuple[str, ...] = ()

    def add(self, *notes: str) -> None:
        """Record and log the notes that are new."""
        for note in notes:
            if note and note not in self.all:
                self.all = (*self.all, note)
                if self._log is not None:
                    self._log(note)


@dataclass(frozen=True, kw_only=True)
class VideoTask:
    """A video to restore, with its options and its output."""

    clip: Clip
    options: VideoOptions
    target: Path
    """File or folder of the result."""
    mux_plan: MuxPlan | None
    """Path and container of the result; None if frames are written as image files."""
    files: FrameFiles | None
    notes: Notes

    def there(self) -> VideoReport:
        """Return the report of a result that already exists."""
        self.notes.add(
            f"{self.target} already exists, perhaps from other options: pass `overwrite` to redo it"
        )
        return VideoReport(
            target=self.target, frames=0, restored=0, repeated=0, resumed_at=0, width=0, height=0,
            seconds=0.0, skipped=True, notes=self.notes.all,
        )  # fmt: skip


def plan(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    options: VideoOptions,
    log: Log | None = None,
) -> VideoTask:
    """Inspect the input, and check that the result can be produced.

    Raises:
        VideoError, OptionError, OutputError: it cannot be produced.
    """
    clip = probe_any(source, options)
    if clip.files:  # it is the rate of the images
        options = replace(options, fps=None)
    notes, wanted, mux_plan = Notes(log), _result_path(target, clip), None
    notes.add(*clip.notes)
    files = sequence_target(wanted)
    if files is None:
        mux_plan = _try_containers(wanted, clip, options)
        notes.add(*mux_plan.notes)
        wanted = mux_plan.target
    else:
        for path in clip.files:
            if files.has(path):
                raise OptionError(f"a frame would overwrite {path}: choose another `dst`")
        wanted = files.folder
    return VideoTask(
        clip=clip, options=options, target=wanted, mux_plan=mux_plan, files=files, notes=notes
    )


def _result_path(target: str | os.PathLike[str], clip: Clip) -> Path:
    """Return the path of the result; in a folder, it is named after the input.

    Raises:
        OptionError: it is the input itself.
    """
    text = os.fspath(target)
    path = Path(text)
    if os.path.isdir(path) or text.endswith(("/", os.sep)) or not path.suffix:
        ending = clip.path.suffix.lower()
        path = path / f"{clip.path.stem}{ending if ending in CONTAINERS else '.mp4'}"
    if os.path.realpath(path) == os.path.realpath(clip.path):
        raise OptionError(f"the result would overwrite {clip.path}: choose another `dst`")
    return path


def _try_containers(target: Path, clip: Clip, options: VideoOptions) -> MuxPlan:
    """Choose the container by encoding a gray frame, to fail now instead of after hours."""
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
        return choose_container(target, clip, path)


def header(task: VideoTask, restorer: RestorerInfo, encoder: VideoEncoder | None) -> dict[str, Any]:
    """Return all that determines the frames, as JSON; a run with another header starts over."""
    return {
        "input": hash_of(task.clip),
        "model": restorer.key,
        "options": task.options.deciding(),
        "encoder": None
        if encoder is None
        else {
            "name": encoder.name,
            "options": dict(encoder.options),
            "size": f"{encoder.width}x{encoder.height}",
            "format": encoder.form.name,
            "rate": str(encoder.rate),
        },
        "files": None if task.files is None else [str(task.files.folder), task.files.pattern],
        "machine": {
            "backend": restorer.device_label,
            "tile": restorer.tile,
            "encoder_threads": None if encoder is None else encoder.threads,
            "libavcodec": ".".join(map(str, pyav().library_versions["libavcodec"])),
        },
    }


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

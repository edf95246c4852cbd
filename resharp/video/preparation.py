"""Preparation of a run: input, options and output are checked before anything is restored."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from resharp.errors import OptionError, OutputError, VideoError
from resharp.images import writable
from resharp.images.color_signal import describe
from resharp.images.transfer import cannot_hold
from resharp.outputs import OutputName, parse_output
from resharp.paths import expanded, path_text
from resharp.pipeline.restorer import RestorerInfo
from resharp.reading import kind_of
from resharp.types import Log
from resharp.video.animation_output import ANIMATED, animation_plan
from resharp.video.clip import Clip
from resharp.video.color import Converter
from resharp.video.container_choice import (
    ANIMATIONS,
    CONTAINERS,
    MuxPlan,
    choose_container,
    left_out_of_images,
)
from resharp.video.encoding import Encoding, VideoEncoder, choose_encoder, has_encoder
from resharp.video.finished import VideoOutput, hash_of, key_of
from resharp.video.options import VideoOptions
from resharp.video.pyav import pyav, reason
from resharp.video.report import VideoReport
from resharp.video.resume import identity_of
from resharp.video.sequence import FrameFiles, probe_any, sequence_target
from resharp.video.timeline import timing


class Notes:
    """Notes for the user, each of them logged once."""

    def __init__(self, log: Log | None) -> None:
        self._log, self._lock = log, Lock()
        self.all: tuple[str, ...] = ()

    def add(self, *notes: str) -> None:
        """Record and log the notes that are new."""
        for note in notes:
            with self._lock:
                new = bool(note) and note not in self.all
                self.all = (*self.all, note) if new else self.all
            if new and self._log is not None:
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
    outputs: VideoOutput
    notes: Notes

    def there(self, *, same: bool) -> VideoReport:
        """Return the report of a result that already exists.

        Args:
            same: whether it was made from the same input, model and options.
        """
        if not same:
            self.notes.add(
                f"{self.target} was made from a different input, model or options: pass "
                "`overwrite` to redo it"
            )
        return VideoReport(
            target=self.target, frames=0, restored=0, repeated=0, resumed_at=0, width=0, height=0,
            seconds=0.0, skipped=True, notes=self.notes.all,
        )  # fmt: skip


def plan(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    options: VideoOptions,
    config_key: str,
    *,
    overwrite: bool,
    log: Log | None = None,
) -> VideoTask:
    """Inspect the input, and check that the result can be produced without losing anything.

    Args:
        source: the input.
        target: the output that the user asked for.
        options: options of the video.
        config_key: hash of the model and how it is used.
        overwrite: whether to replace an existing result.
        log: called with each note.

    Raises:
        VideoError, OptionError, OutputError: it cannot be produced.
    """
    source = expanded(path_text(source, "the input"))
    target = path_text(target, "`dst`")
    if source == Path("-"):
        raise OptionError("a video cannot be read from standard input: name a file")
    if target == "-":
        raise OptionError("a video cannot be written to standard output: name a file as `dst`")
    _check_kind(source)
    clip = probe_any(source, options)
    if clip.files:
        if options.stream is not None:
            raise OptionError("images have no streams: leave out `stream`")
        # It is the rate of the images.
        options = replace(options, fps=None)
    notes, mux_plan, typed = Notes(log), None, True
    notes.add(*clip.notes)
    files = sequence_target(expanded(target))
    if files is not None:
        if clip.animation is not None:
            lost = clip.animation.lost_in("a sequence of images", frozenset({"icc"}))
            notes.add(*lost)
        if clip.matrix is not None:
            notes.add("images are written as the frames are stored: their rotation is not applied")
        notes.add(*left_out_of_images(clip, "images"))
        wanted = files.folder
    else:
        asked = _result_path(target, clip)
        mux_plan = animation_plan(asked.path, clip, options)
        if mux_plan is None:
            mux_plan, options = _try_containers(asked.path, clip, options)
        notes.add(*mux_plan.notes)
        if mux_plan.format not in ANIMATED:
            notes.add(*_lost_in_video(clip))
        wanted = mux_plan.target
        typed = asked.is_file and wanted == asked.path
    outputs = VideoOutput(
        clip=clip,
        target=wanted,
        files=files,
        typed=typed,
        overwrite=overwrite,
        key=key_of(config_key, options.deciding()),
        place="output" if options.journal == "output" else "cache",
    )
    outputs.check_inputs()
    return VideoTask(
        clip=clip,
        options=options,
        target=wanted,
        mux_plan=mux_plan,
        files=files,
        outputs=outputs,
        notes=notes,
    )


def _lost_in_video(clip: Clip) -> Iterator[str]:
    """Yield a note for each thing that images state and a video cannot hold."""
    if clip.animation is not None:
        yield from clip.animation.lost_in("a video")
    elif clip.icc is not None:
        yield cannot_hold("a video", "icc")
    if clip.signal is not None and not clip.colors_are_tags:
        yield cannot_hold("a video", f"the color space ({describe(clip.signal)})")


def _check_kind(source: Path) -> None:
    """Refuse a pipe or a device.

    Raises:
        VideoError: the input is a pipe or a device.
    """
    if os.path.exists(source) and not (os.path.isdir(source) or os.path.isfile(source)):
        what = kind_of(source.stat().st_mode)
        raise VideoError(
            f"{source} is {what}, but a video is read more than once: write it to a file first"
        )


def _result_path(target: str | os.PathLike[str], clip: Clip) -> OutputName:
    """Return the path of the result; in a folder, it is named after the input."""
    stem, suffix = os.path.splitext(os.fspath(target))  # noqa: PTH122
    hint = f"; for one image per frame, number them: {stem.rstrip('%')}%06d{suffix}"
    # A .png is an animation only if the input is one: otherwise it is likely a typing error.
    endings = {*CONTAINERS, *ANIMATIONS, *([".png"] if clip.animation is not None else [])}
    named = parse_output(target, endings, hint if suffix.lower() in writable() else "")
    if named.is_file:
        return named
    ending = clip.path.suffix.lower()
    name = f"{clip.path.stem}{ending if ending in CONTAINERS else '.mp4'}"
    return OutputName(named.path / name, is_file=False)


def _try_containers(
    target: Path, clip: Clip, options: VideoOptions
) -> tuple[MuxPlan, VideoOptions]:
    """Choose the container, and the codec too where that is open and WebM is asked for."""
    webm = CONTAINERS.get(target.suffix.lower()) == "webm"
    if not (webm and options.codec == "auto" and options.encoder is None and has_encoder("av1")):
        return _try_container(target, clip, options), options
    av1 = replace(options, codec="av1")
    found = _try_container(target, clip, av1)
    if found.format == "webm":
        return found, av1
    choose_encoder(clip, options, 256, 256, 1)  # checks its options
    return found, options  # containers that hold AV1 hold H.264 and HEVC too


def _try_container(target: Path, clip: Clip, options: VideoOptions) -> MuxPlan:
    """Choose the container by encoding a gray frame, to fail now instead of after hours."""
    encoder = choose_encoder(clip, options, 256, 256, 1)
    with tempfile.TemporaryDirectory(prefix="resharp-") as folder:
        path = Path(folder, "trial.mp4")
        encoding = Encoding(path, encoder)
        try:
            gray = np.full((256, 256, 3), 128, np.uint8)
            encoding.add(Converter().to_frame(gray, encoder.form, encoder.color), 0)
            encoding.finish()
        except OutputError as error:
            cause, av = error.__cause__, pyav()
            if isinstance(cause, av.error.ArgumentError | av.error.PatchWelcomeError):
                raise VideoError(_untimed(clip, options, cause)) from error
            raise  # e.g. the disk is full
        finally:
            encoding.abandon()
        return choose_container(target, clip, path)


def _untimed(clip: Clip, options: VideoOptions, error: BaseException) -> str:
    """Return the message for times that no encoder takes, the only cause of failed trials."""
    base, rate = timing(clip, options)
    return (
        f"{clip.path}: {float(rate):g} frames per second in ticks of {float(base):g} seconds "
        f"cannot be written ({reason(error)}): choose another `fps`, or copy or download the file "
        "again if it is damaged"
    )


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
        "files": identity_of(task.files),
        "machine": {
            "backend": restorer.device_label,
            "tile": restorer.tile,
            "encoder_threads": None if encoder is None else encoder.threads,
            "libavcodec": ".".join(map(str, pyav().library_versions["libavcodec"])),
        },
    }

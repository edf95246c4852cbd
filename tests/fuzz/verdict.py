"""What is promised of any input, and how a run is held against it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from tests.fuzz.child import Outcome
from tests.fuzz.trials import Trial

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]")
MESSAGE = re.compile(r"^(?:Error|failed|damaged|WARNING)(?=: )")
KNOWN = re.compile(r"^(?:Error|failed|damaged|note|WARNING|INFO|Usage): |^See https://|^  |^$")
"""How a line may begin after a message; indented ones list the backends that were tried."""
SUMMARY = re.compile(r"^\d+ (?:restored|skipped|failed|earlier result|images?\b|files?\b)")
LONGEST = 2000
"""Characters of a message; a longer one hides what it says."""
OURS = ".resharp"
"""End of the names of folders with journals, locks and finished segments of a video."""


def snapshot(folder: Path) -> dict[str, str]:
    """Return the hash of each file below a folder, and what else is there."""
    return {name: _state(folder / name) for name in _names(folder)}


def _names(folder: Path) -> Iterator[str]:
    for root, folders, files in os.walk(folder):
        for name in (*files, *(one for one in folders if Path(root, one).is_symlink())):
            yield str(Path(root, name).relative_to(folder))


def _state(path: Path) -> str:
    if path.is_symlink() or not path.is_file():
        return "link" if path.is_symlink() else "other"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def faults(trial: Trial, outcome: Outcome, before: dict[str, str], folder: Path) -> list[str]:
    """Return what a run did that no input may cause; the results are judged apart.

    Args:
        trial: what was run.
        outcome: how it ended.
        before: :func:`snapshot` of the folder before the run.
        folder: the folder after it; what it prints lies elsewhere.
    """
    found = [outcome.ended] if outcome.ended else []
    if outcome.code < 0 and not outcome.ended:
        found.append(f"ended by signal {-outcome.code}")
    elif outcome.code not in trial.codes and not outcome.ended:
        found.append(f"exit code {outcome.code}")
    if "Traceback (most recent call last)" in outcome.stderr:
        found.append(f"a trace: {outcome.stderr.strip().splitlines()[-1][:200]}")
    elif outcome.code == 1:
        found += _message_faults(trial, outcome.stderr)
    if CONTROL.search(outcome.stdout + outcome.stderr):
        found.append("control characters in what it prints")
    return found + _file_faults(trial, outcome, before, folder)


def _message_faults(trial: Trial, text: str) -> list[str]:
    lines = text.splitlines()
    messages = [n for n, line in enumerate(lines) if MESSAGE.match(line)]
    if not messages:
        return ["exit code 1 without a message"]
    found = []
    if trial.named not in text:
        found.append(f"no message names {trial.named}: {lines[messages[0]][:200]}")
    if max(map(len, lines)) > LONGEST:
        found.append(f"a message of {max(map(len, lines))} characters")
    after = (lines[n + 1] for n in messages if n + 1 < len(lines))
    if trial.lines and (more := [x for x in after if not KNOWN.match(x) and not SUMMARY.match(x)]):
        found.append(f"a message goes on in another line: {more[0][:200]}")
    return found


def _file_faults(trial: Trial, outcome: Outcome, before: dict[str, str], folder: Path) -> list[str]:
    after = snapshot(folder)
    found = [
        f"{name} was {'changed' if name in after else 'removed'}"
        for name, state in before.items()
        if after.get(name) != state and name not in trial.may_change
    ]
    killed = bool(outcome.ended) or outcome.code < 0
    for name in sorted(set(after) - set(before)):
        if name.endswith(".lock"):
            continue
        if name.endswith(".part") or ".draft-" in name or ".incoming" in name:
            if not killed:
                found.append(f"{name} was left")
        elif not allowed(trial, Path(name)):
            found.append(f"{name} appeared")
    if outcome.code == 1 and trial.made and not trial.may_change:
        found += [f"{name} exists though exit code is 1" for name in results(trial, folder)]
        ours = [Path(name) for name in after if _ours(Path(name)) and name not in before]
        if ours and all(name.suffix in (".jsonl", ".lock") for name in ours):
            found.append(f"a run that made nothing left {ours[0].parent}")
    return found


def allowed(trial: Trial, path: Path) -> bool:
    """Return whether a run may create a file of this path."""
    inside = bool(trial.output) and Path(trial.output) in (path, *path.parents)
    return trial.anywhere or inside


def results(trial: Trial, folder: Path) -> list[str]:
    """Return the finished results in the place of the output."""
    place = Path(trial.output)
    names = [Path(name) for name in _names(folder)]
    inside = [name for name in names if place in (name, *name.parents)]
    return sorted(str(name) for name in inside if not _ours(name) and name.suffix != ".part")


def _ours(name: Path) -> bool:
    return any(part.endswith(OURS) for part in name.parts)


def judge(trial: Trial, folder: Path) -> list[str]:
    """Return what is wrong with the results; runs in a child, since it decodes what may be bad."""
    found = results(trial, folder)
    if not found:
        return ["exit code 0 without a result"]
    check = _image_fault if trial.made == "image" else _video_fault
    source = folder / trial.source if trial.source else None
    faults = [(name, check(folder / name, source, trial.scale)) for name in found]
    return [f"{name}: {text}" for name, text in faults if text]


def _image_fault(result: Path, source: Path | None, scale: int) -> str:
    from resharp.errors import ImageError
    from resharp.images import read

    data = np.frombuffer(result.read_bytes(), np.uint8)  # OpenCV opens no name that is not text
    if not data.size or cv2.imdecode(data, cv2.IMREAD_UNCHANGED) is None:
        return "OpenCV cannot read the result"
    try:
        made = read(result).pixels.shape[:2]
        given = read(source).pixels.shape[:2] if source else None
    except ImageError as error:
        return f"it cannot be read again: {error}"
    if given and made != (given[0] * scale, given[1] * scale):
        return f"the result has {made[1]}x{made[0]} pixels, the input {given[1]}x{given[0]}"
    return ""


def _video_fault(result: Path, source: Path | None, scale: int) -> str:
    import av

    frames = _animation_sizes if result.suffix == ".webp" else _clip_sizes
    try:
        sizes = frames(result)
    except (av.FFmpegError, IndexError, OSError, SyntaxError) as error:
        return f"it cannot be decoded: {error}"
    if not sizes:
        return "it has no frame"
    return f"its frames have sizes {sizes}" if len(sizes) > 1 else ""


def _clip_sizes(path: Path) -> set[tuple[int, int]]:
    import av

    with av.open(str(path)) as made:
        count = len(made.streams.video)
    for index in range(count):  # streams that were copied may be empty
        with av.open(str(path)) as made:
            if sizes := {(frame.width, frame.height) for frame in made.decode(video=index)}:
                return sizes
    return set()


def _animation_sizes(path: Path) -> set[tuple[int, int]]:
    """By Pillow: FFmpeg reads no animated WebP."""
    from PIL import Image, ImageSequence

    with Image.open(path) as made:
        return {frame.convert("RGBA").size for frame in ImageSequence.Iterator(made)}

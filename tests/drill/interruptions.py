"""Runs that are stopped at a random time and started again have undisturbed results."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.drill.kit import BACKEND, Drill, differing, draw_images, files, leftovers, tiny_clip
from tests.fuzz.child import Child, Outcome

IMAGES = 12
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
CODES = {signal.SIGINT: {130}, signal.SIGTERM: {-15, 143}, signal.SIGKILL: {-9}}


def folders(drill: Drill) -> str:
    """Interrupt a run over a folder of images, and resume it."""
    draw_images(drill.folder / "given", IMAGES)
    return _interrupted(drill, ("upscale", "given", "-o", "out/", *BACKEND))


def clips(drill: Drill) -> str:
    """Interrupt the restoration of a clip, and resume it."""
    tiny_clip(drill.folder / "clip.mkv")
    segments = ("--codec", "ffv1", "--segment", "2")
    return _interrupted(drill, ("video", "clip.mkv", "-o", "out/clip.mkv", *BACKEND, *segments))


def _interrupted(drill: Drill, command: Sequence[str]) -> str:
    out = drill.folder / "out"
    whole = drill.start(*command).wait()
    assert whole.code == 0, whole.stderr
    wanted = files(out)
    times, ends = [], Counter[str]()
    for number in range(drill.count):
        shutil.rmtree(out)
        shutil.rmtree(drill.folder / "home", ignore_errors=True)
        kind = SIGNALS[number % len(SIGNALS)]
        delay = drill.random.uniform(0, whole.seconds * 1.1)
        times.append(delay)
        outcome = _stopped(drill.start(*command), kind, delay)
        what = f"{kind.name} after {delay:.3f} s"
        early = outcome.code in CODES[kind]
        assert early or outcome.code == 0, f"{what}: exit code {outcome.code}\n{outcome.stderr}"
        assert "Traceback" not in outcome.stderr, f"{what}: {outcome.stderr}"
        if kind == signal.SIGINT:
            assert not leftovers(out), f"{what} left {leftovers(out)}"
        ends[f"{kind.name} {'stopped' if early else 'came late'}"] += 1
        _resumed(drill, command, out, wanted, what)
    counted = ", ".join(f"{name} {count}" for name, count in sorted(ends.items()))
    return f"{drill.count} interruptions ({counted}): all results equal after a resume"


def _stopped(child: Child, kind: signal.Signals, delay: float) -> Outcome:
    time.sleep(delay)
    os.kill(child.pid, kind)  # it is not yet waited for, so the number is its own
    return child.wait()


def _resumed(
    drill: Drill, command: Sequence[str], out: Path, wanted: dict[str, bytes], what: str
) -> None:
    again = drill.start(*command).wait()
    assert again.code == 0, f"resumed after {what}: exit code {again.code}\n{again.stderr}"
    assert not differing(files(out), wanted), f"{what}: {differing(files(out), wanted)} differ"
    assert not leftovers(out), f"resumed after {what}: {leftovers(out)} were left"

"""What the drills share: a place, children with the command line, and the results they left."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np

from tests.fuzz.campaign import command_line
from tests.fuzz.child import Child

BACKEND = ("--backend", "onnx")


@dataclass
class Drill:
    """The place and size of one drill."""

    folder: Path
    """An empty folder."""
    random: Random
    count: int
    """How often the drill tries what it tries."""
    children: int = field(default=0, repr=False)

    def start(self, *arguments: str) -> Child:
        """Start ``resharp`` in a forked child."""
        self.children += 1
        logs = self.folder / f"logs-{self.children}"
        logs.mkdir()
        home = {"RESHARP_HOME": str(self.folder / "home")}
        return Child(functools.partial(command_line, arguments), self.folder, logs, home)


def draw_images(folder: Path, count: int) -> None:
    """Write small images, each another."""
    folder.mkdir()
    random = np.random.default_rng(3)
    for number in range(count):
        image = cv2.resize(random.integers(0, 256, (4, 5, 3), np.uint8), (28 + number, 22))
        assert cv2.imwrite(str(folder / f"{number:02}.png"), image)


def files(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder but those of the journal."""
    found: dict[str, Path] = {}
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != ".resharp"]
        found |= {str(Path(root, name).relative_to(folder)): Path(root, name) for name in names}
    return {name: path.read_bytes() for name, path in sorted(found.items())}


def leftovers(folder: Path) -> list[str]:
    """Return temporary files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.part*"))


def differing(found: dict[str, bytes], wanted: dict[str, bytes]) -> Sequence[str]:
    """Return the names of files that differ, are missing, or should not be there."""
    return sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))


def tiny_clip(path: Path, frames: int = 16) -> None:
    """Write a clip of 32x24 pixels."""
    import av

    rows, columns = np.mgrid[:24, :32]
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = 32, 24, "bgr0", 1
        for number in range(frames):
            shade = ((rows * 5 + columns * 3 + 16 * number) % 256).astype(np.uint8)
            image = np.stack([shade, shade[::-1], 255 - shade], axis=2)
            frame = av.VideoFrame.from_ndarray(image, "bgr24").reformat(format="bgr0")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())

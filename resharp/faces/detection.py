"""Face detection: YuNet on an image pyramid in four rotations, then on each face's upright crop.

YuNet (Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", 2023) runs in OpenCV. It finds
faces of about 15 to 500 pixels that are upright within 45 degrees, and if a face is tilted, its
landmarks are off by up to half the distance between the eyes. So the image is searched at full
size, half of it, a quarter and so on, each in four rotations. Each hit is then cut out upright, at
the size that suits YuNet best, and detected again to correct its landmarks and reject false hits.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from resharp.errors import CheckpointError, ChecksumError
from resharp.faces.alignment import (
    TEMPLATE,
    Matrix,
    Points,
    apply,
    chain,
    cut,
    inverse,
    scaling,
    similarity,
    to_bytes,
)
from resharp.opencv import cv2
from resharp.paths import weights_folder
from resharp.reading import read_bounded
from resharp.types import Image
from resharp.weights import find, inspect

DETECTOR = "yunet"
"""Name of the detector in the catalogue."""

LARGEST_SIDE = 2048
"""Side in pixels to which larger images are shrunk; faces of 15 pixels are still found there."""
_SMALLEST_SIDE = 256  # side of the smallest pyramid level, in pixels
_FOUND = 0.6  # lowest YuNet score of a hit that is detected again
_LOOK = 320  # side of the crop for the second detection, in pixels
_LOOK_EYES = 70  # distance between the eyes in that crop
_LOOKS = 3  # repetitions; each halves the landmark error of a tilted face
_LARGEST_FILE = 64 << 20
_SMALLEST_EYES = 5.0  # pixels between the eyes; smaller faces hold nothing to restore from
_SURE = 0.91  # faces detected upside down scored at most 0.88
_UPRIGHT: Points = (TEMPLATE - TEMPLATE.mean(axis=0)) * (
    _LOOK_EYES / float(np.linalg.norm(TEMPLATE[0] - TEMPLATE[1]))
) + _LOOK / 2  # landmarks in that crop: the template, centered
_APART = 1.5  # hits closer than this many times their size are one face


@dataclass(frozen=True, kw_only=True, eq=False)
class Face:
    """A face in an image."""

    landmarks: Points
    """``[5, 2]``, (x, y) in pixels of the image: the eyes, the nose, the corners of the mouth. Of
    each pair, the one on the left when the face is upright comes first."""
    score: float
    """Confidence of the detector, 0..1."""

    @property
    def middle(self) -> Points:
        """Center of the landmarks, (x, y)."""
        middle: Points = self.landmarks.mean(axis=0)
        return middle

    @property
    def size(self) -> float:
        """Root mean square distance of the landmarks from their center, in pixels."""
        return float(np.sqrt(((self.landmarks - self.middle) ** 2).sum(axis=1).mean()))

    @property
    def eyes(self) -> float:
        """Distance between the eyes, in pixels."""
        return float(np.linalg.norm(self.landmarks[0] - self.landmarks[1]))


class Detector(Protocol):
    """Interface of a face detector."""

    def __call__(self, image: Image) -> tuple[Face, ...]:
        """Return the faces in a gray or BGR image of uint8, uint16 or float32, surest first."""


class YuNet:
    """YuNet through ``cv2.FaceDetectorYN``. Safe to call from several threads, which take turns.

    Args:
        weights_dir: folder of checkpoints; None is the default.
        score: lowest score of a face. On photos, faces of people scored 0.89 or more, faces of dogs
            0.81 or less.

    Raises:
        CheckpointError: the detector's file is missing, or OpenCV cannot read it.
        ChecksumError: the file is damaged.
    """

    def __init__(
        self, weights_dir: str | os.PathLike[str] | None = None, *, score: float = 0.85
    ) -> None:
        self._score = score
        self._lock = threading.Lock()
        self._detector = _open(detector_file(weights_dir))

    def __call__(self, image: Image) -> tuple[Face, ...]:
        """Return the faces in an image, surest first; see :class:`Detector`."""
        with self._lock:
            levels = list(_pyramid(image))
            # Duplicates are dropped per rotation: YuNet scores some faces higher upside down than
            # upright, and only the second detection can tell which is right.
            found = [
                face
                for quarters in range(4)
                for face in _distinct(
                    face for level in levels for face in self._turned(*level, quarters)
                )
            ]
            return _distinct(self._looked(image, sorted(found, key=lambda one: -one.score)))

    def _looked(self, image: Image, found: Iterable[Face]) -> Iterator[Face]:
        """Yield faces that a second detection confirms; skip other rotations of sure ones."""
        sure: list[Face] = []
        for face in found:
            if not all(_apart(face, other) for other in sure):
                continue
            seen = self._look(image, face)
            if seen is not None:
                yield seen
                if seen.score >= _SURE:
                    sure.append(seen)

    def _turned(self, image: Image, back: Matrix, quarters: int) -> Iterator[Face]:
        """Yield the faces of one level in one rotation; ``back`` maps to the image."""
        turned = np.ascontiguousarray(np.rot90(image, quarters))
        unturned = chain(_unturn(quarters, *turned.shape[:2]), back)
        for face in self._faces(turned):
            yield Face(landmarks=apply(unturned, face.landmarks), score=face.score)

    def _look(self, image: Image, face: Face) -> Face | None:
        """Detect a face again in an upright crop; None if it is not confirmed."""
        for _ in range(_LOOKS):
            if face.eyes < _SMALLEST_EYES:
                return None
            there = similarity(face.landmarks, _UPRIGHT)
            seen = self._faces(cut(image, there, _LOOK))
            if not seen:
                return None
            nearest = min(seen, key=lambda one: float(np.linalg.norm(one.middle - _LOOK / 2)))
            if np.linalg.norm(nearest.middle - _LOOK / 2) > _LOOK_EYES:
                return None
            face = Face(landmarks=apply(inverse(there), nearest.landmarks), score=nearest.score)
        return face if face.score >= self._score and face.eyes >= _SMALLEST_EYES else None

    def _faces(self, image: Image) -> list[Face]:
        """Run YuNet once on a uint8 BGR image."""
        self._detector.setInputSize((image.shape[1], image.shape[0]))
        rows = self._detector.detect(image)[1]
        return [
            Face(landmarks=np.asarray(row[4:14], np.float64).reshape(5, 2), score=float(row[14]))
            for row in (() if rows is None else rows)
        ]


def detector_file(folder: str | os.PathLike[str] | None = None) -> Path:
    """Return the path of the detector's file after checking its hash.

    Raises:
        CheckpointError: the file is missing; the message says how to get it.
        ChecksumError: the file is damaged.
    """
    entry, place = find(DETECTOR), weights_folder(folder)
    report = inspect(entry, place)
    chosen = f" with `weights_dir`={place}" if folder else ""
    cure = f"run 'resharp models fetch {entry.name}'{chosen}"
    if report.state == "missing":
        raise CheckpointError(
            f"the face detector's file {report.path} ({(entry.bytes or 0) / 1024:.0f} KiB) is "
            f"missing: {cure}"
        )
    if report.state != "ok":
        raise ChecksumError(f"{report.path} is {report.state} ({report.detail}): {cure}")
    return report.path


def central(faces: Iterable[Face], height: int, width: int) -> Face:
    """Return the face that is nearest to the center of an image."""
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    return min(faces, key=lambda face: float(np.linalg.norm(face.middle - middle)))


def _open(path: Path) -> Any:
    """Open the detector from memory: OpenCV cannot open paths outside the system's code page."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # 5.0 warns about a default
    nothing = np.empty(0, np.uint8)
    try:
        data = np.frombuffer(read_bounded(path, _LARGEST_FILE), np.uint8).copy()
        return cv2.FaceDetectorYN.create("onnx", data, nothing, (_LOOK, _LOOK), _FOUND)
    except (cv2.error, OSError) as error:
        raise CheckpointError(f"OpenCV {cv2.__version__} cannot read {path}: {error}") from error
    finally:
        cv2.utils.logging.setLogLevel(level)


def _pyramid(image: Image) -> Iterator[tuple[Image, Matrix]]:
    """Yield uint8 BGR images, each half as large as the last, and their maps to the original."""
    height, width = image.shape[:2]
    shrink = min(LARGEST_SIDE / max(height, width), 1.0)
    level = image
    while True:
        size = (max(round(width * shrink), 1), max(round(height * shrink), 1))
        if size != (width, height):
            level = cv2.resize(level, size, interpolation=cv2.INTER_AREA)
        if level.dtype != np.uint8 or level.ndim == 2 or level.shape[2] == 1:
            level = to_bytes(level)
        yield level, scaling(width / size[0], height / size[1])
        shrink /= 2
        if max(size) < 2 * _SMALLEST_SIDE:
            return


def _unturn(quarters: int, height: int, width: int) -> Matrix:
    """Return the map from an image of that size, rotated by ``np.rot90``, to the original."""
    right, bottom = float(width - 1), float(height - 1)
    turns = (
        [[1, 0, 0], [0, 1, 0]],
        [[0, -1, bottom], [1, 0, 0]],
        [[-1, 0, right], [0, -1, bottom]],
        [[0, 1, 0], [-1, 0, right]],
    )
    return np.array(turns[quarters], np.float64)


def _distinct(faces: Iterable[Face]) -> tuple[Face, ...]:
    """Return each face once, surest first."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda one: -one.score):
        if all(_apart(face, other) for other in kept):
            kept.append(face)
    return tuple(kept)


def _apart(one: Face, two: Face) -> bool:
    return float(np.linalg.norm(one.middle - two.middle)) > _APART * max(one.size, two.size)

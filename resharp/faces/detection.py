"""Where the faces of a picture are: YuNet on a pyramid, in four turns, each find looked at again.

YuNet (Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", 2023) runs in OpenCV. It finds
faces of about 15 to 500 pixels that stand upright within 45 degrees, and its landmarks are off by
up to half the distance of the eyes where a face leans. So: the picture is tried at half, a quarter
... of its size, each in four quarter turns, and each find is cut out upright, at the size that
YuNet likes best, and detected again, which places its landmarks and rejects what is no face.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
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
from resharp.paths import weights_folder
from resharp.types import Image
from resharp.weights import find, inspect

DETECTOR = "yunet"
"""Name of the detector in the catalogue."""

LARGEST_SIDE = 2048
"""Pictures are shrunk to this for detection; a face of 15 pixels is still found there."""
_SMALLEST_SIDE = 256  # of a level of the pyramid
_FOUND = 0.6  # YuNet's score for a find that is worth a second look
_LOOK = 320  # side of the picture of the second look
_LOOK_EYES = 70  # distance of the eyes there
_LOOKS = 3  # each halves the error of the landmarks of a leaning face
_SMALLEST_EYES = 5.0  # pixels between the eyes: with less there is nothing to restore from
_SURE = 0.91  # faces that were taken upside down had 0.88 at most
_UPRIGHT: Points = (TEMPLATE - TEMPLATE.mean(axis=0)) * (
    _LOOK_EYES / float(np.linalg.norm(TEMPLATE[0] - TEMPLATE[1]))
) + _LOOK / 2  # landmarks in the second look: the template, in its middle
_APART = 1.5  # two faces are apart by this many times their size, or else one face


@dataclass(frozen=True, kw_only=True, eq=False)
class Face:
    """One face in a picture."""

    landmarks: Points
    """``[5, 2]``, (x, y) in pixels of the picture: the eyes, the nose, the corners of the mouth; of
    a pair first the one that is on the left where the face stands upright."""
    score: float
    """How sure the detector is, 0..1."""

    @property
    def middle(self) -> Points:
        """(x, y) of the middle of the landmarks."""
        middle: Points = self.landmarks.mean(axis=0)
        return middle

    @property
    def size(self) -> float:
        """Mean distance of the landmarks from their middle, in pixels (root of the square's)."""
        return float(np.sqrt(((self.landmarks - self.middle) ** 2).sum(axis=1).mean()))

    @property
    def eyes(self) -> float:
        """Distance of the eyes, in pixels."""
        return float(np.linalg.norm(self.landmarks[0] - self.landmarks[1]))


class Detector(Protocol):
    """Finds faces."""

    def __call__(self, image: Image) -> tuple[Face, ...]:
        """The faces in a gray or BGR picture of uint8, uint16 or float32, the surest first."""


class YuNet:
    """YuNet through ``cv2.FaceDetectorYN``. Safe to call from several threads, one at a time.

    Args:
        weights_dir: folder of weights; None takes the default.
        score: faces of a lower score are left out. On photographs faces of people had 0.89 and
            more, faces of dogs 0.81 and less.

    Raises:
        CheckpointError: the detector's file is not in the folder, or OpenCV cannot read it.
        ChecksumError: the file is damaged.
    """

    def __init__(
        self, weights_dir: str | os.PathLike[str] | None = None, *, score: float = 0.85
    ) -> None:
        self._score = score
        self._lock = threading.Lock()
        self._detector = _open(detector_file(weights_dir))

    def __call__(self, image: Image) -> tuple[Face, ...]:
        """See :meth:`Detector.__call__`."""
        with self._lock:
            levels = list(_pyramid(image))
            # Each turn for itself: YuNet takes some faces upside down for surer than upright ones,
            # and only the second look can tell.
            found = [
                face
                for quarters in range(4)
                for face in _distinct(
                    face for level in levels for face in self._turned(*level, quarters)
                )
            ]
            return _distinct(self._looked(image, sorted(found, key=lambda one: -one.score)))

    def _looked(self, image: Image, found: Iterable[Face]) -> Iterator[Face]:
        """Those that a second look confirms; a sure one is not looked at in other turns."""
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
        """Faces of one level in one quarter turn; ``back`` leads to the picture."""
        turned = np.ascontiguousarray(np.rot90(image, quarters))
        unturned = chain(_unturn(quarters, *turned.shape[:2]), back)
        for face in self._faces(turned):
            yield Face(landmarks=apply(unturned, face.landmarks), score=face.score)

    def _look(self, image: Image, face: Face) -> Face | None:
        """The same face, seen upright; None where that shows none."""
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
        """What YuNet finds in a uint8 BGR picture as it is."""
        self._detector.setInputSize((image.shape[1], image.shape[0]))
        rows = self._detector.detect(image)[1]
        return [
            Face(landmarks=np.asarray(row[4:14], np.float64).reshape(5, 2), score=float(row[14]))
            for row in (() if rows is None else rows)
        ]


def detector_file(folder: str | os.PathLike[str] | None = None) -> Path:
    """Where the detector's file is, seen to be whole.

    Raises:
        CheckpointError: it is not there; the message says how to get it.
        ChecksumError: its bytes are not those of the catalogue.
    """
    entry, place = find(DETECTOR), weights_folder(folder)
    report = inspect(entry, place)
    chosen = f" --weights {place}" if folder else ""
    cure = f"resharp weights fetch {entry.name}{chosen}"
    if report.state == "missing":
        raise CheckpointError(
            f"faces are found with {entry.name}, whose file {report.path} is not there "
            f"({(entry.bytes or 0) / 1024:.0f} KiB): {cure}"
        )
    if report.state != "ok":
        raise ChecksumError(f"{report.path} is {report.state} ({report.detail}): {cure}")
    return report.path


def central(faces: Iterable[Face], height: int, width: int) -> Face:
    """The face that is nearest to the middle of a picture."""
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    return min(faces, key=lambda face: float(np.linalg.norm(face.middle - middle)))


def _open(path: Path) -> Any:
    """The detector, from memory: OpenCV opens no path with letters of another code page."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # 5.0 warns of a default
    nothing = np.empty(0, np.uint8)
    try:
        return cv2.FaceDetectorYN.create(
            "onnx", np.fromfile(path, np.uint8), nothing, (_LOOK, _LOOK), _FOUND
        )
    except (cv2.error, OSError) as error:
        raise CheckpointError(f"OpenCV {cv2.__version__} cannot read {path}: {error}") from error
    finally:
        cv2.utils.logging.setLogLevel(level)


def _pyramid(image: Image) -> Iterator[tuple[Image, Matrix]]:
    """uint8 BGR pictures, each half of the one before, and the map from each to the picture."""
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
    """From a picture that ``np.rot90`` turned, of that size, to how it was."""
    right, bottom = float(width - 1), float(height - 1)
    turns = (
        [[1, 0, 0], [0, 1, 0]],
        [[0, -1, bottom], [1, 0, 0]],
        [[-1, 0, right], [0, -1, bottom]],
        [[0, 1, 0], [-1, 0, right]],
    )
    return np.array(turns[quarters], np.float64)


def _distinct(faces: Iterable[Face]) -> tuple[Face, ...]:
    """The surest first, each face once."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda one: -one.score):
        if all(_apart(face, other) for other in kept):
            kept.append(face)
    return tuple(kept)


def _apart(one: Face, two: Face) -> bool:
    return float(np.linalg.norm(one.middle - two.middle)) > _APART * max(one.size, two.size)

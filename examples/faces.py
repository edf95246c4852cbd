"""``python examples/faces.py OUT.png [PHOTO]``: how restored faces are pasted into an image.

The face network is replaced by a stand-in that brightens each crop by 40 levels, far more than a
real one would, so that edges become visible. Left: crops pasted as squares; right: with resharp's
mask. Without a photo, a face is drawn; in a photo, faces are detected with YuNet
('resharp models fetch yunet').
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from resharp.faces import Face, FaceRestorer
from resharp.images import read

Image = NDArray[Any]


def brighter(faces: Image, fidelity: float) -> Image:
    """Brighten uint8 ``[n, 512, 512, 3]`` by 40 levels, in place of a face network."""
    return np.clip(faces.astype(np.int16) + 40, 0, 255).astype(np.uint8)


def drawn(side: int = 360) -> tuple[Image, Face]:
    """Draw a face of ellipses, tilted by 15 degrees; return the image and the landmarks."""
    big = side * 2
    y, x = np.mgrid[:big, :big] / big
    picture = np.stack([110 + 40 * y, 120 + 30 * x, 105 + 30 * x * y], 2).astype(np.uint8)
    middle, lean = np.array([big * 0.5, big * 0.52]), -15.0
    turn = cv2.getRotationMatrix2D((0, 0), -lean, 1)[:, :2]

    def at(right: float, down: float) -> Any:
        return middle + np.array([right, down]) * big @ turn.T

    def ellipse(place: Any, width: float, height: float, color: tuple[int, int, int]) -> None:
        axes = (int(width * big), int(height * big))
        cv2.ellipse(picture, np.rint(place).astype(int).tolist(), axes, lean, 0, 360, color, -1)

    ellipse(at(0, -0.05), 0.23, 0.28, (40, 60, 90))
    ellipse(at(0, 0.03), 0.18, 0.24, (150, 180, 220))
    points = np.array(
        [at(-0.08, -0.03), at(0.08, -0.03), at(0, 0.07), at(-0.06, 0.14), at(0.06, 0.14)]
    )
    for eye in points[:2]:
        ellipse(eye, 0.03, 0.016, (245, 245, 245))
        ellipse(eye, 0.013, 0.014, (90, 60, 40))
    ellipse(points[2], 0.018, 0.012, (125, 150, 200))
    ellipse((points[3] + points[4]) / 2, 0.065, 0.016, (110, 100, 190))
    small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    return small, Face(landmarks=(points + 0.5) / 2 - 0.5, score=1.0)


def squares(image: Image, restorer: FaceRestorer) -> Image:
    """Paste the crops without a mask."""
    out = image.copy()
    size = (image.shape[1], image.shape[0])
    for crop in restorer.crops(image):
        inside = np.ones(crop.after.shape[:2], np.uint8)
        back = cv2.invertAffineTransform(crop.matrix)
        here = cv2.warpAffine(inside, back, size, flags=cv2.INTER_NEAREST) > 0
        face = cv2.warpAffine(crop.after, back, size, borderMode=cv2.BORDER_REPLICATE)
        out[here] = face[here]
    return out


def main() -> None:
    """Write the comparison."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("photo", type=Path, nargs="?")
    given = parser.parse_args()
    if given.photo is None:
        picture, face = drawn()
        restorer = FaceRestorer(brighter, detector=lambda image: (face,))
    else:
        picture = read(given.photo).pixels[:, :, :3]
        restorer = FaceRestorer(brighter)
    pair = np.hstack([squares(picture, restorer), restorer(picture)])
    given.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(given.out), pair)


if __name__ == "__main__":
    main()

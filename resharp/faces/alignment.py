"""Face alignment: from five landmarks to the 512x512 crop that face networks take.

The crop is that of FFHQ (Karras et al., "A Style-Based Generator Architecture for GANs", 2019), on
which GFPGAN, CodeFormer and RestoreFormer were trained. Points are (x, y) in pixels, and integers
are the centers of pixels, as in OpenCV.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from resharp.opencv import cv2
from resharp.runtime.imaging.layout import to_network
from resharp.types import Image

Points = NDArray[np.float64]
"""Points ``[n, 2]``, each (x, y)."""
Matrix = NDArray[np.float64]
"""Affine map of points, ``[2, 3]``."""

SIDE = 512
"""Side of a crop, in pixels."""

TEMPLATE: Points = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
"""Landmarks of an FFHQ face in a crop: the eye on the left of the image, the other eye, the tip of
the nose, the corner of the mouth on the left of the image, the other corner. The numbers are those
of facexlib (``utils/face_restoration_helper.py``, "standard 5 landmarks for FFHQ faces with
512 x 512", MIT license), which GFPGAN and CodeFormer use."""

_BLUR = 0.02  # FFHQ's blur, as a fraction of the crop's side
_GONE = 0.125  # distance from the border where the image has faded out, in sides of the crop
_MOST_SAMPLES = 8
"""Most samples per crop pixel and axis, for faces that are larger than the crop."""


def similarity(source: Points, target: Points) -> Matrix:
    """Return the rotation, scale and shift that map ``source`` closest to ``target``.

    Least squares in closed form (Umeyama, "Least-Squares Estimation of Transformation Parameters
    Between Two Point Patterns", 1991; in the plane a similarity without reflection is one complex
    factor, so no SVD is needed). Preferred to upstream's ``cv2.estimateAffinePartial2D`` with LMEDS
    because it does no random sampling and moves smoothly with the landmarks: with five points,
    LMEDS follows the three that agree best.

    Raises:
        ValueError: the points of ``source`` coincide.
    """
    middle, goal = source.mean(axis=0), target.mean(axis=0)
    a, b = source - middle, target - goal
    spread = float((a * a).sum())
    if not spread > 0:
        raise ValueError("the points coincide")
    along = float((a * b).sum()) / spread
    across = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / spread
    turn = np.array([[along, -across], [across, along]])
    return np.column_stack([turn, goal - turn @ middle])


def inverse(matrix: Matrix) -> Matrix:
    """Return the inverse map."""
    turn = np.linalg.inv(matrix[:, :2])
    return np.column_stack([turn, -turn @ matrix[:, 2]])


def chain(first: Matrix, then: Matrix) -> Matrix:
    """Return the map that applies ``first``, then ``then``."""
    return np.column_stack([then[:, :2] @ first[:, :2], then[:, :2] @ first[:, 2] + then[:, 2]])


def apply(matrix: Matrix, points: Points) -> Points:
    """Apply a map to points."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def magnification(matrix: Matrix) -> float:
    """Return the factor by which a map enlarges."""
    return math.sqrt(abs(float(np.linalg.det(matrix[:, :2]))))


def scaling(x: float, y: float) -> Matrix:
    """Return the map from pixels of an image to those of the image resized by ``x`` and ``y``."""
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2]])


def to_crop(landmarks: Points) -> Matrix:
    """Return the map from the image to the crop of the face with these five landmarks."""
    return similarity(landmarks, TEMPLATE)


def cut(image: Image, matrix: Matrix, side: int = SIDE) -> Image:
    """Cut a crop out of an image.

    Args:
        image: gray ``[h, w]``, ``[h, w, 1]`` or BGR, uint8, uint16 or float32.
        matrix: map from the image to the crop.
        side: side of the crop, in pixels.

    Returns:
        uint8 BGR ``[side, side, 3]``. Beyond its borders, the image is reflected, blurred and faded
        to its median, much as in FFHQ: a mirrored forehead is harmless, but a second pair of eyes
        would not be. A face larger than the crop is averaged, not subsampled; a smaller one is
        interpolated linearly, as upstream does, because the networks expect that look.
    """
    region, matrix = _region(image, matrix, side)
    samples = min(math.ceil(1 / max(magnification(matrix), 1e-9) - 1e-6), _MOST_SAMPLES)
    size = (side * samples, side * samples)
    crop = cv2.warpAffine(
        to_bytes(region),
        chain(matrix, scaling(samples, samples)),
        size,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    if samples > 1:
        crop = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    return _faded(crop, _beyond(matrix, region.shape[0], region.shape[1], side))


def _region(image: Image, matrix: Matrix, side: int) -> tuple[Image, Matrix]:
    """Return the part of the image that a crop needs, with reflections, and the map from there.

    OpenCV cannot warp images of 32768 pixels or more per side, and the rest need not be converted.
    """
    last = side - 0.5
    square = np.array([[-0.5, -0.5], [last, -0.5], [-0.5, last], [last, last]])
    corners = apply(inverse(matrix), square)
    low = np.floor(corners.min(axis=0)).astype(int) - 2
    high = np.ceil(corners.max(axis=0)).astype(int) + 3
    limit = np.array([image.shape[1], image.shape[0]])
    start = np.clip(np.minimum(low, 2 * limit - high - 2), 0, limit - 1)
    stop = np.clip(np.maximum(high, 2 - low), start + 1, limit)
    shift = np.column_stack([np.eye(2), start])
    return image[start[1] : stop[1], start[0] : stop[0]], chain(shift, matrix)


def _beyond(matrix: Matrix, height: int, width: int, side: int) -> NDArray[np.float32]:
    """Return how far outside the image each crop pixel is, as a fraction of the crop's side."""
    back = inverse(matrix)
    steps = np.arange(side)
    far = np.zeros((side, side), np.float32)
    for (a, b, c), last in zip(back, (width - 1, height - 1), strict=True):
        at = (a * steps + c)[None, :] + (b * steps)[:, None]
        np.maximum(far, np.maximum(-at, at - last), out=far, casting="same_kind")
    return far * np.float32(magnification(matrix) / side)


def _faded(crop: Image, beyond: NDArray[np.float32]) -> Image:
    """Blur the parts of a crop that are outside the image, and fade them to its median."""
    if not (beyond > 0).any():
        return crop
    some = (slice(None, None, 4),) * 2
    within = crop[some][beyond[some] <= 0]
    median = np.median(within if len(within) else crop.reshape(-1, 3), axis=0)
    blurred = cv2.GaussianBlur(crop, (0, 0), _BLUR * len(crop)).astype(np.float32)
    soft = np.clip(beyond / np.float32(_BLUR), 0, 1)[:, :, None]
    gone = np.clip(beyond / np.float32(_GONE), 0, 1)[:, :, None]
    mixed = crop + (blurred - crop) * soft
    mixed += (median.astype(np.float32) - mixed) * gone
    faded: Image = np.rint(mixed).astype(np.uint8)
    return faded


def to_bytes(image: Image) -> Image:
    """Convert gray or BGR of uint8, uint16 or float32 to uint8 BGR."""
    rows = to_network(image)
    if rows.dtype == np.uint8:
        return rows
    return np.rint(rows * np.float32(255)).astype(np.uint8)

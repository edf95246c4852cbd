"""From five landmarks to the 512x512 crop that face networks take.

The crop is that of FFHQ (Karras et al., "A Style-Based Generator Architecture for GANs", 2019),
which GFPGAN, CodeFormer and RestoreFormer were trained on. Points are (x, y) in pixels, and whole
numbers are the middles of pixels, as in OpenCV.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from resharp.runtime.imaging.layout import to_network
from resharp.types import Image

Points = NDArray[np.float64]
"""``[n, 2]`` of (x, y)."""
Matrix = NDArray[np.float64]
"""``[2, 3]``: an affine map of points."""

SIDE = 512
"""Pixels of a crop, along each side."""

TEMPLATE: Points = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
"""Where the landmarks of an FFHQ face are in a crop: the eye on the picture's left, the other eye,
the tip of the nose, the corner of the mouth on the picture's left, the other corner. The numbers
are those of facexlib (``utils/face_restoration_helper.py``, "standard 5 landmarks for FFHQ faces
with 512 x 512", MIT license), which GFPGAN and CodeFormer use."""

_BLUR = 0.02  # sides of a crop: FFHQ's blur
_GONE = 0.125  # sides of a crop from the picture's border to where nothing of it is left
_MOST_SAMPLES = 8
"""Samples per pixel of a crop, along each side, where a face is larger than the crop."""


def similarity(source: Points, target: Points) -> Matrix:
    """The turn, scale and shift that brings ``source`` nearest to ``target``.

    Least squares in closed form (Umeyama, "Least-Squares Estimation of Transformation Parameters
    Between Two Point Patterns", 1991; in the plane a similarity without reflection is one complex
    factor, so no SVD is needed). Chosen over ``cv2.estimateAffinePartial2D`` with LMEDS, which
    upstream uses, since it has no random sampling and moves smoothly with the landmarks: with five
    points, LMEDS follows the three that agree best.

    Raises:
        ValueError: all of ``source`` is one point.
    """
    middle, goal = source.mean(axis=0), target.mean(axis=0)
    a, b = source - middle, target - goal
    spread = float((a * a).sum())
    if not spread > 0:
        raise ValueError("the points are one point")
    along = float((a * b).sum()) / spread
    across = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / spread
    turn = np.array([[along, -across], [across, along]])
    return np.column_stack([turn, goal - turn @ middle])


def inverse(matrix: Matrix) -> Matrix:
    """The map back."""
    turn = np.linalg.inv(matrix[:, :2])
    return np.column_stack([turn, -turn @ matrix[:, 2]])


def chain(first: Matrix, then: Matrix) -> Matrix:
    """Both maps, one after the other."""
    return np.column_stack([then[:, :2] @ first[:, :2], then[:, :2] @ first[:, 2] + then[:, 2]])


def apply(matrix: Matrix, points: Points) -> Points:
    """The points where the map takes them."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def magnification(matrix: Matrix) -> float:
    """How many times larger things become."""
    return math.sqrt(abs(float(np.linalg.det(matrix[:, :2]))))


def scaling(x: float, y: float) -> Matrix:
    """From pixels of a picture to those of the same picture resized by ``x`` and ``y``."""
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2]])


def to_crop(landmarks: Points) -> Matrix:
    """From the picture to the crop of the face with these five landmarks."""
    return similarity(landmarks, TEMPLATE)


def cut(image: Image, matrix: Matrix, side: int = SIDE) -> Image:
    """Cut a crop.

    Args:
        image: gray ``[h, w]``, ``[h, w, 1]`` or BGR, uint8, uint16 or float32.
        matrix: from the picture to the crop.
        side: of the crop, in pixels.

    Returns:
        uint8 BGR ``[side, side, 3]``. What lies outside of the picture is the picture reflected,
        blurred and faded to its median, much as in FFHQ: a mirrored forehead is no matter, but a
        second pair of eyes would be. A face larger than the crop is averaged, not thinned out; a
        smaller one is interpolated linearly, as upstream does, for the networks know that look.
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
    """The part of the picture that a crop needs, reflections included, and the map from there.

    OpenCV warps no picture of 32768 pixels or more, and the rest need not be converted.
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
    """How far each pixel of a crop is outside of the picture, 1 being the crop's side."""
    back = inverse(matrix)
    steps = np.arange(side)
    far = np.zeros((side, side), np.float32)
    for (a, b, c), last in zip(back, (width - 1, height - 1), strict=True):
        at = (a * steps + c)[None, :] + (b * steps)[:, None]
        np.maximum(far, np.maximum(-at, at - last), out=far, casting="same_kind")
    return far * np.float32(magnification(matrix) / side)


def _faded(crop: Image, beyond: NDArray[np.float32]) -> Image:
    """The crop with what is beyond the picture blurred at once, and its median further out."""
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
    """Gray or BGR of uint8, uint16 or float32 as uint8 BGR."""
    rows = to_network(image)
    if rows.dtype == np.uint8:
        return rows
    return np.rint(rows * np.float32(255)).astype(np.uint8)

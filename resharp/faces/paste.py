"""Seamless pasting of a restored crop into its image, under a soft mask.

The mask is a formula, not an image: a square with round corners in the crop, 1 inside, falling to 0
over the outer part, smooth at both ends. So it needs no erosion or blur, scales with the face, and
is exactly 0 outside the crop at any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resharp.faces.alignment import SIDE, Matrix, apply, chain, inverse, magnification, scaling
from resharp.opencv import cv2
from resharp.runtime.imaging.resize import resize
from resharp.types import Image

Plane = NDArray[np.float32]

FEATHER = 0.22
"""Width of the border in which the mask falls from 1 to 0, as a fraction of half a side: 56 pixels
of a crop of 512. The chin and brows of an FFHQ face are inside that border."""

_ROUND = 4  # exponent of the norm: 2 is a circle, infinity a square
_SHARE = 4  # how sharply overlapping crops are divided between their faces
_BAND = 1 << 18  # pixels of the result to blend at a time
_WHITE = {"uint8": 1.0, "uint16": 257.0, "float32": 1 / 255}


@dataclass(frozen=True, kw_only=True, eq=False)
class PastePlace:
    """Position of a crop in a result."""

    matrix: Matrix
    """Map from the crop to the result, in pixels."""

    @classmethod
    def of(cls, to_crop: Matrix, height: float, width: float) -> PastePlace:
        """Return the position that a crop of the input has in a result.

        Args:
            to_crop: map from the input to the crop.
            height: height of the result over that of the input.
            width: width of the result over that of the input.
        """
        return cls(matrix=chain(inverse(to_crop), scaling(width, height)))

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return top, left, bottom and right of the crop within a result of that size."""
        edge = np.array([[-0.5, -0.5], [SIDE - 0.5, -0.5], [-0.5, SIDE - 0.5], [SIDE - 0.5] * 2])
        corners = apply(self.matrix, edge)
        left, top = np.floor(corners.min(axis=0)).astype(int)
        right, bottom = np.ceil(corners.max(axis=0)).astype(int) + 1
        return max(top, 0), max(left, 0), min(bottom, height), min(right, width)

    def radius(self, box: tuple[int, int, int, int]) -> Plane:
        """Return how far the pixels of a box are from the center of the crop; 1 is its edge."""
        top, left, bottom, right = box
        back = inverse(self.matrix)
        middle, half = (SIDE - 1) / 2, SIDE / 2
        x, y = np.arange(left, right), np.arange(top, bottom)[:, None]
        powers = [
            ((line[0] * x + line[2] - middle + line[1] * y) / half) ** _ROUND for line in back
        ]
        radius: Plane = np.power(powers[0] + powers[1], 1 / _ROUND).astype(np.float32)
        return radius


def mask(radius: Plane) -> Plane:
    """Return the soft mask at a radius: 1 inside, 0 from radius 1 on, 3t^2 - 2t^3 between."""
    t = np.clip((1 - radius) * np.float32(1 / FEATHER), 0, 1)
    soft: Plane = t * t * (3 - 2 * t)
    return soft


def paste(
    out: Image, face: Image, places: Sequence[PastePlace], index: int = 0, weight: float = 1.0
) -> None:
    """Blend a restored crop into a result, in place.

    Args:
        out: gray ``[h, w]`` or ``[h, w, 1]``, BGR or BGRA of uint8, uint16 or float32. Alpha is
            kept.
        face: uint8 BGR ``[512, 512, 3]``.
        places: positions of all crops to paste, in that order. Where crops overlap, each pixel is
            divided among the faces by nearness to their centers, so that no crop's rim, where a
            neighboring face may be distorted, covers that face.
        index: index of this crop in ``places``.
        weight: fraction of the crop, 0..1; 0 leaves the result as it is.

    Pixels where the mask is 0 keep their bits.
    """
    place = places[index]
    box = place.box(*out.shape[:2])
    top, left, bottom, right = box
    if top >= bottom or left >= right:
        return
    others = [at for at, other in enumerate(places) if at != index and _meet(other, box, out)]
    source, back = _fitted(face, place.matrix)
    step = max(_BAND // (right - left), 1)
    for start in range(top, bottom, step):
        part = (start, left, min(start + step, bottom), right)
        share = _share(places, index, others, part, weight)
        rows = cv2.warpAffine(
            source,
            chain(np.array([[1.0, 0, left], [0, 1, start]]), back),
            (right - left, part[2] - start),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        blend(out[start : part[2], left:right], rows, share)


def _meet(place: PastePlace, box: tuple[int, int, int, int], out: Image) -> bool:
    top, left, bottom, right = place.box(*out.shape[:2])
    return max(top, box[0]) < min(bottom, box[2]) and max(left, box[1]) < min(right, box[3])


def _share(
    places: Sequence[PastePlace],
    index: int,
    others: Sequence[int],
    box: tuple[int, int, int, int],
    weight: float,
) -> Plane:
    """Return the fraction of each pixel that this crop takes when it is blended.

    If crop i is to end up with the fraction a_i and later crops are blended over it, it must take
    a_i / (1 - the sum of the later fractions).
    """
    radius = {at: places[at].radius(box) for at in (index, *others)}
    if not others:
        return mask(radius[index]) * np.float32(weight)
    near = {at: np.clip(1 - r, 0, None) ** _SHARE for at, r in radius.items()}
    # Together, the crops cover all that their masks do not leave to the background.
    cover = np.float32(1) - np.prod([1 - mask(r) for r in radius.values()], axis=0)
    cover *= np.float32(weight) / np.maximum(sum(near.values()), np.float32(1e-12))
    later = cover * sum((near[at] for at in others if at > index), np.zeros_like(cover))
    left = 1 - later
    taken: Plane = np.divide(cover * near[index], left, out=np.zeros_like(left), where=left > 1e-6)
    return np.clip(taken, 0, 1, out=taken)


def _fitted(face: Image, matrix: Matrix) -> tuple[Image, Matrix]:
    """Return the crop, shrunk with antialiasing if the result is smaller, and the map to it."""
    side = min(max(int(np.ceil(SIDE * magnification(matrix))), 1), SIDE)
    back = inverse(matrix)
    if side == SIDE:
        return face, back
    return resize(face, side, side), chain(back, scaling(side / SIDE, side / SIDE))


def blend(target: Image, rows: Image, share: Plane) -> None:
    """Move ``target`` towards ``rows`` by the fraction ``share``, in place.

    Args:
        target: gray, BGR or BGRA ``[h, w(, c)]`` of uint8, uint16 or float32. Alpha is kept.
        rows: uint8 BGR ``[h, w, 3]``.
        share: ``[h, w]``; pixels where it is 0 keep their bits.
    """
    if target.ndim == 2 or target.shape[2] == 1:
        rows = cv2.cvtColor(rows, cv2.COLOR_BGR2GRAY)[:, :, None]
        target = target[:, :, None] if target.ndim == 2 else target
    target = target[:, :, :3]
    wanted = rows.astype(np.float32) * np.float32(_WHITE[target.dtype.name])
    there = target.astype(np.float32)
    mixed = there + (wanted - there) * share[:, :, None]
    if target.dtype.kind == "u":
        np.rint(mixed, out=mixed)
    np.copyto(target, mixed, casting="unsafe", where=share[:, :, None] > 0)

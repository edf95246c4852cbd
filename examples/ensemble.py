"""``python examples/ensemble.py OUT.png``: the effect of averaging eight flips and rotations.

Rings and rays have edges in every direction. A network does not restore all directions equally
well, but the mean of eight views does. Upper row: one view, eight views, the sharp image; lower
row: the errors of the first two, times four. Photos gain less (docs/design/runtime.md).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from resharp import Ensemble, Upscaler

Image = NDArray[Any]

SIDE = 288
"""Side of the sharp image, in pixels."""


def drawn() -> Image:
    """Draw dark rings on the left and dark rays on the right over a light background; uint8 BGR."""
    fine = 4
    y, x = (np.mgrid[: SIDE * fine, : SIDE * fine] + 0.5) / (SIDE * fine) - 0.5
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    rings = np.sin(radius * 100) > 0
    rays = np.sin(angle * 32) > 0
    dark = np.where(x < 0, rings, rays) & (radius < 0.48)
    large = np.where(dark[..., None], (60, 40, 30), (235, 240, 240)).astype(np.uint8)
    return np.asarray(cv2.resize(large, (SIDE, SIDE), interpolation=cv2.INTER_AREA))


def psnr(found: Image, sharp: Image) -> float:
    """Return the PSNR in dB."""
    return float(cv2.PSNR(found, sharp))


def main() -> None:
    """Write the comparison and print the gain."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("-m", "--model", default="resharp-x4")
    arguments = parser.parse_args()
    sharp = drawn()
    with Upscaler(arguments.model, scale=4) as upscaler:
        size = (SIDE // 4, SIDE // 4)
        small = np.asarray(cv2.resize(sharp, size, interpolation=cv2.INTER_AREA))
        one, eight = upscaler(small), Ensemble([upscaler], tta=8)(small)
    gaps = [cv2.absdiff(found, sharp).max(axis=2, keepdims=True) for found in (one, eight)]
    errors = [255 - np.minimum(gap.repeat(3, axis=2) * 4.0, 255) for gap in gaps]
    blank = np.full_like(sharp, 255)
    sheet = np.vstack([np.hstack([one, eight, sharp]), np.hstack([*errors, blank])])
    first, second = psnr(one, sharp), psnr(eight, sharp)
    words = (f"one view: {first:.2f} dB", f"eight views: {second:.2f} dB", "sharp")
    bar = np.full((30, sheet.shape[1], 3), 255, np.uint8)
    for index, text in enumerate(words):
        at = (SIDE * index + 8, 21)
        cv2.putText(bar, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (40, 40, 40), 1, cv2.LINE_AA)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    whole = np.vstack([bar, sheet.astype(np.uint8)])
    cv2.imwrite(str(arguments.out), whole, [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main()

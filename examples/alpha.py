"""``python examples/alpha.py OUT.png``: upscale a sticker with soft edges and transparency.

The colors under its transparent pixels are black, as many programs save them. Left: bicubic of
color and alpha; right: resharp. Both are shown over gray and enlarged again to show the edge.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from resharp import Upscaler

Image = NDArray[np.uint8]


def sticker(side: int = 48) -> Image:
    """Draw a red disc with a white star: uint8 BGRA ``[side, side, 4]``, black outside."""
    big = side * 8
    color = np.zeros((big, big, 3), np.uint8)
    alpha = np.zeros((big, big), np.uint8)
    middle = (big // 2, big // 2)
    cv2.circle(alpha, middle, int(big * 0.44), 255, -1)
    cv2.circle(color, middle, int(big * 0.44), (40, 40, 225), -1)
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radius = np.where(np.arange(10) % 2, 0.14, 0.33) * big
    star = np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None] + big / 2
    cv2.fillPoly(color, [np.rint(star).astype(np.int32)], (250, 250, 250))
    small_alpha = cv2.resize(alpha, (side, side), interpolation=cv2.INTER_AREA)
    premultiplied = cv2.resize(color, (side, side), interpolation=cv2.INTER_AREA).astype(float)
    share = np.maximum(small_alpha, 1)[..., None] / 255
    straight = np.where(small_alpha[..., None] > 0, premultiplied / share, 0)
    return np.dstack([np.clip(straight, 0, 255).astype(np.uint8), small_alpha])


def over_gray(image: Image, level: int = 170) -> Image:
    """Composite BGRA with straight alpha over gray."""
    share = image[..., 3:].astype(float) / 255
    flat = image[..., :3] * share + level * (1 - share)
    return np.rint(flat).astype(np.uint8)


def main() -> None:
    """Write the comparison."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    image = sticker()
    with Upscaler() as upscaler:
        ours = upscaler(image)
    size = (ours.shape[1], ours.shape[0])
    plain = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    pair = np.hstack([over_gray(plain), over_gray(ours)])
    shown = cv2.resize(pair, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(out), shown)


if __name__ == "__main__":
    main()

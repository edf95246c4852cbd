"""``python examples/before_after.py OUT.png``: create the README's image from the drawn scene."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scene import scene, worn

from resharp import Upscaler

Image = NDArray[np.uint8]

DETAILS = ((624, 40, 300, 200), (150, 470, 300, 220), (780, 330, 244, 170))
"""(x, y, width, height) in the sharp image."""


def panel(pictures: list[Image], x: int, y: int, width: int, height: int) -> Image:
    """Crop the same detail from each image and place the crops side by side at the same width."""
    cuts = [picture[y : y + height, x : x + width] for picture in pictures]
    wide = 420
    size = (wide, round(height * wide / width))
    scaled = [cv2.resize(cut, size, interpolation=cv2.INTER_LANCZOS4) for cut in cuts]
    return np.hstack(scaled).astype(np.uint8)


def main() -> None:
    """Write the comparison: bicubic on the left, resharp on the right."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    small = worn(scene())
    with Upscaler() as upscaler:
        ours = upscaler(small)
    size = (ours.shape[1], ours.shape[0])
    bicubic = np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    rows = [panel([bicubic, ours], *detail) for detail in DETAILS]
    sheet = np.vstack(rows)
    bar = np.full((34, sheet.shape[1], 3), 255, np.uint8)
    for text, x in (("bicubic x4", 12), ("resharp x4", sheet.shape[1] // 2 + 12)):
        cv2.putText(bar, text, (x, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (40, 40, 40), 2, cv2.LINE_AA)
    out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(out), np.vstack([bar, sheet]), [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main()

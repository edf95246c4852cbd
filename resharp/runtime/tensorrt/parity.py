"""How far an engine is from the FP32 graph on its reference picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resharp.engines import Likeness
from resharp.errors import BundleError

Image = NDArray[Any]

FLOOR_DB = 40.0
"""PSNR under which an engine is not used."""
IDENTICAL_DB = 200.0


def likeness(found: Image, restored: Image) -> Likeness:
    """Compare in levels of 255.

    Args:
        found: what the engine gave, uint8, or float32 in 0..1.
        restored: what the FP32 graph gave, float32 in 0..1, of the same shape.
    """
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        return Likeness(psnr=0.0, levels=255, passed=False)
    one, two = _levels(found), _levels(restored)
    gap = np.abs(one - two)
    error = float(np.square(gap.astype(np.float64)).mean())
    psnr = IDENTICAL_DB if error == 0 else 10 * math.log10(255**2 / error)
    black = not one.any() and bool(two.any())  # near enough to a dark picture to pass, else
    return Likeness(
        psnr=round(psnr, 2), levels=int(gap.max()), passed=psnr >= FLOOR_DB and not black
    )


def reference(path: Path, dtype: str) -> tuple[Image, Image]:
    """The picture as an engine of that dtype takes it, and what the FP32 graph made of it.

    Raises:
        BundleError: the file holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            picture, restored = stored["picture"], stored["restored"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise BundleError(f"{path} is no reference picture ({error})") from error
    if dtype == "float32":
        picture = picture.astype(np.float32) / np.float32(255)
    return picture, restored


def _levels(image: Image) -> NDArray[np.int16]:
    if image.dtype == np.uint8:
        return image.astype(np.int16)
    return np.rint(np.clip(image, 0, 1) * np.float32(255)).astype(np.int16)

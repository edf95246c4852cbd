"""Layouts of the arrays that users pass, and conversion to the BGR rows that a backend takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from resharp.errors import ImageError
from resharp.opencv import cv2
from resharp.types import Image

DTYPES = ("uint8", "uint16", "float32")
SLACK = 1 / 255
"""How far a float image may exceed 0..1 before it is rejected: resizing overshoots a little."""


@dataclass(frozen=True)
class Layout:
    """Size, channels and dtype of an image array."""

    height: int
    width: int
    channels: int
    """1, 3 or 4."""
    dtype: str
    """One of :data:`DTYPES`."""
    flat: bool
    """Whether a gray image is ``[h, w]`` instead of ``[h, w, 1]``."""

    @property
    def network_dtype(self) -> str:
        """Dtype of the graph that takes it, so that nothing is reduced to 8 bits."""
        return "uint8" if self.dtype == "uint8" else "float32"

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """Return the shape of an image of this kind at another size."""
        return (height, width) if self.flat else (height, width, self.channels)


def layout_of(image: Any) -> Layout:
    """Return the layout of an image.

    Args:
        image: ``[h, w]``, ``[h, w, 1]``, BGR ``[h, w, 3]`` or BGRA ``[h, w, 4]``; uint8, uint16, or
            float32 in 0..1.

    Raises:
        ImageError: the array is none of these; the message says what to do.
    """
    if image is None:
        raise ImageError("the image is None: cv2.imread returns that for a file it cannot read")
    if not isinstance(image, np.ndarray):
        raise ImageError(f"the image must be a numpy array, got {type(image).__name__}")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        raise ImageError(
            "an image must be gray [h, w], BGR [h, w, 3] or BGRA [h, w, 4], got shape "
            f"{image.shape}"
        )
    if 0 in image.shape:
        raise ImageError(f"the image has no pixels: its shape is {image.shape}")
    if image.dtype.name not in DTYPES:
        raise ImageError(
            f"the dtype must be one of {', '.join(DTYPES)}, got {image.dtype}: convert the image, "
            "with floats in 0..1"
        )
    if image.dtype.name == "float32":
        _check_floats(image)
    channels = 1 if image.ndim == 2 else image.shape[2]
    return Layout(image.shape[0], image.shape[1], channels, image.dtype.name, image.ndim == 2)


def check_gray(image: Image, layout: Layout, model: str) -> None:
    """Reject color images for a model of one channel, which would silently lose the colors.

    An image with equal blue, green and red counts as gray: ``cv2.imread`` reads gray files so.

    Raises:
        ImageError: the image has colors.
    """
    blue = image[..., :1]
    if layout.channels > 1 and not np.array_equal(image[..., 1:3], np.repeat(blue, 2, axis=2)):
        raise ImageError(
            f"{model} is a model for gray images, but this image has colors: use a color model "
            "(see 'resharp models list'), or convert the image with "
            "cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)"
        )


def _check_floats(image: Image) -> None:
    low, high = float(image.min()), float(image.max())  # min and max propagate NaN
    if not np.isfinite(low) or not np.isfinite(high):
        raise ImageError("the image contains NaN or infinity: use np.nan_to_num to replace them")
    if low < -SLACK or high > 1 + SLACK:
        raise ImageError(
            f"a float image must be in 0..1, got {low:.4g}..{high:.4g}: "
            "divide it by its white level (255 or 65535)"
        )


def to_network(rows: Image) -> Image:
    """Convert gray or BGR rows of any of :data:`DTYPES` to contiguous BGR uint8 or float32."""
    if rows.ndim == 2 or rows.shape[2] == 1:
        rows = np.repeat(rows.reshape(*rows.shape[:2], 1), 3, axis=2)
    if rows.dtype.name == "uint16":
        floats: Image = np.multiply(rows, np.float32(1 / 65535), dtype=np.float32)
        return floats
    if rows.dtype.name == "float32":
        clipped: Image = np.clip(rows, 0, 1, dtype=np.float32)
        return clipped
    return np.ascontiguousarray(rows)


def from_network(rows: Image, out: Image) -> None:
    """Write uint8 or float32 BGR rows into ``out``: gray ``[h, w]`` or BGR, of any dtype."""
    if out.ndim == 2:
        rows = cv2.cvtColor(rows, cv2.COLOR_BGR2GRAY)
    if out.dtype.name == "uint16":
        rows = np.rint(rows * np.float32(65535))
    np.copyto(out, rows, casting="unsafe")

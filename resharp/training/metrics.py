"""PSNR on luma, the figure that super-resolution papers report."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BT601 = np.array([24.966, 128.553, 65.481]) / 255.0  # B, G, R to Y of 16..235


def luma(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """BT.601 studio-range luma (16..235, unrounded) of a uint8 BGR image, as MATLAB has it."""
    y: NDArray[np.float64] = image.astype(np.float64) @ _BT601 + 16.0
    return y


def psnr_y(image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """PSNR in dB between the lumas of two uint8 BGR images of one shape, no border cut off."""
    if image.shape != reference.shape:
        raise ValueError(f"shapes differ: {image.shape} and {reference.shape}")
    error = float(np.mean((luma(image) - luma(reference)) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))

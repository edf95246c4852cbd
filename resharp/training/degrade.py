"""Mild real-world degradation of photos, with random strength.

The steps (blur, resize, noise, JPEG) and their order follow the first-order model of Real-ESRGAN
(Wang et al., ICCVW 2021) with ranges chosen for ordinary photos rather than badly degraded ones.
Images are uint8 ``[h, w, 3]`` BGR, as in OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resharp.opencv import cv2

Image = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """Probabilities and strengths of the degradation steps."""

    scale: int = 4
    """Downscale factor from the sharp image to the network's input."""
    clean: float = 0.35
    """Fraction of samples that are only downscaled, by area averaging."""
    blur: float = 0.4
    """Probability of a Gaussian blur before the resize."""
    blur_sigma: tuple[float, float] = (0.3, 2.0)
    """Range of the blur's sigma, in pixels of the sharp image."""
    noise: float = 0.75
    """Probability of Gaussian noise after the resize."""
    noise_sigma: tuple[float, float] = (1.0, 8.0)
    """Range of the noise's sigma, in levels of 255."""
    jpeg: float = 0.8
    """Probability of JPEG compression at the end."""
    jpeg_quality: tuple[int, int] = (55, 95)
    """Range of the JPEG quality, both ends included."""


def shrink(image: Image, scale: int, interpolation: int = cv2.INTER_AREA) -> Image:
    """Downscale by an integer factor that divides both sides."""
    height, width = image.shape[:2]
    size = (width // scale, height // scale)
    return _u8(cv2.resize(image, size, interpolation=interpolation))


def add_noise(image: Image, sigma: float, rng: np.random.Generator, gray: bool = False) -> Image:
    """Add Gaussian noise with ``sigma`` in levels of 255; one value per pixel if ``gray``."""
    shape = (*image.shape[:2], 1) if gray else image.shape
    noise = rng.standard_normal(shape, dtype=np.float32) * np.float32(sigma)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def jpeg(image: Image, quality: int) -> Image:
    """Compress as JPEG with ``quality`` and decode the result."""
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RuntimeError("OpenCV failed to encode a JPEG image in memory")
    return _u8(cv2.imdecode(data, cv2.IMREAD_COLOR))


def degrade(image: Image, degradation: Degradation, rng: np.random.Generator) -> Image:
    """Create the network's input for one sharp image, drawing every random choice from ``rng``."""
    if rng.random() < degradation.clean:
        return shrink(image, degradation.scale)
    if rng.random() < degradation.blur:
        image = _u8(cv2.GaussianBlur(image, (0, 0), rng.uniform(*degradation.blur_sigma)))
    way = rng.choice([cv2.INTER_AREA, cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC])
    small = shrink(image, degradation.scale, int(way))
    if rng.random() < degradation.noise:
        small = add_noise(
            small, rng.uniform(*degradation.noise_sigma), rng, gray=rng.random() < 0.3
        )
    if rng.random() < degradation.jpeg:
        small = jpeg(
            small, int(rng.integers(degradation.jpeg_quality[0], degradation.jpeg_quality[1] + 1))
        )
    return small


def _u8(image: Any) -> Image:
    return np.asarray(image, dtype=np.uint8)

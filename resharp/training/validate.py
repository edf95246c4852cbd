"""Gain over bicubic upscaling on held-out photos: clean, and with added noise and JPEG artifacts.

It is measured in PSNR on luma, the metric that super-resolution papers report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resharp.opencv import cv2
from resharp.training.degrade import Image, add_noise, jpeg, shrink

_BT601 = np.array([24.966, 128.553, 65.481]) / 255.0  # B, G, R to Y of 16..235

Upscale = Callable[[Image], Image]
"""uint8 ``[h, w, 3]`` BGR to uint8 ``[h*s, w*s, 3]``."""


@dataclass(frozen=True)
class Gain:
    """Mean PSNR-Y of the network and of bicubic upscaling over all images, in dB."""

    network: float
    bicubic: float

    @property
    def gain(self) -> float:
        """Network minus bicubic, in dB."""
        return self.network - self.bicubic


def clean_input(picture: Image, scale: int) -> Image:
    """Downscale the image to 1/scale by area averaging."""
    return shrink(picture, scale)


def degraded_input(picture: Image, scale: int) -> Image:
    """Downscale the image, then add noise (sigma 4, seed 0) and JPEG artifacts (quality 75)."""
    return jpeg(add_noise(shrink(picture, scale), 4.0, np.random.default_rng(0)), 75)


def measure(
    pictures: Iterable[Image],
    upscale: Upscale,
    make_input: Callable[[Image, int], Image],
    scale: int,
) -> Gain:
    """Upscale the input of every image with the network and with bicubic, and compare both."""
    ours, bicubic = [], []
    for picture in pictures:
        height, width = (side - side % scale for side in picture.shape[:2])
        target = np.ascontiguousarray(picture[:height, :width])
        small = make_input(target, scale)
        plain = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
        ours.append(psnr_y(upscale(small), target))
        bicubic.append(psnr_y(np.asarray(plain, dtype=np.uint8), target))
    return Gain(float(np.mean(ours)), float(np.mean(bicubic)))


def luma(image: Image) -> NDArray[np.float64]:
    """Return the BT.601 luma of a uint8 BGR image: 16..235, unrounded, as in MATLAB."""
    y: NDArray[np.float64] = image.astype(np.float64) @ _BT601 + 16.0
    return y


def psnr_y(image: Image, reference: Image) -> float:
    """Return the luma PSNR in dB of two uint8 BGR images of equal shape, borders included."""
    if image.shape != reference.shape:
        raise ValueError(f"shapes must be equal, got {image.shape} and {reference.shape}")
    error = float(np.mean((luma(image) - luma(reference)) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))

"""A test image drawn by code, on which export and the benchmarks measure without a photo.

It contains what photos contain and networks struggle with: smooth skies, hard edges at every angle,
foliage-like noise with the 1/f spectrum of natural images, fine lines, text, saturated colors,
sensor noise and JPEG blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from resharp.opencv import cv2

Image = NDArray[np.uint8]


def draw(height: int, width: int, seed: int = 0) -> Image:
    """Draw a uint8 BGR ``[height, width, 3]`` image; equal seeds give equal images."""
    rng = np.random.default_rng(seed)
    tall, wide = max(height, 64), max(width, 64)
    landscape = _sky(tall, wide, rng)
    _hills(landscape, rng)
    scene = _bytes(landscape)  # OpenCV antialiases and writes text in uint8 only
    _shapes(scene, rng)
    _lines_and_text(scene, rng)
    noisy = scene + rng.normal(0, 2.5, scene.shape)
    done, data = cv2.imencode(".jpg", _bytes(noisy), [cv2.IMWRITE_JPEG_QUALITY, 88])
    if not done:
        raise RuntimeError("OpenCV could not encode a JPEG image in memory")
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(np.asarray(picture, np.uint8)[:height, :width])


def middle(picture: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Return the center of an image, cropped to at most that size."""
    y, x = max(picture.shape[0] - height, 0) // 2, max(picture.shape[1] - width, 0) // 2
    return np.ascontiguousarray(picture[y : y + height, x : x + width])


def fitted(picture: NDArray[Any], side: int) -> NDArray[Any]:
    """Return the largest central square of an image, resized to a network's fixed size."""
    shorter = min(picture.shape[:2])
    square = middle(picture, shorter, shorter)
    if shorter == side:
        return square
    return np.asarray(cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA))


def _natural(height: int, width: int, rng: np.random.Generator, power: float) -> NDArray[Any]:
    """Return noise ``[height, width, 3]``: 1/f**power spectrum, zero mean, unit deviation."""
    fy = np.fft.fftfreq(height)[:, None]
    fx = np.fft.rfftfreq(width)[None]
    falloff = 1 / np.maximum(np.hypot(fy, fx), 1 / max(height, width)) ** power
    planes = []
    for _ in range(3):
        phase = rng.uniform(0, 2 * np.pi, falloff.shape)
        plane = np.fft.irfft2(falloff * np.exp(1j * phase), (height, width))
        planes.append((plane - plane.mean()) / plane.std())
    return np.stack(planes, axis=2)


def _sky(height: int, width: int, rng: np.random.Generator) -> NDArray[Any]:
    fall = np.linspace(0, 1, height)[:, None, None]
    top, bottom = np.array([210.0, 150, 90]), np.array([200.0, 215, 235])
    sky: NDArray[Any] = top + (bottom - top) * fall + 9 * _natural(height, width, rng, 1.8)
    return sky


def _hills(scene: NDArray[Any], rng: np.random.Generator) -> None:
    """Draw three ridges, each with its own roughness of texture, the nearest one darkest."""
    height, width = scene.shape[:2]
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    for index, power in enumerate((1.5, 1.15, 0.8)):
        level = height * (0.4 + 0.2 * index)
        waves = sum(
            rng.uniform(0.02, 0.06) * height * np.sin(columns / width * f + rng.uniform(0, 6))
            for f in (5.0, 11.0, 23.0)
        )
        color = rng.uniform([30, 60, 40], [90, 130, 110]) * (1 - 0.2 * index)
        texture = color + 26 * _natural(height, width, rng, power)
        below = np.broadcast_to(rows > level + waves, (height, width))
        scene[below] = texture[below]


def _shapes(scene: Image, rng: np.random.Generator) -> None:
    """Draw filled, antialiased polygons and discs: hard edges at every angle."""
    height, width = scene.shape[:2]
    for _ in range(max(height * width // 6000, 4)):
        center = rng.uniform(0, 1, 2) * (width, height)
        size = rng.uniform(0.02, 0.09) * min(height, width) + 2
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 7))))
        corners = center + size * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        color = tuple(float(v) for v in rng.uniform(0, 255, 3))
        if rng.random() < 0.4:
            point = (int(center[0]), int(center[1]))
            cv2.circle(scene, point, int(size * 0.6), color, -1, cv2.LINE_AA)
        else:
            cv2.fillPoly(scene, [np.rint(corners).astype(np.int32)], color, cv2.LINE_AA)


def _lines_and_text(scene: Image, rng: np.random.Generator) -> None:
    height, width = scene.shape[:2]
    for _ in range(max(height * width // 8000, 4)):
        one, two = rng.uniform(0, 1, (2, 2)) * (width, height)
        shade = tuple(float(v) for v in rng.choice([10.0, 128.0, 245.0], 3))
        ends = (int(one[0]), int(one[1])), (int(two[0]), int(two[1]))
        cv2.line(scene, *ends, shade, int(rng.integers(1, 3)), cv2.LINE_AA)
    for line in range(max(height // 64, 1)):
        place = (int(rng.uniform(0, 0.5) * width), int((line + rng.uniform(0.4, 0.9)) * 64))
        shade = (245.0,) * 3 if rng.random() < 0.5 else (12.0,) * 3
        font = rng.uniform(0.35, 0.7)
        cv2.putText(
            scene, "resharp 0123", place, cv2.FONT_HERSHEY_SIMPLEX, font, shade, 1, cv2.LINE_AA
        )


def _bytes(scene: NDArray[Any]) -> Image:
    rounded: Image = np.clip(np.rint(scene), 0, 255).astype(np.uint8)
    return rounded

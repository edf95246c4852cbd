"""Draw a scene in code and degrade it like a photo, for a test image free of copyright.

``python examples/scene.py FOLDER`` writes ``scene.png`` (sharp, 1024x768) and ``scene_small.jpg``
(a quarter of the size, with noise and JPEG at quality 75), the input of ``make demo``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

WIDTH, HEIGHT = 1024, 768
FINE = 2
"""Supersampling factor: the scene is drawn larger and downscaled, which antialiases every edge."""


def scene() -> Image:
    """Draw a lighthouse on a rock by the sea: uint8 BGR ``[768, 1024, 3]``."""
    rng = np.random.default_rng(4)
    canvas = _sky_and_sea(rng)
    _hills(canvas, rng)
    _rock(canvas, rng)
    _lighthouse(canvas)
    _house(canvas)
    _boat(canvas)
    _gulls(canvas)
    small = cv2.resize(canvas, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def worn(picture: Image) -> Image:
    """Degrade an image: a quarter of the size, noise of sigma 3 and JPEG at quality 75."""
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    noise = np.random.default_rng(5).normal(0, 3, small.shape)
    noisy = np.clip(np.rint(small + noise), 0, 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 75])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _cloud_noise(height: int, width: int, rng: np.random.Generator, power: float) -> NDArray[Any]:
    """Return 1/f**power noise ``[height, width]`` with zero mean and unit standard deviation."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    falloff = 1 / np.maximum(np.hypot(fy, fx * 2.2), 1 / width) ** power
    phase = rng.uniform(0, 2 * np.pi, falloff.shape)
    plane: NDArray[Any] = np.fft.irfft2(falloff * np.exp(1j * phase), (height, width))
    plane -= plane.mean()
    plane /= plane.std()
    return plane


def _mix(one: Any, two: Any, share: NDArray[Any]) -> NDArray[Any]:
    mixed: NDArray[Any] = np.array(one) * (1 - share[..., None]) + np.array(two) * share[..., None]
    return mixed


def _sky_and_sea(rng: np.random.Generator) -> Image:
    height, width = HEIGHT * FINE, WIDTH * FINE
    horizon = int(height * 0.62)
    rows = np.broadcast_to(np.linspace(0, 1, horizon)[:, None], (horizon, width))
    sky = _mix((168, 112, 62), (176, 205, 244), rows**1.3)
    clouds = np.clip(_cloud_noise(horizon, width, rng, 1.75) * 0.6 - 0.1, 0, 1) * (0.35 + rows / 2)
    sky = sky * (1 - clouds[..., None] * 0.7) + np.array((236, 240, 250)) * clouds[..., None] * 0.7
    deep = np.broadcast_to(np.linspace(0, 1, height - horizon)[:, None], (height - horizon, width))
    waves = cv2.resize(
        _cloud_noise(height - horizon, width // 5, rng, 1.1), (width, height - horizon)
    )
    sea = _mix((168, 158, 120), (92, 66, 28), deep**0.7) + 16 * waves[..., None] * (
        0.3 + deep[..., None]
    )
    return np.clip(np.vstack([sky, sea]), 0, 255).astype(np.uint8)


def _hills(canvas: Image, rng: np.random.Generator) -> None:
    height, width = canvas.shape[:2]
    columns = np.arange(width)
    for level, tall, color in ((0.62, 0.14, (150, 132, 112)), (0.622, 0.07, (104, 104, 78))):
        ridge = _cloud_noise(4, width, rng, 1.6)[0]
        top = height * (
            level - tall * (0.45 + 0.3 * ridge) * np.exp(-(((columns / width) - 0.2) ** 2) * 6)
        )
        points = np.stack([columns, np.minimum(top, height * level)], axis=1)
        outline = np.vstack([points, [[width, height * level], [0, height * level]]])
        cv2.fillPoly(canvas, [np.rint(outline).astype(np.int32)], color)


def _rock(canvas: Image, rng: np.random.Generator) -> None:
    height, width = canvas.shape[:2]
    t = np.linspace(0, 1, 60)
    top = 0.70 - 0.12 * np.sin(np.pi * np.minimum(t * 1.15, 1)) ** 0.7 + 0.008 * rng.normal(size=60)
    x = 0.44 + 0.62 * t
    outline = np.vstack(
        [
            np.stack([x * width, top * height], 1),
            [[width, 0.86 * height], [0.5 * width, 0.8 * height]],
        ]
    )
    mask = np.zeros(canvas.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.rint(outline).astype(np.int32)], 255)
    grain = _cloud_noise(height, width, rng, 1.05)
    shade = np.linspace(1.25, 0.6, height)[:, None]
    stone = np.array((74.0, 92, 104)) * shade[..., None] + 17 * grain[..., None]
    grass = np.array((52.0, 118, 84)) + 24 * _cloud_noise(height, width, rng, 0.7)[..., None]
    edge = np.interp(np.arange(width), x * width, top * height, left=height, right=height)
    near = np.clip(1 - (np.arange(height)[:, None] - edge[None]) / (0.035 * height), 0, 1)
    ground = stone * (1 - near[..., None]) + grass * near[..., None]
    canvas[mask > 0] = np.clip(ground, 0, 255).astype(np.uint8)[mask > 0]


def _fill(canvas: Image, points: list[tuple[float, float]], color: tuple[int, int, int]) -> None:
    """Fill a polygon given in pixels of the final image."""
    outline = np.rint(np.array(points) * FINE).astype(np.int32)
    cv2.fillPoly(canvas, [outline], color, cv2.LINE_AA)


def _line(
    canvas: Image, points: list[tuple[float, float]], color: tuple[int, int, int], wide: int
) -> None:
    outline = np.rint(np.array(points) * FINE).astype(np.int32)
    cv2.polylines(canvas, [outline], False, color, wide * FINE, cv2.LINE_AA)


def _lighthouse(canvas: Image) -> None:
    base, top, foot, head = 462, 172, 62, 38
    for band in range(7):
        y0, y1 = base - (base - top) * band / 7, base - (base - top) * (band + 1) / 7
        w0, w1 = foot - (foot - head) * band / 7, foot - (foot - head) * (band + 1) / 7
        color = (238, 242, 244) if band % 2 else (48, 42, 186)
        dark = tuple(int(c * 0.72) for c in color)
        _fill(canvas, [(700 - w0, y0), (700 + w0, y0), (700 + w1, y1), (700 - w1, y1)], color)
        _fill(
            canvas,
            [(700 + w0 * 0.35, y0), (700 + w0, y0), (700 + w1, y1), (700 + w1 * 0.35, y1)],
            (dark[0], dark[1], dark[2]),
        )
    for y in (412, 332, 252):
        _fill(canvas, [(690, y), (708, y), (708, y - 26), (690, y - 26)], (60, 52, 44))
        _line(canvas, [(699, y), (699, y - 26)], (220, 226, 230), 1)
    _fill(canvas, [(646, 172), (754, 172), (748, 160), (652, 160)], (58, 54, 52))
    for x in range(650, 752, 10):
        _line(canvas, [(x, 160), (x, 138)], (40, 38, 36), 1)
    _line(canvas, [(648, 138), (752, 138)], (40, 38, 36), 2)
    _fill(canvas, [(672, 160), (728, 160), (728, 108), (672, 108)], (150, 214, 250))
    for x in (672, 686, 700, 714, 728):
        _line(canvas, [(x, 160), (x, 108)], (52, 48, 46), 2)
    _fill(canvas, [(662, 108), (738, 108), (700, 74)], (40, 36, 150))
    _line(canvas, [(700, 74), (700, 52)], (40, 36, 36), 2)


def _house(canvas: Image) -> None:
    _fill(canvas, [(800, 474), (934, 474), (934, 398), (800, 398)], (206, 220, 226))
    for row, y in enumerate(range(402, 474, 8)):
        _line(canvas, [(800, y), (934, y)], (176, 190, 198), 1)
        for x in range(804 + 9 * (row % 2), 934, 18):
            _line(canvas, [(x, y), (x, y + 8)], (182, 196, 204), 1)
    _fill(canvas, [(788, 400), (946, 400), (914, 350), (820, 350)], (54, 66, 128))
    for y in range(356, 400, 7):
        spread = (y - 350) / 50 * 32
        _line(canvas, [(820 - spread, y), (914 + spread, y)], (42, 52, 104), 1)
    _fill(canvas, [(880, 350), (900, 350), (900, 322), (880, 322)], (70, 84, 140))
    for x in (816, 892):
        _fill(canvas, [(x, 446), (x + 28, 446), (x + 28, 416), (x, 416)], (92, 70, 50))
        _line(canvas, [(x + 14, 446), (x + 14, 416)], (240, 244, 246), 2)
        _line(canvas, [(x, 431), (x + 28, 431)], (240, 244, 246), 2)
    _fill(canvas, [(855, 474), (881, 474), (881, 424), (855, 424)], (58, 88, 40))
    for x in range(560, 1010, 16):
        _line(
            canvas,
            [(x, 486 + (x - 780) ** 2 / 9000), (x, 462 + (x - 780) ** 2 / 9000)],
            (232, 236, 238),
            3,
        )
    rail = [(float(x), 468 + (x - 780) ** 2 / 9000) for x in range(552, 1016, 8)]
    _line(canvas, rail, (232, 236, 238), 2)


def _boat(canvas: Image) -> None:
    _fill(canvas, [(168, 640), (330, 640), (304, 676), (192, 676)], (44, 58, 130))
    _line(canvas, [(168, 641), (330, 641)], (226, 232, 236), 3)
    _line(canvas, [(246, 640), (246, 486)], (46, 62, 88), 3)
    _fill(canvas, [(252, 500), (252, 628), (338, 628)], (234, 240, 244))
    _fill(canvas, [(240, 512), (240, 628), (176, 628)], (206, 216, 226))
    for step in range(1, 6):
        y = 500 + 128 * step / 6
        _line(canvas, [(252, y), (252 + 86 * step / 6, y)], (204, 210, 216), 1)
    text = "RESHARP 26"
    place = (206 * FINE, 664 * FINE)
    cv2.putText(
        canvas,
        text,
        place,
        cv2.FONT_HERSHEY_SIMPLEX,
        0.5 * FINE,
        (236, 240, 242),
        1 * FINE,
        cv2.LINE_AA,
    )


def _gulls(canvas: Image) -> None:
    for x, y, size in (
        (300, 150, 20),
        (352, 176, 14),
        (250, 196, 12),
        (470, 110, 16),
        (560, 210, 10),
    ):
        _line(
            canvas,
            [(x - size, y - size * 0.4), (x - size * 0.4, y - size * 0.5), (x, y)],
            (70, 64, 60),
            2,
        )
        _line(
            canvas,
            [(x, y), (x + size * 0.4, y - size * 0.5), (x + size, y - size * 0.4)],
            (70, 64, 60),
            2,
        )


def main() -> None:
    """Write both images."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    sharp = scene()
    cv2.imwrite(str(folder / "scene.png"), sharp)
    cv2.imwrite(str(folder / "scene_small.jpg"), worn(sharp), [cv2.IMWRITE_JPEG_QUALITY, 98])


if __name__ == "__main__":
    main()

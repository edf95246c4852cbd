"""Batches of training pairs, each a pure function of (seed, step), so that runs can resume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from resharp.opencv import cv2
from resharp.training.degrade import Degradation, Image, degrade

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def load_images(folder: Path) -> list[Image]:
    """Read all images of ``folder``, sorted by name, as uint8 BGR.

    Raises:
        ValueError: the folder contains no images, or one that cannot be read.
    """
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} contains no images ({', '.join(SUFFIXES)})")
    pictures = []
    for path in paths:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise ValueError(f"cannot read {path} as an image")
        pictures.append(np.asarray(picture, dtype=np.uint8))
    return pictures


class Pairs:
    """Sampler of (input, target) batches from sharp images in memory.

    Args:
        pictures: sharp images, uint8 ``[h, w, 3]``; those smaller than a target are ignored.
        patch: side length of the input in pixels; that of the target is ``patch * scale``.
        batch: number of samples per batch.
        degradation: degradation of the inputs.
        seed: random seed; seed and step together determine a batch.
    """

    def __init__(
        self,
        pictures: Sequence[Image],
        *,
        patch: int,
        batch: int,
        degradation: Degradation,
        seed: int,
    ) -> None:
        self._side = patch * degradation.scale
        self._pictures = [p for p in pictures if min(p.shape[:2]) >= self._side]
        if not self._pictures:
            raise ValueError(f"no image is at least {self._side} pixels wide and high")
        # A large image is more informative, but not in proportion to its area.
        weight = np.array([(p.shape[0] * p.shape[1]) ** 0.5 for p in self._pictures])
        self._weight = weight / weight.sum()
        self._batch = batch
        self._degradation = degradation
        self._seed = seed

    def at(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return input and target of one step, each uint8 ``[n, h, w, 3]``."""
        rng = np.random.default_rng([self._seed, step])
        pairs = [self._sample(rng) for _ in range(self._batch)]
        return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])

    def iterate(self, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield batches of steps ``start`` to ``stop - 1``; a thread prepares the next ones."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            ahead = [pool.submit(self.at, step) for step in range(start, min(start + 3, stop))]
            for step in range(start, stop):
                pair = ahead.pop(0).result()
                if step + 3 < stop:
                    ahead.append(pool.submit(self.at, step + 3))
                yield pair

    def _sample(self, rng: np.random.Generator) -> tuple[Image, Image]:
        target = self._crop(rng)
        if target.std() < 8:  # a flat patch teaches little: draw once more
            target = self._crop(rng)
        if rng.random() < 0.5:
            target = target[:, ::-1]
        target = np.ascontiguousarray(np.rot90(target, int(rng.integers(4))))
        return degrade(target, self._degradation, rng), target

    def _crop(self, rng: np.random.Generator) -> Image:
        picture = self._pictures[int(rng.choice(len(self._pictures), p=self._weight))]
        y = int(rng.integers(picture.shape[0] - self._side + 1))
        x = int(rng.integers(picture.shape[1] - self._side + 1))
        return picture[y : y + self._side, x : x + self._side]

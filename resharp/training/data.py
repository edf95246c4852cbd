"""Batches of training pairs, each a pure function of (seed, step), so that a run can resume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from resharp.training.degrade import Degradation, Image, degrade

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def load_pictures(folder: Path) -> list[Image]:
    """Read every picture of ``folder``, sorted by name, as uint8 BGR.

    Raises:
        ValueError: the folder holds no picture, or one that cannot be read.
    """
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} holds no picture ({', '.join(SUFFIXES)})")
    pictures = []
    for path in paths:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise ValueError(f"{path} cannot be read as a picture")
        pictures.append(np.asarray(picture, dtype=np.uint8))
    return pictures


class Pairs:
    """Draws (input, target) batches from sharp pictures held in memory.

    Args:
        pictures: uint8 ``[h, w, 3]``; those smaller than a patch are left out.
        patch: side of the input patch, in pixels; the target is ``patch * scale``.
        batch: samples per batch.
        degradation: what the inputs suffer.
        seed: together with the step it decides everything.
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
            raise ValueError(f"no picture is at least {self._side} pixels on both sides")
        # A large picture has more to teach, but not in proportion to its area.
        weight = np.array([(p.shape[0] * p.shape[1]) ** 0.5 for p in self._pictures])
        self._weight = weight / weight.sum()
        self._batch = batch
        self._degradation = degradation
        self._seed = seed

    def at(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The batch of one step: uint8 ``[n, h, w, 3]`` input and target."""
        rng = np.random.default_rng([self._seed, step])
        pairs = [self._sample(rng) for _ in range(self._batch)]
        return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])

    def iterate(self, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of steps ``start`` to ``stop - 1``, the next ones made in the background."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            ahead = [pool.submit(self.at, step) for step in range(start, min(start + 3, stop))]
            for step in range(start, stop):
                pair = ahead.pop(0).result()
                if step + 3 < stop:
                    ahead.append(pool.submit(self.at, step + 3))
                yield pair

    def _sample(self, rng: np.random.Generator) -> tuple[Image, Image]:
        target = self._crop(rng)
        if target.std() < 8:  # a flat patch teaches little: look once more
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

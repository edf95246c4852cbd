"""The interface of an implementation under test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from resharp.bench.records import ResolvedCase
from resharp.types import Image


class Implementation(AbstractContextManager["Implementation"], ABC):
    """An opened case. A context manager."""

    @abstractmethod
    def __call__(self, image: Image) -> Image:
        """Upscale uint8 BGR ``[h, w, 3]`` to uint8 BGR ``[h*s, w*s, 3]``, synchronously."""

    @abstractmethod
    def actual(self, image: Image) -> ResolvedCase:
        """Return how images of that size are run, including notes from the runs so far."""

    def stream(self, images: Iterable[Image]) -> None:
        """Run several images, as many at once as the case has lanes."""
        for image in images:
            self(image)

    def framework_peak(self) -> int | None:
        """Return the peak bytes on the GPU as counted by the framework; None if it does not."""
        return None

    def split(self, image: Image) -> dict[str, Any]:
        """Return the seconds of upload, compute and download, and ``by``; empty if not measured."""
        return {}

    def close(self) -> None:
        """Release all resources."""

    def __exit__(self, *error: object) -> None:
        self.close()

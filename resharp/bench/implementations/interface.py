"""The interface of an implementation under test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from resharp.bench.records import ResolvedCase
from resharp.types import Image


class Implementation(AbstractContextManager["Implementation"], ABC):
    """One case, open. A context manager."""

    @abstractmethod
    def __call__(self, image: Image) -> Image:
        """uint8 BGR ``[h, w, 3]`` to uint8 BGR ``[h*s, w*s, 3]``; returns when it is done."""

    @abstractmethod
    def actual(self, image: Image) -> ResolvedCase:
        """How it runs an image of that size, with what has come to be known of it by now."""

    def stream(self, images: Iterable[Image]) -> None:
        """Run several, as many at once as the case says."""
        for image in images:
            self(image)

    def framework_peak(self) -> int | None:
        """Peak bytes on the GPU by the framework's own count; None where it has none."""
        return None

    def split(self, image: Image) -> dict[str, Any]:
        """Seconds of upload, compute and download, and ``by``; empty where not measured."""
        return {}

    def close(self) -> None:
        """Give every resource back."""

    def __exit__(self, *error: object) -> None:
        self.close()

"""What can be measured, one file each: resharp's backends, and what users know.

A subject takes a uint8 BGR picture to a uint8 BGR picture. Each imports its library when opened.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from resharp.bench.cases import Case
from resharp.bench.records import Actual
from resharp.engines import Bundle
from resharp.types import Image

FILES = {
    "upstream": "upstream",
    "onnxruntime": "session",
    "pytorch": "pytorch",
    "openvino": "openvino",
    "ncnn": "ncnn",
}
"""Module of each baseline; everything else is ``ours``."""


class Subject(AbstractContextManager["Subject"], ABC):
    """One case, open. A context manager."""

    @abstractmethod
    def __call__(self, image: Image) -> Image:
        """uint8 BGR ``[h, w, 3]`` to uint8 BGR ``[h*s, w*s, 3]``; returns when it is done."""

    @abstractmethod
    def actual(self, image: Image) -> Actual:
        """How it runs a picture of that size, with what has come to be known of it by now."""

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


def open_subject(case: Case, bundle: Bundle) -> Subject:
    """Open a case.

    Raises:
        MissingExtraError: its library is not installed.
        ResharpError: it cannot run here.
    """
    module = importlib.import_module(f"{__name__}.{FILES.get(case.subject, 'ours')}")
    subject: Subject = module.open_subject(case, bundle)
    return subject

"""One file per backend, each imported only when it is tried."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from resharp.engines import Bundle
from resharp.runtime.backends.base import Backend, BackendOptions

BACKENDS = ("tensorrt", "torch", "onnx")
"""The backends of this release; each is a module here with ``probe`` and ``open_backend``."""


@dataclass(frozen=True)
class Driver:
    """How to try a backend."""

    probe: Callable[[BackendOptions], str | None]
    """Why it cannot run on that device here; None if it can."""
    open_backend: Callable[[Bundle, BackendOptions], Backend]
    """Open a bundle with it."""


def driver(name: str) -> Driver:
    """Import the module of one backend, not yet its library."""
    module = importlib.import_module(f"{__name__}.{name}")
    return Driver(
        cast(Callable[[BackendOptions], str | None], module.probe),
        cast(Callable[[Bundle, BackendOptions], Backend], module.open_backend),
    )


__all__ = ["BACKENDS", "Backend", "BackendOptions", "Driver", "driver"]

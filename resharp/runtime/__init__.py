"""The lean runtime, image to image: numpy and OpenCV, and the library of one backend."""

from resharp.runtime.bundle_lookup import DEFAULT_MODEL, resolve
from resharp.runtime.fallback import BackendAttempt
from resharp.runtime.tiling.plan import Band, Tile, bands, plan
from resharp.runtime.upscaler import Upscaler

__all__ = [
    "DEFAULT_MODEL",
    "BackendAttempt",
    "Band",
    "Tile",
    "Upscaler",
    "bands",
    "plan",
    "resolve",
]

"""The lean runtime, image to image: numpy and OpenCV, and the library of one backend."""

from resharp.runtime.chain import Link
from resharp.runtime.plan import Band, Tile, bands, plan
from resharp.runtime.resolve import DEFAULT_MODEL, resolve
from resharp.runtime.upscaler import Upscaler

__all__ = ["DEFAULT_MODEL", "Band", "Link", "Tile", "Upscaler", "bands", "plan", "resolve"]

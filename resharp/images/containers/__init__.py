"""What each container says about its picture, without decoding it.

OpenCV decides what the pixels are. These walkers say what OpenCV does not: whether the file is
whole, how many pictures it holds, which way up they are, and the metadata in every format alike.
"""

from __future__ import annotations

from collections.abc import Callable

from resharp.images.containers import avif, gif, jpeg, png, tiff, webp
from resharp.images.containers.info import ContainerInfo, DamagedContainerError, UnsupportedError

__all__ = ["ContainerInfo", "DamagedContainerError", "UnsupportedError", "inspect"]

_WALKERS: dict[str, Callable[[bytes], ContainerInfo]] = {
    "png": png.inspect,
    "jpeg": jpeg.inspect,
    "webp": webp.inspect,
    "tiff": tiff.inspect,
    "avif": avif.inspect,
    "gif": gif.inspect,
}


def inspect(name: str, data: bytes) -> ContainerInfo:
    """Walk a file of format `name`; DamagedError if it is cut short or contradicts itself."""
    walker = _WALKERS.get(name)
    return walker(data) if walker else ContainerInfo()

"""``RealESRGANer``: the class of ``realesrgan/utils.py`` in xinntao/Real-ESRGAN (BSD-3-Clause).

Reimplemented from its documented behavior on top of :class:`resharp.Upscaler`.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resharp.checks import check_number, shown
from resharp.compat.checkpoints import bundle_for
from resharp.engines import Bundle
from resharp.errors import BackendError, ImageError, OptionError
from resharp.gpu.devices import gpus
from resharp.opencv import cv2
from resharp.runtime import Upscaler
from resharp.runtime.bundle_lookup import check_upscales
from resharp.runtime.imaging.layout import Layout, layout_of
from resharp.runtime.upscaler import LARGEST_SCALE
from resharp.types import Image, Precision

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)


MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Upstream's name by number of channels; the arrays are gray, BGR and BGRA."""

MOD_SCALE = {2: 2, 1: 4}
"""Sides are padded to a multiple of this value, which depends on the network's scale."""


class RealESRGANer:
    """Upscales images, with the interface of upstream's class of the same name.

    Args:
        scale: the network's scale, usually 2 or 4.
        model_path: a file, an https address, a model's name or a bundle; or two files or addresses
            to mix. A checkpoint is exported into the store on first use, which requires the extra
            ``export``; after that neither torch nor the network is needed.
        dni_weight: fractions of the two checkpoints in the mix, which sum to 1.
        model: the network that the weights belong to. Only its structure is used, and checked; None
            detects it from the weights.
        tile: side of the tiles, in pixels; 0 takes the whole image, or as few tiles as half of the
            free memory allows (resharp's own tiles, without visible seams).
        tile_pad: context around a tile, in pixels.
        pre_pad: mirrored padding at the right and lower edge, in pixels.
        half: use FP16 on a GPU. A CPU always computes in FP32.
        device: ``cpu``, ``cuda``, ``cuda:N`` or a ``torch.device``; None uses a GPU if there is
            one.
        gpu_id: index of the GPU; used if ``device`` is None and there is a GPU.

    Unlike upstream's, one instance may be used from several threads.

    Raises:
        OptionError: the network has another scale or structure, or a number is out of range.
        CheckpointError: a checkpoint is missing or cannot be used.
        BackendError: no backend can run the model on this machine.
    """

    def __init__(
        self,
        scale: int,
        model_path: str | os.PathLike[str] | Bundle | Sequence[str | os.PathLike[str]],
        dni_weight: Sequence[float] | None = None,
        model: nn.Module | None = None,
        tile: int = 0,
        tile_pad: int = 10,
        pre_pad: int = 10,
        half: bool = False,
        device: object = None,
        gpu_id: int | None = None,
    ) -> None:
        self.scale, self.half = scale, bool(half)
        self.tile_size = _count("tile", tile)
        self.tile_pad, self.pre_pad = _count("tile_pad", tile_pad), _count("pre_pad", pre_pad)
        self.mod_scale = MOD_SCALE.get(scale)
        where = device_of(device, gpu_id)
        if isinstance(model_path, str | os.PathLike):  # before a face model is exported in vain
            check_upscales(Path(model_path).name)
        bundle = bundle_for(model_path, dni_weight, model)
        if bundle.manifest.scale != scale:
            raise OptionError(
                f"`scale` must be {bundle.manifest.scale} for {bundle.manifest.name}, got "
                f"{shown(scale)}: use `outscale` of enhance() for the size of the result"
            )
        precision: Precision = "auto" if half else "fp32"
        self._upscaler = Upscaler(bundle, device=where, tile="whole", precision=precision)

    @property
    def device(self) -> str:
        """Device in use, e.g. ``cuda:0``."""
        return self._upscaler.device

    def explain(self) -> str:
        """Return the backends that were tried, up to the one in use, one per line."""
        return self._upscaler.explain()

    def close(self) -> None:
        """Release all resources; otherwise that happens when the object is garbage-collected."""
        self._upscaler.close()

    def enhance(
        self, img: Image, outscale: float | None = None, alpha_upsampler: str = "realesrgan"
    ) -> tuple[Image, str]:
        """Upscale one image.

        Args:
            img: gray ``[h, w]``, BGR ``[h, w, 3]`` or BGRA ``[h, w, 4]``, as cv2 returns them;
                uint8 or uint16.
            outscale: size of the result relative to ``img``, reached by resizing with
                ``INTER_LANCZOS4`` at the end; None keeps the network's scale.
            alpha_upsampler: ``realesrgan`` runs alpha through the network; any other value resizes
                it bilinearly.

        Returns:
            The result, with the dtype of ``img``, and ``L``, ``RGB`` or ``RGBA``.

        Raises:
            ImageError: ``img`` is not such an array, e.g. None for a file that cv2 could not read.
            OptionError: ``outscale`` is not a number or is out of range.
            OutOfMemoryError: there is not enough memory.
        """
        layout = check_integers(img)
        size = _out_size(layout.height, layout.width, self.scale, outscale)
        img = np.asarray(img)
        if layout.channels == 1:
            output = self._plane(img.reshape(layout.height, layout.width))
        else:
            output = self._run(img[:, :, :3])
        if layout.channels == 4:
            alpha = self._alpha(img[:, :, 3], alpha_upsampler)
            output = np.dstack((output, alpha))
        if size is not None:
            output = cv2.resize(output, size, interpolation=cv2.INTER_LANCZOS4)
        return np.ascontiguousarray(output), MODES[layout.channels]

    def _alpha(self, alpha: Image, upsampler: str) -> Image:
        if upsampler == "realesrgan":
            return self._plane(alpha)
        size = (alpha.shape[1] * self.scale, alpha.shape[0] * self.scale)
        return _in_float(alpha, lambda x: cv2.resize(x, size, interpolation=cv2.INTER_LINEAR))

    def _plane(self, plane: Image) -> Image:
        """Run a gray plane through the network in float, which saves a rounding step."""
        return _in_float(plane, self._run)

    def _run(self, image: Image) -> Image:
        """Run ``[h, w]`` or ``[h, w, 3]`` through the network, with upstream's padding."""
        height, width = image.shape[:2]
        padded = _mirrored(image, self.pre_pad, self.pre_pad)
        if self.mod_scale is not None:
            below, beside = (-side % self.mod_scale for side in padded.shape[:2])
            padded = _mirrored(padded, below, beside)
        large = self._tiled(padded) if self.tile_size else self._upscaler(padded)
        return large[: height * self.scale, : width * self.scale]

    def _tiled(self, image: Image) -> Image:
        """Run upstream's tiles: a grid from the corner, with padding that is cut at the border."""
        height, width = image.shape[:2]
        scale, tile, pad = self.scale, self.tile_size, self.tile_pad
        out = np.empty((height * scale, width * scale, *image.shape[2:]), image.dtype)
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                above, before = max(top - pad, 0), max(left - pad, 0)
                tall, wide = min(tile, height - top), min(tile, width - left)
                window = image[above : top + tall + pad, before : left + wide + pad]
                y, x = (top - above) * scale, (left - before) * scale
                out[top * scale : (top + tall) * scale, left * scale : (left + wide) * scale] = (
                    self._upscaler(window)[y : y + tall * scale, x : x + wide * scale]
                )
        return out


def _in_float(plane: Image, work: Any) -> Image:
    """Apply ``work`` to a plane in 0..1 and round the result to the plane's dtype."""
    white = np.float32(np.iinfo(plane.dtype).max)
    result = np.clip(work(np.divide(plane, white, dtype=np.float32)), 0, 1)
    levels: Image = (result * white).round().astype(plane.dtype)
    return levels


def _mirrored(image: Image, below: int, beside: int) -> Image:
    if not below and not beside:
        return image
    return cv2.copyMakeBorder(image, 0, below, 0, beside, cv2.BORDER_REFLECT_101)


def _out_size(height: int, width: int, scale: int, outscale: Any) -> tuple[int, int] | None:
    """Return (width, height) for cv2; None for the network's own size."""
    if outscale is None:
        return None
    factor = check_number("outscale", outscale, -math.inf)
    if factor == scale:
        return None
    size = int(width * factor), int(height * factor)
    if min(size) < 1:
        raise OptionError(f"`outscale` {outscale:g} leaves no pixels of a {width}x{height} image")
    if factor > LARGEST_SCALE:
        raise OptionError(f"`outscale` must be at most {LARGEST_SCALE:g}, got {outscale:g}")
    return size


def _count(name: str, value: object, what: str = "number of pixels") -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise OptionError(f"`{name}` must be a non-negative {what}, got {shown(value)}")
    return int(value)


def check_integers(img: Image) -> Layout:
    """Return the layout of an image; raise ImageError if it is not one of 8 or 16 bits."""
    if isinstance(img, np.ndarray) and img.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"the image must be uint8 or uint16, got {img.dtype}")
    return layout_of(img)


def device_of(device: object, gpu_id: int | None) -> str:
    """Convert upstream's two arguments to the device of an ``Upscaler``."""
    if device is not None:
        return str(device)
    if gpu_id is None:
        return "auto"
    number = _count("gpu_id", gpu_id, "GPU index")
    try:
        there = len(gpus())
    except BackendError as error:
        there = 0
        logger.warning("ignoring gpu_id %d and using the CPU: %s", number, error)
    return f"cuda:{number}" if there else "cpu"

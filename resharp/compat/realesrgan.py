"""``RealESRGANer``: the class of ``realesrgan/utils.py`` in xinntao/Real-ESRGAN (BSD-3-Clause).

Written anew from its documented behaviour; the work is done by :class:`resharp.Upscaler`.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from resharp.compat.checkpoints import bundle_for
from resharp.engines import Bundle
from resharp.errors import BackendError, ImageError, OptionError
from resharp.gpu.devices import gpus
from resharp.runtime import Upscaler
from resharp.runtime.bundle_lookup import check_upscales
from resharp.runtime.imaging.layout import Layout, layout_of
from resharp.runtime.upscaler import LARGEST_SCALE
from resharp.types import Image, Precision

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)


MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Upstream's names of what has so many channels; the arrays are gray, BGR and BGRA."""

MOD_SCALE = {2: 2, 1: 4}
"""Sides are padded to multiples of this, by the network's scale."""


class RealESRGANer:
    """Upscales pictures as upstream's class of that name does.

    Args:
        scale: of the network, usually 2 or 4.
        model_path: a file, an https address, a model's name, a bundle; or two files or addresses,
            to be mixed. A checkpoint is exported into the store at its first use, which needs the
            extra ``export``; after that neither torch nor the file's network is needed.
        dni_weight: the two shares, which add up to 1.
        model: the network that the weights are meant for. Only its shape is used, and checked; None
            takes what the weights tell.
        tile: side of the tiles; 0 takes the whole picture, or as few tiles as half of the free
            memory allows (ours, whose seams do not show).
        tile_pad: context around a tile, in pixels.
        pre_pad: pixels by which the picture is continued, mirrored, at its right and lower edge.
        half: FP16 on a GPU. A CPU computes in FP32 anyway.
        device: ``cpu``, ``cuda``, ``cuda:N`` or a ``torch.device``; None takes a GPU where
            there is one.
        gpu_id: number of the GPU, where ``device`` is None and there is a GPU.

    Unlike upstream's, one instance may be used from several threads.

    Raises:
        OptionError: the network is of another scale or shape, or a number makes no sense.
        CheckpointError: a file of weights that is not there or cannot be used.
        BackendError: nothing can run it here.
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
        if isinstance(model_path, str | os.PathLike):  # or a face network is exported in vain
            check_upscales(Path(model_path).name)
        bundle = bundle_for(model_path, dni_weight, model)
        if bundle.manifest.scale != scale:
            raise OptionError(
                f"{bundle.manifest.name} is a network of scale {bundle.manifest.scale}, not "
                f"{scale!r}: scale is the network's own, and outscale of enhance() the result's"
            )
        precision: Precision = "auto" if half else "fp32"
        self._upscaler = Upscaler(bundle, device=where, tile="whole", precision=precision)

    @property
    def device(self) -> str:
        """The device in use, ``cuda:0`` say."""
        return self._upscaler.device

    def explain(self) -> str:
        """The chain of backends up to the one in use, a line each."""
        return self._upscaler.explain()

    def close(self) -> None:
        """Give every resource back; without it, that happens when the object goes."""
        self._upscaler.close()

    def enhance(
        self, img: Image, outscale: float | None = None, alpha_upsampler: str = "realesrgan"
    ) -> tuple[Image, str]:
        """Upscale one picture.

        Args:
            img: gray ``[h, w]``, BGR ``[h, w, 3]`` or BGRA ``[h, w, 4]`` as cv2 has them; uint8 or
                uint16.
            outscale: size of the result over that of ``img``, reached by ``INTER_LANCZOS4`` at the
                end; None is the network's own.
            alpha_upsampler: ``realesrgan`` sends alpha through the network; with any other value it
                is resized bilinearly.

        Returns:
            The result, of the dtype of ``img``, and ``L``, ``RGB`` or ``RGBA``.

        Raises:
            ImageError: ``img`` is no such array; None, say, for a file that cv2 could not read.
            OptionError: an ``outscale`` that leaves nothing.
            OutOfMemoryError: the memory does not suffice.
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
        """Gray through the network; in float, since rounding three times would be one too many."""
        return _in_float(plane, self._run)

    def _run(self, image: Image) -> Image:
        """Through the network, with upstream's padding: ``[h, w]`` or ``[h, w, 3]``."""
        height, width = image.shape[:2]
        padded = _mirrored(image, self.pre_pad, self.pre_pad)
        if self.mod_scale is not None:
            below, beside = (-side % self.mod_scale for side in padded.shape[:2])
            padded = _mirrored(padded, below, beside)
        large = self._tiled(padded) if self.tile_size else self._upscaler(padded)
        return large[: height * self.scale, : width * self.scale]

    def _tiled(self, image: Image) -> Image:
        """Upstream's tiles: a grid from the corner, each with its padding cut at the border."""
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
    """What ``work`` makes of a plane in 0..1, rounded to the plane's dtype."""
    white = np.float32(np.iinfo(plane.dtype).max)
    result = np.clip(work(np.divide(plane, white, dtype=np.float32)), 0, 1)
    levels: Image = (result * white).round().astype(plane.dtype)
    return levels


def _mirrored(image: Image, below: int, beside: int) -> Image:
    if not below and not beside:
        return image
    return cv2.copyMakeBorder(image, 0, below, 0, beside, cv2.BORDER_REFLECT_101)


def _out_size(height: int, width: int, scale: int, outscale: Any) -> tuple[int, int] | None:
    """(width, height) as cv2 takes it; None where the network's own size is asked for."""
    if outscale is None:
        return None
    if not isinstance(outscale, Real) or not math.isfinite(outscale):
        raise OptionError(f"outscale {outscale!r} is no number")
    if outscale == scale:
        return None
    factor = float(outscale)
    size = int(width * factor), int(height * factor)
    if min(size) < 1:
        raise OptionError(f"outscale {outscale:g} leaves nothing of {width}x{height} pixels")
    if factor > LARGEST_SCALE:
        raise OptionError(f"outscale {outscale:g} is over {LARGEST_SCALE:g}")
    return size


def _count(name: str, value: object, what: str = "of pixels") -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise OptionError(f"{name} is {value!r}; it must be a number {what}, from 0")
    return int(value)


def check_integers(img: Image) -> Layout:
    """Raise ImageError for what is no picture of 8 or 16 bits."""
    if isinstance(img, np.ndarray) and img.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"pictures are uint8 or uint16 here, not {img.dtype}")
    return layout_of(img)


def device_of(device: object, gpu_id: int | None) -> str:
    """Upstream's two arguments as an ``Upscaler`` takes a device."""
    if device is not None:
        return str(device)
    if gpu_id is None:
        return "auto"
    number = _count("gpu_id", gpu_id, "of a GPU")
    try:
        there = len(gpus())
    except BackendError as error:
        there = 0
        logger.warning("gpu_id %d, but %s: using the CPU", number, error)
    return f"cuda:{number}" if there else "cpu"

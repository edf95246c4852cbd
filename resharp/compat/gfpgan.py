"""``GFPGANer``: the class of ``gfpgan/utils.py`` in TencentARC/GFPGAN (Apache-2.0).

Reimplemented from its documented behavior on top of ``resharp.faces``, with its own face detector
and its own pasting.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from resharp import weights
from resharp.checks import check_number, shown
from resharp.compat.checkpoints import bundle_for
from resharp.compat.realesrgan import check_integers, device_of
from resharp.engines import Bundle
from resharp.errors import OptionError
from resharp.faces import Crop, FaceRestorer
from resharp.faces.alignment import SIDE, to_bytes
from resharp.faces.detection import DETECTOR, central
from resharp.faces.network import run
from resharp.faces.paste import PastePlace, paste
from resharp.opencv import cv2
from resharp.runtime.upscaler import LARGEST_SCALE
from resharp.types import Image

ARCHITECTURES = ("clean", "RestoreFormer")
"""Supported values of ``arch``."""


class Upsampler(Protocol):
    """Upscaler of the background: a ``RealESRGANer`` or an object with the same ``enhance``."""

    def enhance(self, img: Image, outscale: float | None = None) -> tuple[Image, str]:
        """Upscale one image."""


class GFPGANer:
    """Restores faces, with the interface of upstream's class of the same name.

    Args:
        model_path: a file, an https address, a model's name or a bundle; a checkpoint is exported
            into the store on first use, as for ``RealESRGANer``.
        upscale: size of the result relative to the image.
        arch: ``clean`` or ``RestoreFormer``; the network is detected from the weights.
        channel_multiplier: not used; detected from the weights.
        bg_upsampler: upscaler of the background; None resizes it.
        device: as for ``RealESRGANer``.

    The face detector is downloaded if it is missing.

    Raises:
        OptionError: ``arch`` is unknown, ``upscale`` is out of range, or the network is not for
            faces.
        CheckpointError, DownloadError, BackendError: as for ``RealESRGANer``.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str] | Bundle,
        upscale: float = 2,
        arch: str = "clean",
        channel_multiplier: int = 2,
        bg_upsampler: Upsampler | None = None,
        device: object = None,
    ) -> None:
        if arch not in ARCHITECTURES:
            raise OptionError(
                f"`arch` must be one of {', '.join(ARCHITECTURES)}, got {shown(arch)}"
            )
        check_number("upscale", upscale, 0, LARGEST_SCALE, above=True)
        self.upscale, self.bg_upsampler = upscale, bg_upsampler
        self.channel_multiplier = channel_multiplier
        self._restorer = _restorer(bundle_for(model_path), device_of(device, None))

    def close(self) -> None:
        """Free the network; otherwise it is freed when the object is garbage-collected."""
        self._restorer.close()

    def enhance(
        self,
        img: Image,
        has_aligned: bool = False,
        only_center_face: bool = False,
        paste_back: bool = True,
        weight: float = 0.5,
    ) -> tuple[list[Image], list[Image], Image | None]:
        """Restore the faces of one image.

        Args:
            img: gray, BGR or BGRA, uint8 or uint16; with ``has_aligned`` an aligned face, which is
                resized to 512x512.
            has_aligned: whether ``img`` is an aligned face; nothing is detected or pasted then.
            only_center_face: restore only the face nearest to the center.
            paste_back: whether to return the image with the restored faces.
            weight: 0..1; ignored by the networks of ``arch``, as in upstream.

        Returns:
            The faces as cropped and as restored, each uint8 BGR ``[512, 512, 3]``; and the image,
            or None if ``has_aligned`` or not ``paste_back``.

        Raises:
            ImageError: ``img`` is not such an array.
            OptionError: ``weight`` is not in 0..1.
        """
        check_integers(img)
        check_number("weight", weight, 0, 1)
        img = np.asarray(img)
        colors = _colors(img)
        if has_aligned:
            crop = cv2.resize(to_bytes(colors), (SIDE, SIDE))
            return [crop], [run(self._restorer.network, crop[None], weight)[0]], None
        faces = self._restorer.find(colors)
        if only_center_face and faces:
            faces = (central(faces, *colors.shape[:2]),)
        crops = list(self._restorer.crops(colors, faces))
        restored = self._pasted(img, colors, crops) if paste_back else None
        return [crop.before for crop in crops], [crop.after for crop in crops], restored

    def _pasted(self, img: Image, colors: Image, crops: Sequence[Crop]) -> Image:
        """Paste the faces into the background, which ``bg_upsampler`` upscales if there is one."""
        height, width = img.shape[:2]
        if self.bg_upsampler is None:
            size = int(width * self.upscale), int(height * self.upscale)
            out = cv2.resize(colors, size, interpolation=cv2.INTER_LANCZOS4)
        else:
            out, _ = self.bg_upsampler.enhance(img, outscale=self.upscale)
            out = np.array(out)
        ratio = (out.shape[0] / height, out.shape[1] / width)
        places = [PastePlace.of(crop.matrix, *ratio) for crop in crops]
        for index, crop in enumerate(crops):
            paste(out, crop.after, places, index)
        return out


def _restorer(bundle: Bundle, device: str) -> FaceRestorer:
    weights.fetch(weights.find(DETECTOR), progress=True)
    return FaceRestorer(bundle, device=device)


def _colors(image: Image) -> Image:
    """Return BGR without alpha, which is how upstream reads every image."""
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return np.ascontiguousarray(image[:, :, :3])

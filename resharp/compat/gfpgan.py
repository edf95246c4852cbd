"""``GFPGANer``: the class of ``gfpgan/utils.py`` in TencentARC/GFPGAN (Apache-2.0).

Written anew from its documented behaviour; the work is done by ``resharp.faces``, with its
own detector and its own way to paste.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Real
from typing import Protocol

import cv2
import numpy as np

from resharp import weights
from resharp.compat.checkpoints import bundle_for
from resharp.compat.realesrgan import check_integers, device_of
from resharp.engines import Bundle
from resharp.errors import OptionError
from resharp.faces import Crop, FaceRestorer
from resharp.faces.alignment import SIDE, to_bytes
from resharp.faces.detection import DETECTOR, central
from resharp.faces.network import run
from resharp.faces.paste import PastePlace, paste
from resharp.runtime.upscaler import LARGEST_SCALE
from resharp.types import Image

ARCHITECTURES = ("clean", "RestoreFormer")
"""Values of ``arch`` whose networks are here."""


class Upsampler(Protocol):
    """What upscales the background: a ``RealESRGANer``, or what is called like one."""

    def enhance(self, img: Image, outscale: float | None = None) -> tuple[Image, str]:
        """Upscale one picture."""


class GFPGANer:
    """Restores faces as upstream's class of that name does.

    Args:
        model_path: a file, an https address, a model's name or a bundle; exported into the store at
            its first use, as by ``RealESRGANer``.
        upscale: size of the result over that of the picture.
        arch: ``clean`` or ``RestoreFormer``; what the network is, the weights tell.
        channel_multiplier: so do they this.
        bg_upsampler: for the rest of the picture; None resizes it.
        device: as for ``RealESRGANer``.

    The face detector is fetched where it is not there.

    Raises:
        OptionError: another ``arch``, an ``upscale`` that is no number above 0, or a network that
            is not for faces.
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
            raise OptionError(f"arch {arch!r} is not one of {', '.join(ARCHITECTURES)}")
        if not _within(upscale, LARGEST_SCALE) or not upscale:
            raise OptionError(f"upscale {upscale!r} is not in 0..{LARGEST_SCALE:g}")
        self.upscale, self.bg_upsampler = upscale, bg_upsampler
        self.channel_multiplier = channel_multiplier
        self._restorer = _restorer(bundle_for(model_path), device_of(device, None))

    def close(self) -> None:
        """Give the network back; without it, that happens when the object goes."""
        self._restorer.close()

    def enhance(
        self,
        img: Image,
        has_aligned: bool = False,
        only_center_face: bool = False,
        paste_back: bool = True,
        weight: float = 0.5,
    ) -> tuple[list[Image], list[Image], Image | None]:
        """Restore the faces of one picture.

        Args:
            img: gray, BGR or BGRA, uint8 or uint16; with ``has_aligned`` an aligned face, brought
                to 512x512.
            has_aligned: whether it is one: nothing is detected and pasted then.
            only_center_face: restore only the face that is nearest to the middle.
            paste_back: whether the picture with the faces is wanted.
            weight: 0..1; the networks of ``arch`` ignore it, here as upstream.

        Returns:
            The faces as cut out and as restored, each uint8 BGR ``[512, 512, 3]``; and the picture,
            or None if ``has_aligned`` or not ``paste_back``.

        Raises:
            ImageError: ``img`` is no such array.
            OptionError: ``weight`` is not in 0..1.
        """
        check_integers(img)
        if not _within(weight, 1.0):
            raise OptionError(f"weight {weight!r} is not in 0..1")
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
        """The faces in the background, which is ``bg_upsampler``'s or resized."""
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


def _within(value: object, most: float) -> bool:
    """Whether a caller gave a number from 0 to ``most``."""
    return isinstance(value, Real) and 0 <= float(value) <= most


def _colors(image: Image) -> Image:
    """BGR, without alpha, as upstream reads every picture."""
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return np.ascontiguousarray(image[:, :, :3])

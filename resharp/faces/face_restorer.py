"""FaceRestorer: the faces of a picture restored by a face network, the rest upscaled."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

import cv2
import numpy as np

from resharp.engines import Bundle, Manifest
from resharp.errors import ImageError, OptionError
from resharp.faces.alignment import SIDE, Matrix, cut, to_bytes, to_crop
from resharp.faces.detection import Detector, Face, YuNet, central
from resharp.faces.network import BundleNetwork, FaceNetwork, run
from resharp.faces.paste import PastePlace, blend, paste
from resharp.runtime.imaging.alpha import bleed
from resharp.runtime.imaging.layout import layout_of
from resharp.runtime.imaging.resize import resize
from resharp.runtime.streaming import check_count, each, stream
from resharp.runtime.upscaler import LARGEST_SCALE
from resharp.types import BackendName, Image, Precision, Progress

BATCH = 4
"""Faces per run of the network where no number is given."""


class Background(Protocol):
    """What restores the rest of a picture: an ``Upscaler``, or an ensemble of them."""

    @property
    def scale(self) -> float:
        """Output size over input size."""

    def __call__(self, image: Image, *, progress: Progress | None = None) -> Image:
        """Restore one picture."""


@dataclass(frozen=True, kw_only=True)
class FaceOptions:
    """What a caller may ask of the restoration of faces."""

    fidelity: float = 0.5
    """CodeFormer: 0 is the most beautiful face, 1 the nearest to what is there. Networks without
    such an input ignore it."""
    weight: float = 1.0
    """Share of the restored face: 0 leaves the background, 1 takes the face."""
    only_center: bool = False
    """Restore only the face that is nearest to the middle of the picture."""
    aligned: bool = False
    """Pictures are aligned crops already: nothing is detected, upscaled or pasted."""
    batch: int = BATCH
    """Faces per run of the network, at most; all that is ever held of them."""

    def __post_init__(self) -> None:
        for name in ("fidelity", "weight"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value <= 1:
                raise OptionError(f"{name} {value!r} is not in 0..1")
        if type(self.batch) is not int or self.batch < 1:
            raise OptionError(f"batch is {self.batch!r}; it must be at least 1")
        if self.aligned and self.only_center:
            raise OptionError("an aligned crop has one face: only_center has no meaning there")


@dataclass(frozen=True, kw_only=True, eq=False)
class FaceResult:
    """A picture with restored faces."""

    image: Image
    """The picture."""
    faces: tuple[Face, ...]
    """Those that were restored, in pixels of the input; of an aligned crop none are known."""
    count: int
    """How many faces were restored."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Crop:
    """One face, cut out and restored."""

    face: Face
    matrix: Matrix
    """From the input to the crop."""
    before: Image
    """uint8 BGR ``[512, 512, 3]``, cut from the input."""
    after: Image
    """The same, restored."""


class FaceRestorer:
    """Restores the faces of pictures, and the rest with an upscaler.

    Faces are found in the input, cut from it, restored in batches and pasted into what the upscaler
    made of the input.

    Args:
        model: a face network by name, the folder of its bundle, its bundle, or any
            :class:`FaceNetwork`.
        upscaler: for the rest of the picture, an ``Upscaler`` or an ensemble of them; it stays the
            caller's to close. None resizes.
        fidelity: see :class:`FaceOptions`; so too ``weight``, ``only_center``, ``aligned``,
            ``batch``.
        scale: output size over input size where there is no upscaler; None is 1.
        backend: for the face network, as for an ``Upscaler``; so too ``device``, ``engines``,
            ``threads`` and ``precision``.
        weights_dir: folder of weights, where the detector is; None takes the default.
        detector: in place of YuNet.

    Safe to call from several threads at once if the network is; those of bundles are. A context
    manager.

    Raises:
        OptionError: an option makes no sense, the model is no face network, or the upscaler is for
            anime.
        CheckpointError: the detector is not there; the message says how to get it.
        NotExportedError, BundleError, BackendError, UnknownModelError: as for an ``Upscaler``.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Bundle | FaceNetwork,
        *,
        upscaler: Background | None = None,
        fidelity: float = 0.5,
        weight: float = 1.0,
        only_center: bool = False,
        aligned: bool = False,
        batch: int = BATCH,
        scale: float | None = None,
        backend: BackendName = "auto",
        device: str = "auto",
        store: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        precision: Precision = "auto",
        weights_dir: str | os.PathLike[str] | None = None,
        detector: Detector | None = None,
    ) -> None:
        self.options = FaceOptions(
            fidelity=fidelity, weight=weight, only_center=only_center, aligned=aligned, batch=batch
        )
        self._upscaler, self._scale = upscaler, _check_scale(scale, upscaler)
        _refuse_anime(upscaler)
        self._detector = detector
        self._weights_dir, self._lock = weights_dir, threading.Lock()
        if not aligned:
            self._open_detector()  # one that is not there is an error now, not one a picture
        self._own: BundleNetwork | None = None
        if isinstance(model, str | os.PathLike | Bundle):
            self._own = BundleNetwork(
                model,
                backend=backend,
                device=device,
                store=store,
                threads=threads,
                precision=precision,
            )
        elif not callable(model):
            raise OptionError(f"model {model!r} is neither a name, a bundle nor a face network")
        self.network: FaceNetwork = self._own or model  # type: ignore[assignment]
        """The face network."""

    @property
    def scale(self) -> float:
        """Output size over input size."""
        return self._scale if self._upscaler is None else self._upscaler.scale

    def __call__(self, image: Image, *, progress: Progress | None = None) -> Image:
        """Restore one image; :meth:`detailed` also returns its faces."""
        return self.detailed(image, progress=progress).image

    def batch(
        self, images: Iterable[Image], size: int = 8, *, progress: Progress | None = None
    ) -> list[Image]:
        """Restore several images, one after another.

        Args:
            images: as for a call.
            size: has no effect; for the same signature as ``Upscaler.batch``.
            progress: called with (images done, images in all) from this thread; raising cancels.
        """
        check_count("size", size)
        return each(self, images, progress)

    def stream(self, frames: Iterable[Image], *, ahead: int = 2) -> Iterator[Image]:
        """Restore frames in order, working ahead; see ``Upscaler.stream``."""
        return stream(self, frames, ahead=ahead)

    def detailed(self, image: Image, *, progress: Progress | None = None) -> FaceResult:
        """Restore one picture and say which faces it has.

        Args:
            image: gray, BGR or BGRA, uint8, uint16 or float32, as an ``Upscaler`` takes; if aligned
                a square crop, brought to 512x512 where it is of another size.
            progress: called as (done, total), counting tiles and faces.

        Returns:
            The picture in ``scale`` times the size, or 512x512 if aligned, of the input's dtype and
            channels. Without a face it is the background. Restored faces have 8 bits of depth, in
            16-bit and float pictures too.

        Raises:
            ImageError: the array is no such picture.
            OutOfMemoryError: not even one tile, or one face, found memory.
        """
        image = np.asarray(image) if isinstance(image, np.ndarray) else image
        layout_of(image)
        if self.options.aligned:
            return self._aligned(image, progress)
        faces = self.find(image)
        count = len(faces) if self.options.weight else 0
        tiles = 0.0

        def report(done: float, total: float) -> None:
            nonlocal tiles
            tiles = total
            if progress is not None:
                progress(done, total + count)

        out = self._background(image, report)
        if count:
            ratio = (out.shape[0] / image.shape[0], out.shape[1] / image.shape[1])
            places = [PastePlace.of(to_crop(face.landmarks), *ratio) for face in faces]
            for at, crop in enumerate(self.crops(image, faces)):
                paste(out, crop.after, places, at, self.options.weight)
                if progress is not None:
                    progress(tiles + at + 1, tiles + count)
        return FaceResult(image=out, faces=faces, count=len(faces))

    def find(self, image: Image) -> tuple[Face, ...]:
        """The faces that would be restored, without restoring them."""
        layout = layout_of(image)
        faces = self._open_detector()(_colors(image))
        if faces and self.options.only_center:
            faces = (central(faces, layout.height, layout.width),)
        return faces

    def crops(self, image: Image, faces: Sequence[Face] | None = None) -> Iterator[Crop]:
        """Each face cut out and restored, one by one; a batch at a time is held.

        Args:
            image: as for :meth:`detailed`, not aligned.
            faces: of :meth:`find`; None finds them.
        """
        if faces is None:
            faces = self.find(image)
        colors = _colors(image) if len(faces) else image
        for first in range(0, len(faces), self.options.batch):
            group = faces[first : first + self.options.batch]
            matrices = [to_crop(face.landmarks) for face in group]
            before = np.stack([cut(colors, matrix) for matrix in matrices])
            after = run(self.network, before, self.options.fidelity)
            for face, matrix, one, two in zip(group, matrices, before, after, strict=True):
                yield Crop(face=face, matrix=matrix, before=one, after=two)

    def close(self) -> None:
        """Give the network back, if it was opened here; closing twice does nothing."""
        if self._own is not None:
            self._own.close()

    def __enter__(self) -> FaceRestorer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open_detector(self) -> Detector:
        with self._lock:
            if self._detector is None:
                self._detector = YuNet(self._weights_dir)
            return self._detector

    def _background(self, image: Image, progress: Progress) -> Image:
        if self._upscaler is not None:
            return self._upscaler(image, progress=progress)
        height, width = (max(round(side * self._scale), 1) for side in image.shape[:2])
        if image.ndim == 3 and image.shape[2] == 4 and (height, width) != image.shape[:2]:
            image = bleed(image)
        return resize(image, height, width)

    def _aligned(self, image: Image, progress: Progress | None) -> FaceResult:
        height, width = image.shape[:2]
        if height != width:
            raise ImageError(
                f"an aligned crop is square, as the 512x512 ones of FFHQ are; this picture is "
                f"{width}x{height}: leave 'aligned' out, and its faces are found"
            )
        if height == SIDE:
            out = image.copy()
        else:
            how = cv2.INTER_AREA if height > SIDE else cv2.INTER_LINEAR
            out = cv2.resize(image, (SIDE, SIDE), interpolation=how)
            out = out.reshape(SIDE, SIDE, *image.shape[2:])
        after = run(self.network, to_bytes(_colors(out))[None], self.options.fidelity)[0]
        blend(out, after, np.full((SIDE, SIDE), self.options.weight, np.float32))
        if progress is not None:
            progress(1, 1)
        return FaceResult(image=out, faces=(), count=1)


def _colors(image: Image) -> Image:
    """The picture without alpha, and without what lies hidden under transparent pixels."""
    if image.ndim == 3 and image.shape[2] == 4:
        return bleed(image)[:, :, :3]
    return image


def _check_scale(scale: Any, upscaler: Background | None) -> float:
    """The scale of a background without an upscaler."""
    if scale is None:
        return 1.0
    if upscaler is not None:
        raise OptionError("scale is the upscaler's: give it there")
    if not _is_number(scale) or not 0 < scale <= LARGEST_SCALE:
        raise OptionError(f"scale {scale!r} is not in 0..{LARGEST_SCALE:g}")
    return float(scale)


def _refuse_anime(upscaler: Background | None) -> None:
    """Raise OptionError for an upscaler whose pictures have no faces of people."""
    for member in getattr(upscaler, "members", ()):
        _refuse_anime(member)
    manifest = getattr(upscaler, "manifest", None)
    if isinstance(manifest, Manifest) and "anime" in f"{manifest.name} {manifest.title}".lower():
        raise OptionError(
            f"{manifest.name} is for anime, and face networks know photographs of people only: a "
            "drawn face would be replaced by a photographic one. Leave --face out, or take another "
            "model"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)

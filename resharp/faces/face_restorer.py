"""FaceRestorer: restores the faces of an image with a face network and upscales the rest."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from resharp.checks import check_int, check_number, shown
from resharp.engines import Bundle, Manifest
from resharp.errors import ImageError, OptionError
from resharp.faces.alignment import SIDE, Matrix, cut, to_bytes, to_crop
from resharp.faces.detection import Detector, Face, YuNet, central
from resharp.faces.network import BundleNetwork, FaceNetwork, run
from resharp.faces.paste import PastePlace, blend, paste
from resharp.opencv import cv2
from resharp.runtime.imaging.alpha import bleed
from resharp.runtime.imaging.layout import layout_of
from resharp.runtime.imaging.resize import resize
from resharp.runtime.streaming import OneByOne
from resharp.runtime.upscaler import LARGEST_SCALE
from resharp.types import BackendName, Image, Precision, Progress

BATCH = 4
"""Default number of faces per run of the network."""


class Background(Protocol):
    """Interface of the restorer for the rest of an image, e.g. an ``Upscaler`` or ``Ensemble``."""

    @property
    def scale(self) -> float:
        """Output size over input size."""

    def __call__(self, image: Image, *, progress: Progress | None = None) -> Image:
        """Restore one image."""


@dataclass(frozen=True, kw_only=True)
class FaceOptions:
    """Options of a face restorer."""

    fidelity: float = 0.5
    """CodeFormer only: 0 is the best-looking face, 1 the closest to the input. Networks without
    this input ignore it."""
    weight: float = 1.0
    """Fraction of the restored face in the result: 0 keeps the background, 1 takes the face."""
    only_center: bool = False
    """Restore only the face nearest to the center of the image."""
    aligned: bool = False
    """Images are aligned crops of one face: nothing is detected, upscaled or pasted."""
    batch: int = BATCH
    """Most faces per run of the network, and most that are held in memory."""

    def __post_init__(self) -> None:
        # `weight` has another name where most users set it: RestoreConfig(face_weight=...)
        for name, words in (("fidelity", "fidelity"), ("weight", "the weight of faces")):
            check_number(words, getattr(self, name), 0, 1)
        check_int("batch", self.batch)
        if self.aligned and self.only_center:
            raise OptionError("`aligned` images have one face each: leave out `only_center`")


@dataclass(frozen=True, kw_only=True, eq=False)
class FaceResult:
    """An image with restored faces."""

    image: Image
    """The restored image."""
    faces: tuple[Face, ...]
    """The restored faces, in pixels of the input; empty for an aligned crop."""
    count: int
    """Number of restored faces."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Crop:
    """A face, cut out and restored."""

    face: Face
    matrix: Matrix
    """Map from the input to the crop."""
    before: Image
    """Crop of the input, uint8 BGR ``[512, 512, 3]``."""
    after: Image
    """The restored crop, of the same shape and dtype."""


class FaceRestorer(OneByOne):
    """Restores the faces of images, and the rest with an upscaler.

    Faces are detected in the input, cut out, restored in batches and pasted into the upscaled
    image.

    Args:
        model: name of a face network, a bundle or its folder, or any :class:`FaceNetwork`.
        upscaler: ``Upscaler`` or ``Ensemble`` for the rest of the image, which the caller closes;
            None resizes.
        fidelity: CodeFormer only: 0 is the best-looking face, 1 the closest to the input.
        weight: fraction of the restored face in the result, 0..1.
        only_center: restore only the face nearest to the center of the image.
        aligned: images are aligned crops of one face: nothing is detected, upscaled or pasted.
        batch: most faces per run of the network.
        scale: output size over input size if there is no upscaler; None is 1.
        backend: backend of the face network, as for an ``Upscaler``.
        device: device of the face network, as for an ``Upscaler``.
        store: folder of the bundles; None is the default.
        threads: CPU threads per run; None leaves it to the library.
        precision: precision of the face network, as for an ``Upscaler``.
        weights_dir: folder of checkpoints, for the face detector; None is the default.
        detector: face detector to use instead of YuNet.

    Safe to call from several threads at once if the network is; networks of bundles are. A context
    manager.

    Raises:
        OptionError: an option is invalid, the model is not a face network, or the upscaler is for
            anime.
        CheckpointError: the detector's file is missing; the message says how to get it.
        ChecksumError: the detector's file is damaged.
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
            self._open_detector()  # fails now if its file is missing, not once per image
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
            raise OptionError(
                f"`model` must be a name, a bundle or a face network, got {shown(model)}"
            )
        self.network: FaceNetwork = self._own or model  # type: ignore[assignment]
        """The face network."""

    @property
    def scale(self) -> float:
        """Output size over input size."""
        return self._scale if self._upscaler is None else self._upscaler.scale

    def __call__(self, image: Image, *, progress: Progress | None = None) -> Image:
        """Restore one image; :meth:`detailed` also returns its faces."""
        return self.detailed(image, progress=progress).image

    def detailed(self, image: Image, *, progress: Progress | None = None) -> FaceResult:
        """Restore one image, and return its faces too.

        Args:
            image: gray, BGR or BGRA of uint8, uint16 or float32, as for an ``Upscaler``; a square
                crop if aligned, which is resized to 512x512.
            progress: called with (tiles and faces done, tiles and faces in all) from this thread;
                raising cancels.

        Returns:
            The image at ``scale`` times the size, or at 512x512 if aligned, with the input's dtype
            and channels. Without faces it is the upscaled input. Restored faces have 8 bits of
            depth, even in 16-bit and float images.

        Raises:
            ImageError: the array is not such an image.
            OutOfMemoryError: not even one tile or one face fits in memory.
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
        if progress is not None and not tiles and not count:  # nothing has reported
            progress(1, 1)
        return FaceResult(image=out, faces=faces, count=len(faces))

    def find(self, image: Image) -> tuple[Face, ...]:
        """Return the faces that would be restored, without restoring them."""
        layout = layout_of(image)
        faces = self._open_detector()(_colors(image))
        if faces and self.options.only_center:
            faces = (central(faces, layout.height, layout.width),)
        return faces

    def crops(self, image: Image, faces: Sequence[Face] | None = None) -> Iterator[Crop]:
        """Yield each face, cut out and restored; only one batch is held in memory.

        Args:
            image: as for :meth:`detailed`, but not aligned.
            faces: result of :meth:`find`; None finds them.
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
        """Close the face network if it was opened here; closing twice does nothing."""
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
                "`aligned` images must be square, as FFHQ's 512x512 crops are, got "
                f"{width}x{height}: leave out `aligned` to detect faces in any image"
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
    """Return the image without alpha and without colors hidden under transparent pixels."""
    if image.ndim == 3 and image.shape[2] == 4:
        return bleed(image)[:, :, :3]
    return image


def _check_scale(scale: Any, upscaler: Background | None) -> float:
    """Return the scale to use without an upscaler."""
    if scale is None:
        return 1.0
    if upscaler is not None:
        raise OptionError(
            "`scale` cannot be combined with `upscaler`: set the scale of the upscaler instead"
        )
    return check_number("scale", scale, 0, LARGEST_SCALE, above=True)


def _refuse_anime(upscaler: Background | None) -> None:
    """Raise OptionError for an upscaler that is for anime."""
    for member in getattr(upscaler, "members", ()):
        _refuse_anime(member)
    manifest = getattr(upscaler, "manifest", None)
    if isinstance(manifest, Manifest) and "anime" in f"{manifest.name} {manifest.title}".lower():
        raise OptionError(
            f"{manifest.name} is for anime, and face networks know only photos of people: they "
            "would replace drawn faces with photographic ones. Leave out `face`, or upscale with a "
            "model for photos."
        )

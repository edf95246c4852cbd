"""What is to become of pictures, as data: model, scale, views, faces; and what does it.

Folders and video are restored by it, here or on another machine: a recipe can be sent there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from resharp.engines import Manifest
from resharp.errors import OptionError
from resharp.faces import BundleNetwork, FaceOptions, FaceRestorer
from resharp.runtime.bundle_lookup import resolve
from resharp.runtime.ensemble import Ensemble
from resharp.runtime.settings import Settings
from resharp.runtime.upscaler import Upscaler
from resharp.types import Image, Progress


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is to become of pictures.

    Raises:
        OptionError: it makes no sense, seen before anything is opened.
    """

    settings: Settings = field(default_factory=Settings)
    """Of the upscaler."""
    views: int = 1
    """Flips and turns of each picture to take the mean over: 1, 2, 4 or 8."""
    face: str | None = None
    """Face network, by name; None leaves faces to the upscaler."""
    fidelity: float | None = None
    """See :class:`FaceOptions`; so too the next three. None is its default."""
    face_weight: float | None = None
    only_center: bool = False
    aligned: bool = False
    weights: str | None = None
    """Folder of weights, where the face detector is; None takes the default."""

    def __post_init__(self) -> None:
        if self.face is not None:
            _ = self.faces  # refuses values that make no sense
        else:
            for name in ("fidelity", "face_weight", "only_center", "aligned", "weights"):
                if getattr(self, name) not in (None, False):
                    option = name.replace("_", "-")
                    raise OptionError(f"--{option} is about faces: give --face gfpgan-1.4, say")
        if self.aligned and self.settings.scale is not None:
            raise OptionError("--aligned gives 512x512 faces: leave --scale out")
        if self.aligned and self.views != 1:
            raise OptionError("--aligned upscales nothing: leave --views out")

    @property
    def faces(self) -> FaceOptions:
        """As the restorer of faces takes them."""
        return FaceOptions(
            fidelity=0.5 if self.fidelity is None else self.fidelity,
            weight=1.0 if self.face_weight is None else self.face_weight,
            only_center=self.only_center,
            aligned=self.aligned,
        )

    def on(self, **settings: Any) -> Recipe:
        """The same with other settings: another device or fewer threads, say."""
        return replace(self, settings=replace(self.settings, **settings))

    def key(self) -> str:
        """As :attr:`Restorer.key`, from the manifests alone: nothing is opened.

        Raises:
            ResharpError: a model cannot be found.
        """
        settings, found = self.settings, []
        if not self.aligned:
            bundle = resolve(settings.model, engines=settings.engines, denoise=settings.denoise)
            found.append(bundle.manifest)
        if self.face is not None:
            found.append(resolve(self.face, engines=settings.engines).manifest)
        return self.key_of(found)

    def key_of(self, manifests: Sequence[Manifest]) -> str:
        """Hash of all that decides the pixels of a result, with the models of these manifests."""
        settings = self.settings
        own = 1.0 if self.aligned else float(manifests[0].scale)
        parts: dict[str, Any] = {
            "models": [
                {"name": m.name, "graph": m.graphs["uint8"].sha256, "weights": m.weights.sha256}
                for m in manifests
            ],
            "scale": float(settings.scale or own),
            "denoise": settings.denoise,
            "precision": settings.precision,
            "views": self.views,
            "faces": None if self.face is None else asdict(self.faces),
        }
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def open(self) -> Restorer:
        """What does it, ready to run; the caller closes it.

        Raises:
            ResharpError: as :class:`~resharp.Upscaler` and :class:`~resharp.FaceRestorer`.
        """
        return Restorer(self)


class Restorer:
    """A recipe, opened: an upscaler, a restorer of faces, or one over the other.

    Safe to call from several threads at once. A context manager.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.upscaler: Upscaler | None = None
        """None where pictures are aligned faces."""
        self.network: BundleNetwork | None = None
        """None where no faces are restored."""
        self._background: Upscaler | Ensemble | None = None
        self._faces: FaceRestorer | None = None
        with ExitStack() as stack:
            self._open(stack)
            self._stack = stack.pop_all()

    def _open(self, stack: ExitStack) -> None:
        recipe = self.recipe
        if not recipe.aligned:
            self.upscaler = self._background = stack.enter_context(recipe.settings.open())
            if recipe.views > 1:
                self._background = Ensemble([self.upscaler], views=recipe.views)
        if recipe.face is None:
            return
        settings = recipe.settings
        self._faces = stack.enter_context(
            FaceRestorer(
                recipe.face,
                upscaler=self._background,
                weights=recipe.weights,
                backend=settings.backend,
                device=settings.device,
                engines=settings.engines,
                threads=settings.threads,
                precision=settings.precision,
                **asdict(recipe.faces),
            )
        )
        assert isinstance(self._faces.network, BundleNetwork)
        self.network = self._faces.network
        if recipe.fidelity is not None and not self.network.has_fidelity:
            name = self.network.manifest.name
            raise OptionError(f"{name} has no --fidelity: leave it out, or take --face codeformer")

    def __call__(self, image: Image, progress: Progress | None = None) -> tuple[Image, int | None]:
        """The restored picture, and how many faces of it were restored; None without faces.

        Args:
            image: as an :class:`~resharp.Upscaler` takes.
            progress: called as (tiles done, tiles in all) from this thread; raising cancels.

        Raises:
            ResharpError: see :class:`~resharp.Upscaler`.
        """
        if self._faces is not None:
            restored = self._faces.restore(image, progress=progress)
            return restored.image, restored.count
        assert self._background is not None
        return self._background(image, progress=progress), None

    def many(self, images: Sequence[Image]) -> list[Image]:
        """Restore pictures of one shape and dtype, in one run of the network where that pays."""
        if len(images) > 1 and self._background is self.upscaler and self._faces is None:
            assert self.upscaler is not None
            return self.upscaler.restore_many(images, len(images))
        return [self(image)[0] for image in images]

    def batch(self, height: int, width: int) -> int:
        """Pictures of that size that :meth:`many` should be given to fill the device."""
        if self._faces is not None or self.upscaler is None or self.recipe.views > 1:
            return 1
        return self.upscaler.batch_for(height, width)

    @property
    def scale(self) -> float:
        """Output size over input size."""
        return 1.0 if self.upscaler is None else self.upscaler.scale

    @property
    def threads(self) -> int:
        """Threads that may call it at once with profit."""
        return 1 if self.upscaler is None else self.upscaler.workers

    @property
    def key(self) -> str:
        """Hash of all that decides the pixels of a result, the device and the tile aside."""
        used = [one.manifest for one in (self.upscaler, self.network) if one is not None]
        return self.recipe.key_of(used)

    @property
    def tile(self) -> int | None:
        """Largest side of a tile that it would use now; None where nothing is tiled."""
        return None if self.upscaler is None else self.upscaler.tile

    def keep_tile(self, tile: int | None) -> None:
        """See :meth:`Upscaler.keep_tile`."""
        if self.upscaler is not None and tile is not None:
            self.upscaler.keep_tile(tile)

    @property
    def place(self) -> str:
        """Where it runs, as in ``onnx on cpu``: what may change a pixel by a level."""
        used = self.upscaler or self.network
        return "" if used is None else f"{used.backend} on {used.device.partition(':')[0]}"

    @property
    def description(self) -> str:
        """Models, backends and devices, for people."""
        used = [one for one in (self.upscaler, self.network) if one is not None]
        return ", ".join(f"{u.manifest.name} with {u.backend} on {u.device}" for u in used)

    def close(self) -> None:
        """Give every resource back; closing twice does nothing."""
        self._stack.close()

    def __enter__(self) -> Restorer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def plain_path(path: str | os.PathLike[str] | None) -> str | None:
    """A path as text, as recipes hold it."""
    return None if path is None else os.fspath(path)

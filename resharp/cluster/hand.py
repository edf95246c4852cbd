"""What runs on the machines of a cluster: a restorer, and the units of work that it is given."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from resharp.faces import BundleNetwork
from resharp.images import decode, encode, load
from resharp.runtime import Upscaler
from resharp.runtime.folders.report import Used
from resharp.runtime.folders.work import Encoded
from resharp.runtime.recipe import Recipe, Restorer
from resharp.video.render import Renderer, Rendering
from resharp.video.resume import Segment
from resharp.video.run import restored
from resharp.video.timeline import Position


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a restorer that is elsewhere; see :class:`Restorer`."""

    scale: float
    key: str
    place: str
    tile: int | None
    description: str
    used: tuple[Used | None, Used | None]
    """The upscaler, and the face network."""


def facts_of(recipe: Recipe) -> Facts:
    """Open a recipe, look at it, and close it.

    Raises:
        ResharpError: see :meth:`Recipe.open`.
    """
    with recipe.open() as restorer:
        return Facts(
            scale=restorer.scale,
            key=restorer.key,
            place=restorer.place,
            tile=restorer.tile,
            description=restorer.description,
            used=(_used(restorer.upscaler), _used(restorer.network)),
        )


def _used(one: Upscaler | BundleNetwork | None) -> Used | None:
    if one is None:
        return None
    return Used(model=one.manifest.name, backend=one.backend, device=one.device)


class Hand:
    """A restorer on one device of the cluster."""

    def __init__(self, recipe: Recipe) -> None:
        self._restorer: Restorer = recipe.open()

    def pid(self) -> int:
        """Its process."""
        return os.getpid()

    def picture(self, source: Path, suffix: str, quality: int | None) -> tuple[str, Encoded]:
        """Make a picture.

        Args:
            source: file to read.
            suffix: of the file that it becomes.
            quality: of its encoder.

        Returns:
            SHA-256 of the input's bytes, and the result.

        Raises:
            ResharpError: it cannot be made.
        """
        data = load(source)
        picture = decode(data, str(source))
        out, faces = self._restorer(picture.pixels)
        made, notes = encode(out, picture.metadata, format=suffix, quality=quality)
        height, width = out.shape[:2]
        return hashlib.sha256(data).hexdigest(), Encoded(
            data=made, notes=notes, height=height, width=width, faces=faces
        )

    def segment(
        self, what: Rendering, place: Position, stop: int
    ) -> tuple[list[Segment], list[bytes]]:
        """Make a segment of a video.

        Args:
            what: is made; its folder is not used, for segments go back as bytes.
            place: where the segment begins.
            stop: number of the frame that it ends before.

        Returns:
            The segment and the bytes of its file; nothing where the video ends before it.

        Raises:
            ResharpError: it cannot be made.
        """
        made: list[Segment] = []
        restorer, clip = self._restorer, what.clip
        with tempfile.TemporaryDirectory(prefix="resharp-") as folder:
            here = replace(what, folder=Path(folder))
            calls = [partial(restored, restorer)] * restorer.threads
            batch = restorer.batch(clip.height, clip.width)
            Renderer(here, calls, batch, made.append).run(place, stop)
            return made, [
                b"" if one.file is None else (here.folder / one.file).read_bytes() for one in made
            ]

"""Code that runs on the machines of a cluster: a restorer and its units of work."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from resharp.folders.stages import encode_file
from resharp.folders.task import EncodedFile
from resharp.fsutil import sha256_of
from resharp.images import check_result, decode, header, load
from resharp.pipeline.restorer import RestoreConfig, RestorerInfo
from resharp.video.render import Renderer, Rendering
from resharp.video.resume import Segment
from resharp.video.run import restored
from resharp.video.timeline import Position


def probe_worker(config: RestoreConfig) -> RestorerInfo:
    """Open a config, collect its facts, and close it.

    Raises:
        ResharpError: as for :class:`Restorer`.
    """
    with config.open() as restorer:
        return restorer.info


class RestoreWorker:
    """A restorer on one device of the cluster."""

    def __init__(self, config: RestoreConfig) -> None:
        self._restorer = config.open()

    def pid(self) -> int:
        """Return the id of its process."""
        return os.getpid()

    def picture(
        self,
        source: Path,
        suffix: str,
        quality: int | None,
        max_pixels: int | None,
        allow_truncated: bool,
    ) -> tuple[str, EncodedFile]:
        """Restore an image.

        Args:
            source: file to read.
            suffix: file extension of the result, with the dot.
            quality: quality of the encoder; None is the format's default.
            max_pixels: most pixels that the image may have; None is the default.
            allow_truncated: restore the readable part of a truncated file.

        Returns:
            SHA-256 of the input's bytes, and the encoded result.

        Raises:
            ResharpError: the image cannot be read, restored or encoded.
        """
        data = load(source, max_pixels=max_pixels)
        size = header(data, str(source))
        check_result(suffix, size.height, size.width, self._restorer.info.scale)
        picture = decode(data, str(source), max_pixels=max_pixels, allow_truncated=allow_truncated)
        pixels, faces = self._restorer.with_count(picture.pixels)
        made = encode_file(pixels, picture.metadata, faces, suffix, quality)
        return sha256_of(data), made

    def segment(
        self, what: Rendering, place: Position, stop: int
    ) -> tuple[list[Segment], list[bytes]]:
        """Restore a segment of a video.

        Args:
            what: the rendering; its folder is not used, since segments are returned as bytes.
            place: where the segment begins.
            stop: number of the first frame after the segment.

        Returns:
            The segment and the bytes of its file; both empty if the video ends before it.

        Raises:
            ResharpError: the segment cannot be read, restored or encoded.
        """
        made: list[Segment] = []
        restorer, clip = self._restorer, what.clip
        with tempfile.TemporaryDirectory(prefix="resharp-") as folder:
            here = replace(what, folder=Path(folder))
            calls = [partial(restored, restorer)] * restorer.threads
            batch = restorer.batch_for(clip.height, clip.width)
            Renderer(here, calls, batch, made.append).run(place, stop)
            return made, [
                b"" if one.file is None else (here.folder / one.file).read_bytes() for one in made
            ]

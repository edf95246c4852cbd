"""The second checkpoint of a model with denoise strengths, and the parity check of their blend.

A strength is blended later without PyTorch, by putting new weights under the existing graphs
(``engines/blend.py``). That is correct only if every weight is in the file that the graphs point
to, so one strength is blended here and compared with PyTorch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from resharp import models
from resharp.engines import Bundle, DniPartner, Manifest
from resharp.engines.blend import write_blend
from resharp.engines.store import named
from resharp.errors import BundleError, ParityError
from resharp.export import parity
from resharp.export.measure import overlap
from resharp.export.sources import Part
from resharp.types import Array, Log

STRENGTH = 0.5
"""Strength that is compared with PyTorch."""
EDGE = 0.0
"""Strength at which the overlap is measured again; the larger one is used for all strengths."""


def with_dni_partner(
    manifest: Manifest,
    checkpoint: models.Checkpoint,
    twin: Part,
    folder: Path,
    picture: Array | None = None,
    log: Log = lambda line: None,
) -> Manifest:
    """Add the second checkpoint's weights to a bundle that is being written.

    Args:
        manifest: manifest of the bundle so far.
        checkpoint: the model's own checkpoint.
        twin: checkpoint to blend it with.
        folder: folder of the bundle's files.
        picture: uint8 BGR photo to measure the overlap on; None draws one.
        log: called with a line if the blend fails the check; the bundle then has no strengths.

    Returns:
        The manifest with the second checkpoint, or as it was if the blend fails the check.

    Raises:
        CheckpointError: the second checkpoint cannot be used, or belongs to another network.
    """
    other = models.read_checkpoint(
        twin.path, architecture=twin.architecture, parameters=checkpoint.parameters
    )
    mixed = models.blend([(checkpoint, STRENGTH), (other, 1 - STRENGTH)])
    path = folder / "twin.safetensors"
    models.save_safetensors(other, path)
    found = DniPartner(weights=named(path, "twin"), source=twin.source)
    bundle = Bundle(folder, replace(manifest, twin=found))
    try:
        with _graphs(bundle, STRENGTH) as infer:
            parity.check_graphs(mixed, models.build(mixed), infer)
        with _graphs(bundle, EDGE) as infer:
            curve = overlap.measure(infer["float32"], picture, manifest.size_multiple)
    except (ParityError, BundleError) as error:
        failed = f"blending with {twin.source.name} failed"
        log(f"{manifest.name} is stored without denoise strengths, because {failed}: {error}")
        return manifest
    return replace(bundle.manifest, overlap=max(manifest.overlap, overlap.choose(curve)))


@contextmanager
def _graphs(bundle: Bundle, strength: float) -> Iterator[dict[str, parity.Infer]]:
    """Yield the graphs of one strength in onnxruntime, by dtype."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        _, graphs = write_blend(bundle, strength, folder)
        yield {dtype: parity.in_onnxruntime(folder / file.name) for dtype, file in graphs.items()}

"""The second checkpoint of a model with denoise strengths, behind a gate of its own.

A strength is made later without PyTorch, by new weights under old graphs (``engines/blend.py``).
That is right only where every weight is in the file that the graphs point into, so one strength is
made here and held against PyTorch.
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
"""Compared with PyTorch."""
EDGE = 0.0
"""The overlap is measured here too: the larger one is for all strengths."""


def with_dni_partner(
    manifest: Manifest,
    checkpoint: models.Checkpoint,
    twin: Part,
    folder: Path,
    picture: Array | None = None,
    log: Log = lambda line: None,
) -> Manifest:
    """Add the twin's weights to a bundle that is being written.

    Args:
        manifest: of the bundle so far.
        checkpoint: the model's own.
        twin: what to mix it with.
        folder: of the files.
        picture: see :func:`overlap.measure`; None draws one.
        log: told if the mix fails the gate: the bundle then has no strengths.

    Returns:
        The manifest with the twin.

    Raises:
        CheckpointError: the twin is another network.
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
        log(f"{manifest.name} is stored without {twin.source.name}: {error}")
        return manifest
    return replace(bundle.manifest, overlap=max(manifest.overlap, overlap.choose(curve)))


@contextmanager
def _graphs(bundle: Bundle, strength: float) -> Iterator[dict[str, parity.Infer]]:
    """Those of one strength, by dtype."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        _, graphs = write_blend(bundle, strength, folder)
        yield {dtype: parity.in_onnxruntime(folder / file.name) for dtype, file in graphs.items()}

"""The second checkpoint of a model with denoise strengths, behind a gate of its own.

A strength is made later without PyTorch, by new weights under old graphs (``engines/blend.py``).
That is right only where every weight is in the file that the graphs point into, so one strength is
made here and held against PyTorch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import nn

from resharp import models
from resharp.engines import Bundle, DniPartner, GraphParity, Manifest
from resharp.engines.blend import write_blend
from resharp.engines.store import named
from resharp.errors import BundleError, ParityError
from resharp.export import parity
from resharp.export.infer import Infer, in_onnxruntime, in_torch
from resharp.export.measure import overlap
from resharp.export.sources import Part
from resharp.types import Log

STRENGTH = 0.5
"""Compared with PyTorch."""
EDGE = 0.0
"""The overlap is measured here too: the larger one is for all strengths."""


def with_dni_partner(
    manifest: Manifest,
    checkpoint: models.Checkpoint,
    twin: Part,
    folder: Path,
    picture: NDArray[Any] | None = None,
    notice: Log = lambda line: None,
) -> Manifest:
    """Add the twin's weights to a bundle that is being written.

    Args:
        manifest: of the bundle so far.
        checkpoint: the model's own.
        twin: what to mix it with.
        folder: of the files.
        picture: see :func:`overlap.measure`; None draws one.
        notice: told if the mix fails the gate: the bundle is then one without strengths.

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
        _compare(bundle, mixed)
        most = max(manifest.overlap, _overlap(bundle, picture, manifest.size_multiple))
    except (ParityError, BundleError) as error:
        notice(f"{manifest.name} is stored without {twin.source.name}: {error}")
        return manifest
    return replace(bundle.manifest, overlap=most)


def _compare(bundle: Bundle, mixed: models.Checkpoint) -> GraphParity:
    network = models.build(mixed)
    modules: Mapping[str, nn.Module] = {
        dtype: models.for_pictures(network, mixed.facts, dtype) for dtype in ("uint8", "float32")
    }
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        graphs = _at(bundle, STRENGTH, Path(folder))
        return parity.compare(
            in_torch(modules["uint8"]),
            in_torch(modules["float32"]),
            graphs["uint8"],
            graphs["float32"],
        )


def _overlap(bundle: Bundle, picture: NDArray[Any] | None, multiple: int) -> int:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        infer = _at(bundle, EDGE, Path(folder))["float32"]
        return overlap.choose(overlap.measure(infer, picture, multiple))


def _at(bundle: Bundle, strength: float, folder: Path) -> dict[str, Infer]:
    _, graphs = write_blend(bundle, strength, folder)
    return {dtype: in_onnxruntime(folder / file.name) for dtype, file in graphs.items()}

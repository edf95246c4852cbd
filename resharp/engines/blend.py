"""Bundles at any denoise strength, mixed from a bundle that also holds its twin's weights.

Deep network interpolation (see ``models/interpolate.py``) without PyTorch and without tracing: the
graphs refer to a separate weights file, so another strength needs only another weights file and
the same graphs referring to it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resharp.engines.bundle import Bundle
from resharp.engines.manifest import File, Manifest, Source
from resharp.engines.store import Store, named, named_strength, variant_name
from resharp.errors import BundleError, NotExportedError, OutputError


def blended(bundle: Bundle, strength: float, store: Store) -> Bundle:
    """Return the bundle for one strength, creating it in the store if needed (under 0.1 s).

    Args:
        bundle: bundle of the model, including its twin.
        strength: 0 is the twin, 1 is the model.
        store: store that keeps the result, so that engines are built once per strength.

    Raises:
        OptionError: the strength is not in 0..1.
        BundleError: the bundle has no twin, or its files are damaged.
        OutputError: the store cannot be written.
    """
    name = variant_name(bundle.manifest.name, strength)
    strength = named_strength(strength)
    if name == bundle.manifest.name:
        return bundle
    sources = _sources(bundle, strength)
    there = _there(store, name, sources)
    if there is not None:
        return there
    with store.writing(name) as draft:
        there = _there(store, name, sources)
        if there is not None:
            return there
        bundle.verify()
        try:
            weights, graphs = write_blend(bundle, strength, draft.folder)
        except OSError as error:
            raise OutputError(f"cannot write to {store.folder}: {error}") from error
        made = replace(
            bundle.manifest, name=name, weights=weights, graphs=graphs, sources=sources, twin=None
        )
        return draft.commit(made)


def write_blend(bundle: Bundle, strength: float, folder: Path) -> tuple[File, dict[str, File]]:
    """Write the weights for a strength, and the graphs that refer to them, to a folder.

    Raises:
        BundleError: the bundle has no twin, or its files do not match.
    """
    manifest = bundle.manifest
    own, other = (_tensors(bundle.path(file)) for file in (manifest.weights, _twin(manifest)))
    if own[0] != other[0] or own[1].size != other[1].size:
        raise BundleError(f"{bundle.folder}: the twin's weights have a different layout")
    mean = own[1].astype(np.float64) * strength + other[1].astype(np.float64) * (1 - strength)
    path = folder / "blended.safetensors"
    path.write_bytes(own[0] + mean.astype("<f4").tobytes())
    weights = named(path, "weights")
    graphs = {}
    for dtype, file in manifest.graphs.items():
        before, after = manifest.weights.name.encode(), weights.name.encode()
        data = bundle.path(file).read_bytes()
        if len(before) != len(after) or before not in data:
            raise BundleError(f"{bundle.path(file)} does not refer to {manifest.weights.name}")
        path = folder / f"{dtype}.onnx"
        path.write_bytes(data.replace(before, after))  # same length, so no other byte moves
        graphs[dtype] = named(path, f"graph-{dtype}")
    return weights, graphs


def _twin(manifest: Manifest) -> File:
    if manifest.twin is None:
        raise BundleError(
            f"{manifest.name} was exported without its twin: run 'resharp export {manifest.name}'"
        )
    return manifest.twin.weights


def _sources(bundle: Bundle, strength: float) -> tuple[Source, ...]:
    """Return the sources that an export at this strength would record."""
    _twin(bundle.manifest)
    assert bundle.manifest.twin is not None
    (own,), other = bundle.manifest.sources, bundle.manifest.twin.source
    if not strength:
        return (replace(other, weight=1.0),)
    return replace(own, weight=strength), replace(other, weight=1 - strength)


def _there(store: Store, name: str, sources: tuple[Source, ...]) -> Bundle | None:
    """Return the bundle created earlier from the same checkpoints, if any."""
    try:
        found = store.find(name)
    except (NotExportedError, BundleError):
        return None
    return found if found.manifest.sources == sources else None


def _tensors(path: Path) -> tuple[bytes, NDArray[np.float32]]:
    """Return the header of a safetensors file, and the data after it as float32."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    if start > len(data) or (len(data) - start) % 4:
        raise BundleError(f"{path} is damaged: it does not hold whole float32 tensors")
    return data[:start], np.frombuffer(data, "<f4", offset=start)

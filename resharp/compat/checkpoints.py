"""Bundles for upstream's ``model_path``; a checkpoint is exported into the store on first use.

torch is not imported for a checkpoint that has been exported, unless a network is passed for
comparison.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resharp import weights
from resharp.checks import shown
from resharp.engines import Bundle, Source, Store, variant_name
from resharp.errors import BundleError, CheckpointError, NotExportedError, OptionError
from resharp.fsutil import sha256_of
from resharp.optional import require
from resharp.paths import as_path, store_folder, weights_folder
from resharp.runtime.bundle_lookup import WEIGHTS, builtin_store, resolve
from resharp.weights import ModelEntry, kebab

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

ModelPath = str | os.PathLike[str] | Bundle | Sequence[str | os.PathLike[str]]

TOLERANCE = 1e-6
"""Maximum deviation of the sum of ``dni_weight`` from 1."""
SHOWN = 3
"""Number of mismatched tensors that an error message names."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One checkpoint of a model."""

    path: Path
    sha256: str
    share: float
    official: ModelEntry | None
    """The catalog entry with this hash; None if there is none."""


def bundle_for(
    model_path: ModelPath,
    dni_weight: Sequence[float] | None = None,
    model: nn.Module | None = None,
) -> Bundle:
    """Return the bundle of a checkpoint or of a mix of two; see ``RealESRGANer``.

    Raises:
        OptionError: ``dni_weight`` is missing or does not sum to 1, an address has no hash, or
            ``model`` does not match the weights.
        CheckpointError: a file is missing or is not a checkpoint, or two cannot be mixed.
        MissingExtraError: the model must be exported, and the extra ``export`` is not installed.
        DownloadError, ChecksumError: the download failed, or the file has another hash.
        UnknownModelError: there is no model of that name.
    """
    if isinstance(model_path, Bundle):
        bundle = model_path
    elif isinstance(model_path, str | os.PathLike):
        if dni_weight is not None:
            raise OptionError("`dni_weight` mixes two files: pass a list of two as `model_path`")
        text = os.fspath(model_path)
        bundle = named(text) if _is_name(text) else _of_files([(text, 1.0)], model)
    elif not isinstance(model_path, Sequence):
        raise OptionError(
            f"`model_path` must be a file, name or list of two, got {shown(model_path)}"
        )
    else:
        bundle = _of_files(_shares(model_path, dni_weight), model)
    if model is not None:
        _check_model(model, bundle)
    return bundle


def named(name: str, denoise: float | None = None) -> Bundle:
    """Return the bundle of a model of the catalog or the store, exporting it if necessary."""
    try:
        return resolve(name, denoise=denoise)
    except NotExportedError:
        _require_export()
        from resharp.export import ExportOptions, export

        bundle = export(name, ExportOptions(), log=logger.info)
        if denoise in (None, 1):
            return bundle
    try:
        return resolve(name, denoise=denoise)  # blended from both, without another export
    except NotExportedError:  # the second checkpoint could not be fetched
        return export(name, ExportOptions(denoise=denoise), log=logger.info)


def _is_name(text: str) -> bool:
    """Return whether it is the name of a model or the folder of a bundle."""
    if os.path.exists(text):
        return os.path.isdir(text)
    return Path(text).name == text and not text.lower().endswith(WEIGHTS)


def _shares(
    paths: Sequence[str | os.PathLike[str]], dni_weight: Sequence[float] | None
) -> list[tuple[str, float]]:
    shares = [] if dni_weight is None else [float(share) for share in dni_weight]
    if len(paths) != 2 or len(shares) != 2:
        raise OptionError(
            f"a mix requires two checkpoints and two values of `dni_weight`, got {len(paths)} and "
            f"{len(shares)}"
        )
    if not abs(sum(shares) - 1) <= TOLERANCE:
        raise OptionError(f"`dni_weight` must sum to 1, got {sum(shares):g}")
    return [(os.fspath(path), share) for path, share in zip(paths, shares, strict=True)]


def _of_files(shares: Sequence[tuple[str, float]], model: nn.Module | None) -> Bundle:
    parts = [_part(text, share) for text, share in shares if share]
    if len(parts) == 1:
        for shipped in builtin_store().bundles()[0]:
            if shipped.manifest.weights.sha256 == parts[0].sha256:
                return resolve(shipped.manifest.name)
    hidden = _hidden_parameters(model)
    name = _name(parts, hidden)
    return _stored(name, parts) or _export(name, parts, hidden)


def _part(text: str, share: float) -> _Part:
    path = (
        _fetched(text)
        if text.startswith(("https://", "http://"))
        else as_path(text, "`model_path`", "a file")
    )
    if not os.path.exists(path):
        entry = weights.lookup(path.name)
        hint = f": pass {entry.urls[0]} to download it" if entry and entry.urls else ""
        raise CheckpointError(f"no such file: {path}{hint}")
    try:
        sha256 = sha256_of(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    known = [entry for entry in weights.catalogue().values() if entry.sha256 == sha256]
    return _Part(path=path, sha256=sha256, share=share, official=known[0] if known else None)


def _fetched(address: str) -> Path:
    """Download a checkpoint of the catalog, or one whose hash is in the address."""
    url, _, fragment = address.partition("#")
    sha256 = fragment.removeprefix("sha256=") or None
    for entry in weights.catalogue().values():
        if url in entry.urls:
            return weights.fetch(entry, sha256=sha256, progress=True)
    if sha256 is None:
        raise OptionError(
            f"the hash of {url} is unknown, so the download cannot be verified: pass "
            f"{url}#sha256=HASH, or download the file and pass its path"
        )
    file = url.rpartition("/")[2]
    try:
        entry = ModelEntry(
            name=kebab(file),
            title=url,
            task="upscale",
            architecture="unknown",
            parameters={},
            scale=1,
            file=file,
            urls=(url,),
        )
    except ValueError as error:
        raise OptionError(f"{url} does not end with a file name: {error}") from error
    folder = weights_folder() / "url" / sha256_of(url.encode())[:16]
    return weights.fetch(entry, folder, sha256=sha256, progress=True)


def _name(parts: Sequence[_Part], hidden: dict[str, str]) -> str:
    """Return the bundle's name: the official one, or one with a hash of its inputs."""
    first = parts[0].official
    if first is not None and not hidden:
        if len(parts) == 1:
            return first.name
        second = parts[1].official
        if second is not None and second.name == first.blend and 0 < parts[0].share < 1:
            return variant_name(first.name, parts[0].share)
    recipe = [f"{part.sha256} {part.share!r}" for part in parts] + [str(sorted(hidden.items()))]
    key = sha256_of("\n".join(recipe).encode())
    return f"{kebab(parts[0].path.stem) or 'model'}-{key[:12]}"


def _stored(name: str, parts: Sequence[_Part]) -> Bundle | None:
    try:
        bundle = Store(store_folder()).find(name)
        bundle.verify()
    except (NotExportedError, BundleError):
        return None
    sources = bundle.manifest.sources
    same = [one.sha256 for one in sources] == [part.sha256 for part in parts] and all(
        math.isclose(one.weight, part.share, abs_tol=TOLERANCE)
        for one, part in zip(sources, parts, strict=True)
    )
    return bundle if same else None


def _export(name: str, parts: Sequence[_Part], hidden: dict[str, str]) -> Bundle:
    _require_export()
    from resharp.export.run import ExportOptions, export_origin
    from resharp.export.sources import Part, origin_of

    logger.info("first use of %s: exporting it as %s", parts[0].path, name)
    sources = tuple(
        Part(
            path=part.path,
            source=Source(
                name=part.official.name if part.official else part.path.name,
                sha256=part.sha256,
                weight=part.share,
            ),
            architecture=part.official.architecture if part.official else None,
            parameters=hidden,
        )
        for part in parts
    )
    origin = origin_of(name, parts[0].official, sources)
    return export_origin(origin, ExportOptions(), log=logger.info)


def _require_export() -> None:
    for module in ("torch", "onnx", "onnxruntime", "safetensors"):
        require(module, feature="The first use of a checkpoint", extra="export")


def _hidden_parameters(model: nn.Module | None) -> dict[str, str]:
    """Return parameters that the weights do not reveal: an activation without weights."""
    if type(model).__name__ != "SRVGGNetCompact":
        return {}
    found = {type(module).__name__ for module in model.modules()}  # type: ignore[union-attr]
    return {"act_type": "leakyrelu"} if "LeakyReLU" in found else {}


def _check_model(model: nn.Module, bundle: Bundle) -> None:
    """Raise if the weights do not fit ``model``, like ``load_state_dict(strict=True)``."""
    models = require("resharp.models", feature="Checking `model`", extra="torch", package="torch")
    state: Any = models.read_checkpoint(bundle.path(bundle.manifest.weights)).state
    have = {name: tuple(tensor.shape) for name, tensor in state.items()}
    want = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if have != want:
        wrong = [name for name in {**want, **have} if have.get(name) != want.get(name)]
        listed = ", ".join(wrong[:SHOWN]) + (" and others" if len(wrong) > SHOWN else "")
        raise OptionError(
            f"the weights are of {bundle.manifest.architecture}({bundle.manifest.parameters}) and "
            f"do not fit the {type(model).__name__} passed as `model` (see {listed}): omit `model`"
        )

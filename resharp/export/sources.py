"""Sources of an export: a catalogue model, an imported checkpoint, a file, or a blend of two."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from resharp import weights
from resharp.engines import Source, check_name, variant_name
from resharp.engines.store import named_strength
from resharp.errors import CheckpointError, DownloadError, OptionError
from resharp.fsutil import sha256_of
from resharp.paths import as_path
from resharp.types import Log
from resharp.weights import ModelEntry, kebab, lookup
from resharp.weights.local import LOCAL


@dataclass(frozen=True, kw_only=True)
class Part:
    """One checkpoint of a model."""

    path: Path
    source: Source
    architecture: str | None = None
    """Architecture from the catalogue, which overrides detection; None detects it."""
    parameters: Mapping[str, int | str] = field(default_factory=dict)
    """Parameters given when it was imported, which override detection."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Description of the checkpoints that a bundle is made from, before any weight is read."""

    name: str
    title: str
    task: str
    license: str
    terms: str
    parts: tuple[Part, ...]
    twin: Part | None = None
    """Checkpoint that denoise strengths blend with; None if there is none or it was not fetched."""
    from_file: bool = False
    """Whether the user gave a file, whose name says little about its weights."""

    @property
    def sources(self) -> tuple[Source, ...]:
        """Sources of the parts, for the manifest."""
        return tuple(part.source for part in self.parts)


def locate(
    source: str | os.PathLike[str],
    *,
    denoise: float | None = None,
    name: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    log: Log = lambda line: None,
) -> Origin:
    """Find the checkpoints of a model, fetching what is missing.

    Args:
        source: a name of the catalogue or of an imported checkpoint, or a checkpoint file.
        denoise: denoise strength 0..1, for a model that is blended with a second checkpoint.
        name: name of the bundle; None takes the model's, or the file's.
        folder: folder of checkpoints; None is the default.
        offline: forbid downloads; None reads ``RESHARP_OFFLINE``.
        log: called with the terms of use, and if the second checkpoint cannot be downloaded.

    Raises:
        UnknownModelError: no model has that name.
        CheckpointError: the file does not exist.
        OptionError: the model has no denoise strength or needs no export, or the name is invalid.
        DownloadError: a checkpoint cannot be downloaded.
    """
    denoise = None if denoise is None else named_strength(denoise)
    path = as_path(source, "`model`", "a name or a file")
    if os.path.isfile(path) or path.suffix.lower() in (".pth", ".pt", ".safetensors"):
        return _from_file(path, denoise, name)
    entry = weights.resolve(os.fspath(source), folder)
    if not entry.exports:
        raise OptionError(
            f"{entry.name} is the face detector and needs no export: run 'resharp models fetch "
            f"{entry.name}', and `face` will use it"
        )
    partner = None if entry.blend is None else weights.resolve(entry.blend, folder)
    shares = [(entry, 1.0)]
    if denoise not in (None, 1):
        if partner is None:
            able = ", ".join(sorted(n for n, e in weights.catalogue().items() if e.blend))
            raise OptionError(
                f"{entry.name} has no denoise strength: leave out `denoise`, or use {able}"
            )
        shares = [(entry, denoise), (partner, 1 - denoise)] if denoise else [(partner, 1.0)]
    for item, _ in shares:
        if item.terms:
            log(f"{item.name}: {item.terms}")
    name = check_name(name or variant_name(entry.name, denoise))
    parts = tuple(_part(item, share, folder, offline) for item, share in shares)
    twin = None
    if partner is not None and denoise in (None, 1):
        try:
            twin = _part(partner, 1.0, folder, offline)
        except DownloadError as error:
            log(f"exporting {entry.name} without denoise strengths: {error}")
    return origin_of(name, entry, parts, twin=twin)


def origin_of(
    name: str, entry: ModelEntry | None, parts: tuple[Part, ...], *, twin: Part | None = None
) -> Origin:
    """Return the origin of a bundle, described by its catalogue entry.

    Args:
        name: name of the bundle.
        entry: catalogue entry of the model; None for files that are not in the catalogue.
        parts: checkpoints to blend, or a single one.
        twin: checkpoint that denoise strengths blend with, if any.
    """
    return Origin(
        name=name,
        title=entry.title if entry else parts[0].path.stem,
        task=entry.task if entry else "upscale",
        license=entry.license if entry else "unknown",
        terms=(entry.terms or "") if entry else "",
        parts=parts,
        twin=twin,
    )


def _from_file(path: Path, denoise: float | None, name: str | None) -> Origin:
    if denoise is not None:
        raise OptionError(f"`denoise` requires a model of the catalogue, got the file {path}")
    try:
        source = Source(name=path.name, sha256=sha256_of(path))
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    name = name or kebab(path.stem)
    if not name:
        raise OptionError(f"cannot make a name from {path.name}: pass one as `name`")
    official = lookup(name)
    if official is not None and official.sha256 != source.sha256:
        raise OptionError(
            f"{name} is the name of {official.title} in the catalogue, and {path} is another file: "
            "choose another `name`"
        )
    name = check_name(official.name if official else name)
    origin = origin_of(name, official, (Part(path=path, source=source),))
    return replace(origin, from_file=True)


def _part(
    entry: ModelEntry, share: float, folder: str | os.PathLike[str] | None, offline: bool | None
) -> Part:
    path = weights.fetch(entry, folder, offline=offline, progress=True)
    source = Source(name=entry.name, sha256=sha256_of(path), weight=share)
    own = entry.parameters if entry.file.startswith(f"{LOCAL}/") else {}
    parameters = {key: item for key, item in own.items() if isinstance(item, int | str)}
    return Part(path=path, source=source, architecture=entry.architecture, parameters=parameters)

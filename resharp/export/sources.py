"""What to export: a catalogue entry, the user's own checkpoint, a file, or a blend of two."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from resharp import weights
from resharp.engines import Source, check_name, variant_name
from resharp.engines.store import named_strength
from resharp.errors import CheckpointError, DownloadError, OptionError
from resharp.fsutil import sha256_of
from resharp.types import Log
from resharp.weights import ModelEntry, kebab, lookup
from resharp.weights.local import LOCAL


@dataclass(frozen=True, kw_only=True)
class Part:
    """One checkpoint of a model."""

    path: Path
    source: Source
    architecture: str | None = None
    """What the catalogue says, to overrule detection; None detects."""
    parameters: Mapping[str, int | str] = field(default_factory=dict)
    """What the user said at the import, to overrule detection."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a bundle comes from, before any weight is read."""

    name: str
    title: str
    task: str
    licence: str
    terms: str
    parts: tuple[Part, ...]
    twin: Part | None = None
    """What denoise strengths mix with; None: there are none, or it could not be fetched."""
    from_file: bool = False
    """Whether the user gave a file, whose name says little about which weights it holds."""

    @property
    def sources(self) -> tuple[Source, ...]:
        """The parts, for the manifest."""
        return tuple(part.source for part in self.parts)


def locate(
    source: str | os.PathLike[str],
    *,
    denoise: float | None = None,
    name: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    notice: Log = lambda line: None,
) -> Origin:
    """Find the checkpoints of a model, fetching what is missing.

    Args:
        source: a name of the catalogue, of an imported checkpoint, or a file.
        denoise: strength 0..1, for an entry that has a twin to blend with.
        name: of the bundle; None takes the entry's, or the file's.
        folder: of the weights.
        offline: forbids downloads; None asks the environment.
        notice: told the terms of use before a download.

    Raises:
        UnknownModelError: nothing has that name.
        OptionError: ``denoise`` for a model that has no twin.
        DownloadError: a checkpoint could not be fetched.
    """
    denoise = None if denoise is None else named_strength(denoise)
    path = Path(os.fspath(source)).expanduser()
    if path.is_file() or path.suffix.lower() in (".pth", ".pt", ".safetensors"):
        return _from_file(path, denoise, name)
    entry = weights.resolve(os.fspath(source), folder)
    if not entry.exports:
        raise OptionError(
            f"{entry.name} is a {entry.architecture}, which needs no export: "
            f"resharp weights fetch {entry.name}, and --face uses it"
        )
    entries = _blend(entry, denoise, folder)
    for item, _ in entries:
        if item.terms:
            notice(f"{item.name}: {item.terms}")
    return Origin(
        name=check_name(name or variant_name(entry.name, denoise)),
        title=entry.title,
        task=entry.task,
        licence=entry.licence,
        terms=entry.terms or "",
        parts=tuple(_part(item, share, folder, offline) for item, share in entries),
        twin=_twin(entry, folder, offline, notice) if denoise in (None, 1) else None,
    )


def _from_file(path: Path, denoise: float | None, name: str | None) -> Origin:
    if denoise is not None:
        raise OptionError("denoise needs a model of the catalogue that has a twin, not a file")
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    source = Source(name=path.name, sha256=sha256_of(path))
    name = name or kebab(path.stem)
    if not name:
        raise OptionError(f"no name can be made from {path.name}: choose one with --as")
    official = lookup(name)
    if official is not None and official.sha256 != source.sha256:
        raise OptionError(
            f"{name} is the name of {official.title} in the catalogue, and {path} is another file: "
            "choose a name with --as"
        )
    return Origin(
        name=check_name(official.name if official else name),
        title=official.title if official else path.stem,
        task=official.task if official else "upscale",
        licence=official.licence if official else "unknown",
        terms=(official.terms or "") if official else "",
        parts=(Part(path=path, source=source),),
        from_file=True,
    )


def _blend(
    entry: ModelEntry, denoise: float | None, folder: str | os.PathLike[str] | None
) -> list[tuple[ModelEntry, float]]:
    """The entries and their shares: ``s`` of the model itself, ``1 - s`` of its twin."""
    if denoise is None or denoise == 1:
        return [(entry, 1.0)]
    if entry.blend is None:
        able = ", ".join(sorted(n for n, e in weights.catalogue().items() if e.blend))
        raise OptionError(f"{entry.name} has no denoise strength; models that have one: {able}")
    twin = weights.resolve(entry.blend, folder)
    return [(entry, denoise), (twin, 1 - denoise)] if denoise else [(twin, 1.0)]


def _twin(
    entry: ModelEntry, folder: str | os.PathLike[str] | None, offline: bool | None, notice: Log
) -> Part | None:
    """The checkpoint that the entry is mixed with, without which it is whole nevertheless."""
    if entry.blend is None:
        return None
    try:
        return _part(weights.resolve(entry.blend, folder), 1.0, folder, offline)
    except DownloadError as error:
        notice(f"{entry.name} is exported without denoise strengths, which need its twin: {error}")
        return None


def _part(
    entry: ModelEntry, share: float, folder: str | os.PathLike[str] | None, offline: bool | None
) -> Part:
    path = weights.fetch(entry, folder, offline=offline, progress=True)
    source = Source(name=entry.name, sha256=sha256_of(path), weight=share)
    own = entry.parameters if entry.file.startswith(f"{LOCAL}/") else {}
    parameters = {key: item for key, item in own.items() if isinstance(item, int | str)}
    return Part(path=path, source=source, architecture=entry.architecture, parameters=parameters)

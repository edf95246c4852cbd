"""From names of files, folders and globs to a list of (input file, output file)."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from resharp.errors import OptionError
from resharp.images import suffixes, writable

_SAME = {"jpeg": "jpg", "tif": "tiff"}
_RESULT = re.compile(r"_(restored|x\d+(\.\d+)?)$")  # the suffixes that a run without -o gives


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where results go, and how they are called."""

    output: Path | None = None
    """A file, a folder, or None: beside each input."""
    suffix: str = ""
    """Added to each name before its ending."""
    format: str | None = None
    """Ending of the results without the dot; None keeps the input's where it can be written."""

    def __post_init__(self) -> None:
        if self.format is not None and f".{self.format}" not in writable():
            raise OptionError(
                f"format {self.format!r} cannot be written here; these can: "
                + ", ".join(sorted(item[1:] for item in writable()))
            )
        if os.sep in self.suffix or "/" in self.suffix:
            raise OptionError(f"suffix {self.suffix!r} must not hold a path separator")

    @classmethod
    def asked(
        cls, output: Path | None, suffix: str | None, format_: str | None, scale: float | None
    ) -> Target:
        """From what a user says.

        Args:
            output: as :attr:`output`.
            suffix: None is nothing, or ``_restored`` or ``_x2`` where results lie beside inputs.
            format_: an ending, with its dot or without, in any case.
            scale: that was asked for; None is the model's.

        Raises:
            OptionError: it makes no sense.
        """
        if suffix is None:
            suffix = _default_suffix(output, scale)
        plain = None if format_ is None else format_.lower().lstrip(".")
        return cls(output=output, suffix=suffix, format=plain)

    @property
    def is_file(self) -> bool:
        """Whether the output names one file.

        Raises:
            OptionError: of a format that cannot be written.
        """
        return self.output is not None and _is_file_name(self.output)


@dataclass(frozen=True)
class Job:
    """One picture to restore."""

    source: Path
    target: Path
    problem: str = ""
    """Why it cannot be done, found before any work; empty if it can."""
    root: Path | None = None
    """Folder of results whose journal it is in; None: in none, as a file that was named itself."""
    typed: bool = False
    """Whether the user named this very file."""

    @property
    def name(self) -> str:
        """Of the result in the journal: its path below :attr:`root`, with slashes."""
        return self.target.relative_to(self.root or "").as_posix()


def _default_suffix(output: Path | None, scale: float | None) -> str:
    """What is added to the names of results: nothing, unless they lie beside their inputs."""
    if output is not None:
        return ""
    return "_restored" if scale is None else f"_x{scale:g}"


def jobs(inputs: Sequence[str], target: Target, *, watching: bool = False) -> list[Job]:
    """All pictures that the user named, each once, in order.

    Pictures of a folder or glob that are results of others there are left out.

    Args:
        inputs: files, folders and globs.
        target: where results go.
        watching: only folders and globs count, and they may be empty, or gone for a while.

    Raises:
        OptionError: a folder or glob holds no picture, or one output file is asked for several.
    """
    expand = partial(_expand, output=target.output, watching=watching)
    found = list(_unique(item for text in inputs for item in expand(text)))
    one_file = target.is_file
    if one_file and len(found) > 1:
        raise OptionError(
            f"{len(found)} pictures cannot go into the one file {target.output}: give a folder"
        )
    made = [(one, _job(one, target, one_file)) for one in found]
    return list(_without_collisions(_without_results(made, target)))


@dataclass(frozen=True)
class _Found:
    path: Path
    root: Path
    """Folder that its place in the output is relative to."""
    typed: bool
    """Whether the user named this very file."""


def is_collection(text: str) -> bool:
    """Whether it names a folder that is there, or a glob: what can be watched."""
    path = Path(text).expanduser()
    return os.path.isdir(path) or (not os.path.exists(path) and glob.has_magic(text))


def _job(one: _Found, target: Target, one_file: bool) -> Job:
    if one_file:
        return Job(one.path, _one(target), typed=one.typed)
    root = target.output or (None if one.typed else one.root)
    return Job(one.path, _name(one.path, one.root, target), root=root, typed=one.typed)


def _expand(text: str, output: Path | None, watching: bool) -> Iterator[_Found]:
    """The pictures that a file name, a folder or a glob stands for."""
    path = Path(text).expanduser()
    if os.path.isdir(path):
        where = "" if watching else f"the folder {path}"
        yield from _listed(_pictures(path), path, output, where)
    elif not os.path.exists(path) and glob.has_magic(text):
        root = _plain_part(path)
        matches = sorted(map(Path, glob.glob(os.fspath(path), recursive=True)))  # noqa: PTH207
        if not matches and not watching:
            raise OptionError(f"no file matches {text}")
        known = [item for item in matches if item.suffix.lower() in suffixes() and item.is_file()]
        yield from _listed(known, root, output, "" if watching else f"what matches {text}")
    elif not watching:
        yield _Found(path, path.parent, True)  # one that is not there is reported with the others


def _listed(paths: list[Path], root: Path, output: Path | None, where: str) -> Iterator[_Found]:
    inside = [path for path in paths if not _within(path, output, root)]
    if not inside and where:
        raise OptionError(f"{where} holds no picture ({', '.join(suffixes())})")
    yield from (_Found(path, root, False) for path in inside)


def _plain_part(pattern: Path) -> Path:
    """The folder in front of a glob's first wildcard."""
    parts = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)


def _pictures(folder: Path) -> list[Path]:
    """Pictures below a folder by their endings; hidden files and folders are left out."""
    known = set(suffixes())
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in known
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _within(path: Path, output: Path | None, root: Path) -> bool:
    """Whether a picture lies in the output folder inside the input: it is a result."""
    if output is None or output.resolve() == root.resolve():
        return False
    return output.resolve() in path.resolve().parents


def _unique(items: Iterable[_Found]) -> Iterator[_Found]:
    seen = set()
    for item in items:
        key = _real(item.path)
        if key not in seen:
            seen.add(key)
            yield item


def _real(path: Path) -> str:
    return os.path.realpath(path)


def _is_file_name(output: Path) -> bool:
    ending = output.suffix.lower()
    if os.path.isdir(output) or ending not in (*writable(), *suffixes()):
        return False
    if ending not in writable():
        raise OptionError(
            f"{ending[1:]} cannot be written here; these can: "
            + ", ".join(sorted(item[1:] for item in writable()))
        )
    return True


def _one(target: Target) -> Path:
    assert target.output is not None
    named = target.output.suffix.lower()[1:]
    if target.format is not None and _SAME.get(named, named) != _SAME.get(
        target.format, target.format
    ):
        raise OptionError(f"--format {target.format} contradicts the name {target.output.name}")
    return target.output


def _name(source: Path, root: Path, target: Target) -> Path:
    ending = f".{target.format}" if target.format else source.suffix
    if ending.lower() not in writable():
        ending = ".png"
    name = f"{source.stem}{target.suffix}{ending}"
    if target.output is None:
        return source.with_name(name)
    return target.output / source.relative_to(root).parent / name


def _without_results(made: Sequence[tuple[_Found, Job]], target: Target) -> Iterator[Job]:
    """Leave out what an earlier run wrote among its inputs, unless the user named it."""
    targets = {_real(job.target) for _, job in made if _real(job.target) != _real(job.source)}
    names = {_real(job.source.with_suffix("")) for _, job in made}
    for found, job in made:
        result = _real(job.source) in targets
        if target.output is None:  # perhaps of a run with another scale
            plain = _RESULT.sub("", job.source.stem)
            result |= plain != job.source.stem and _real(job.source.with_name(plain)) in names
        if found.typed or not result:
            yield job


def _without_collisions(made: Iterable[Job]) -> Iterator[Job]:
    taken: dict[str, Path] = {}
    for job in made:
        key = _real(job.target)
        first = taken.setdefault(key, job.source)
        if key == _real(job.source):
            yield replace(job, problem="its result would overwrite it: use -o or --suffix")
        elif first != job.source:
            yield replace(
                job,
                problem=f"its result would have the name of that of {first}: rename one, or "
                "restore them into different folders",
            )
        else:
            yield job

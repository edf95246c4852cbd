"""From what the user typed to a list of (input file, output file)."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from resharp.errors import OptionError
from resharp.runtime.files import suffixes, writable


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


@dataclass(frozen=True)
class Job:
    """One picture to restore."""

    source: Path
    target: Path
    problem: str = ""
    """Why it cannot be done, found before any work; empty if it can."""


def jobs(inputs: Sequence[str], target: Target) -> list[Job]:
    """All pictures that the user named, each once, in order.

    Raises:
        OptionError: a folder or glob holds no picture, or one output file is asked for several.
    """
    found = list(_unique(item for text in inputs for item in _expand(text, target.output)))
    one_file = target.output is not None and _is_file_name(target.output)
    if one_file and len(found) > 1:
        raise OptionError(
            f"{len(found)} pictures cannot go into the one file {target.output}: give a folder"
        )
    made = [
        Job(source, _one(target) if one_file else _name(source, root, target))
        for source, root in found
    ]
    return list(_without_collisions(made))


def _expand(text: str, output: Path | None) -> Iterator[tuple[Path, Path]]:
    """(picture, folder that its place is relative to) of a file, a folder or a glob."""
    path = Path(text).expanduser()
    if path.is_dir():
        inside = [p for p in _pictures(path) if not _within(p, output, path)]
        if not inside:
            raise OptionError(f"the folder {path} holds no picture ({', '.join(suffixes())})")
        yield from ((item, path) for item in inside)
    elif not path.exists() and glob.has_magic(text):
        matches = sorted(map(Path, glob.glob(os.fspath(path), recursive=True)))  # noqa: PTH207
        if not matches:
            raise OptionError(f"no file matches {text}")
        yield from ((item, item.parent) for item in matches if item.is_file())
    else:
        yield path, path.parent  # what is not there is reported with the other failures


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


def _unique(items: Iterable[tuple[Path, Path]]) -> Iterator[tuple[Path, Path]]:
    seen = set()
    for path, root in items:
        key = path.resolve()
        if key not in seen:
            seen.add(key)
            yield path, root


def _is_file_name(output: Path) -> bool:
    return output.suffix.lower() in writable() and not output.is_dir()


def _one(target: Target) -> Path:
    assert target.output is not None
    if target.format is not None and target.output.suffix.lower() != f".{target.format}":
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


def _without_collisions(made: Iterable[Job]) -> Iterator[Job]:
    taken: dict[Path, Path] = {}
    for job in made:
        key = job.target.resolve()
        first = taken.setdefault(key, job.source)
        if key == job.source.resolve():
            yield replace(job, problem="its result would overwrite it: use -o or --suffix")
        elif first != job.source:
            yield replace(job, problem=f"its result has the name of that of {first}: use -o")
        else:
            yield job

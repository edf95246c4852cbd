"""From names of files, folders and globs to a list of (input file, output file)."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from os.path import realpath
from pathlib import Path

from resharp.errors import OptionError
from resharp.images import suffixes, writable

_SAME = {"jpeg": "jpg", "tif": "tiff"}
_RESULT = re.compile(r"_(restored|x\d+(\.\d+)?)$")  # the suffixes that a run without -o gives


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where results go, and how they are called."""

    path: Path | None = None
    """A file, a folder, or None: beside each input."""
    suffix: str = ""
    """Added to each name before its ending."""
    format: str | None = None
    """Ending of the results without the dot; None keeps the input's where it can be written."""

    def __post_init__(self) -> None:
        if self.format is not None and f".{self.format}" not in writable():
            raise _cannot_be_written(f"format {self.format!r}")
        if os.sep in self.suffix or "/" in self.suffix:
            raise OptionError(f"suffix {self.suffix!r} must not hold a path separator")

    @classmethod
    def from_args(
        cls, path: Path | None, suffix: str | None, format_: str | None, scale: float | None
    ) -> Output:
        """From what a user says.

        Args:
            path: as :attr:`path`.
            suffix: None is nothing, or ``_restored`` or ``_x2`` where results lie beside inputs.
            format_: an ending, with its dot or without, in any case.
            scale: that was asked for; None is the model's.

        Raises:
            OptionError: it makes no sense.
        """
        if suffix is None and path is None:
            suffix = "_restored" if scale is None else f"_x{scale:g}"
        plain = None if format_ is None else format_.lower().lstrip(".")
        return cls(path=path, suffix=suffix or "", format=plain)

    @property
    def is_file(self) -> bool:
        """Whether the output names one file.

        Raises:
            OptionError: of a format that cannot be written.
        """
        if self.path is None or os.path.isdir(self.path):
            return False
        ending = self.path.suffix.lower()
        if ending in suffixes() and ending not in writable():
            raise _cannot_be_written(ending[1:])
        return ending in writable()

    def of(self, source: Path, root: Path) -> Path:
        """The result's path of one of several inputs.

        Args:
            source: the input.
            root: the folder that its place in the output is relative to.
        """
        ending = f".{self.format}" if self.format else source.suffix
        if ending.lower() not in writable():
            ending = ".png"
        name = f"{source.stem}{self.suffix}{ending}"
        if self.path is None:
            return source.with_name(name)
        return self.path / source.relative_to(root).parent / name


def _cannot_be_written(what: str) -> OptionError:
    able = ", ".join(sorted(item[1:] for item in writable()))
    return OptionError(f"{what} cannot be written here; these can: {able}")


@dataclass(frozen=True)
class Job:
    """One picture to restore."""

    source: Path
    target: Path
    error: str = ""
    """Why it cannot be done, found before any work; empty if it can."""
    root: Path | None = None
    """Folder of results whose journal it is in; None: in none, as a file that was named itself."""
    explicit: bool = False
    """Whether the user named this very file."""
    number: int = 0
    """Its place in the order of results, once a scheduler has seen it."""

    @property
    def name(self) -> str:
        """Of the result in the journal: its path below :attr:`root`, with slashes."""
        return self.target.relative_to(self.root or "").as_posix()


def discover(inputs: Sequence[str], output: Output, *, watching: bool = False) -> list[Job]:
    """All pictures that the user named, each once, in order.

    Pictures of a folder or glob that are results of others there are left out.

    Args:
        inputs: files, folders and globs.
        output: where results go.
        watching: only folders and globs count, and they may be empty, or gone for a while.

    Raises:
        OptionError: a folder or glob holds no picture, or one output file is asked for several.
    """
    found: dict[str, tuple[Path, Path | None]] = {}
    for text in inputs:
        for path, root in _expand(text, output.path, watching):
            found.setdefault(realpath(path), (path, root))
    file = output.path if output.is_file else None
    if file is not None and len(found) > 1:
        raise OptionError(
            f"{len(found)} pictures cannot go into the one file {file}: give a folder"
        )
    made = [_job(path, root, output, file) for path, root in found.values()]
    return list(_without_collisions(_without_results(made, output)))


def is_collection(text: str) -> bool:
    """Whether it names a folder that is there, or a glob: what can be watched."""
    path = Path(text).expanduser()
    return os.path.isdir(path) or (not os.path.exists(path) and glob.has_magic(text))


def _job(path: Path, root: Path | None, output: Output, file: Path | None) -> Job:
    """The job of a picture in the folder ``root``, or of one that was named itself."""
    if file is None:
        target = output.of(path, root or path.parent)
        return Job(path, target, root=output.path or root, explicit=root is None)
    named, asked = file.suffix.lower()[1:], output.format
    if asked is not None and _SAME.get(named, named) != _SAME.get(asked, asked):
        raise OptionError(f"--format {asked} contradicts the name {file.name}")
    return Job(path, file, explicit=root is None)


def _expand(text: str, output: Path | None, watching: bool) -> Iterator[tuple[Path, Path | None]]:
    """The pictures that a folder or a glob stands for, with that folder; or the file of a name."""
    path = Path(text).expanduser()
    if not is_collection(text):
        if not watching:  # one that is not there is reported with the others
            yield path, None
        return
    if os.path.isdir(path):
        root, what, paths = path, f"the folder {path}", _pictures(path)
    else:
        root, what = _plain_part(path), f"what matches {text}"
        matches = sorted(map(Path, glob.glob(os.fspath(path), recursive=True)))  # noqa: PTH207
        if not matches and not watching:
            raise OptionError(f"no file matches {text}")
        paths = [item for item in matches if item.suffix.lower() in suffixes() and item.is_file()]
    inside = [item for item in paths if not _within(item, output, root)]
    if not inside and not watching:
        raise OptionError(f"{what} holds no picture ({', '.join(suffixes())})")
    yield from ((item, root) for item in inside)


def _plain_part(pattern: Path) -> Path:
    """The folder in front of a glob's first wildcard."""
    return Path(*takewhile(lambda part: not glob.has_magic(part), pattern.parts[:-1]))


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


def _without_results(made: Sequence[Job], output: Output) -> Iterator[Job]:
    """Leave out what an earlier run wrote among its inputs, unless the user named it."""
    targets = {realpath(job.target) for job in made if realpath(job.target) != realpath(job.source)}
    names = {realpath(job.source.with_suffix("")) for job in made}
    for job in made:
        result = realpath(job.source) in targets
        if output.path is None:  # perhaps of a run with another scale
            plain = _RESULT.sub("", job.source.stem)
            result |= plain != job.source.stem and realpath(job.source.with_name(plain)) in names
        if job.explicit or not result:
            yield job


def _without_collisions(made: Iterable[Job]) -> Iterator[Job]:
    taken: dict[str, Path] = {}
    for job in made:
        key = realpath(job.target)
        first = taken.setdefault(key, job.source)
        if key == realpath(job.source):
            yield replace(job, error="its result would overwrite it: use -o or --suffix")
        elif first != job.source:
            yield replace(
                job,
                error=f"its result would have the name of that of {first}: rename one, or "
                "restore them into different folders",
            )
        else:
            yield job

"""Expansion of files, folders and globs into a list of jobs: (input file, output file)."""

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
_RESULT = re.compile(r"_(restored|x\d+(\.\d+)?)$")  # default suffixes without `dst`


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where results are written, and how they are named."""

    path: Path | None = None
    """A file or a folder; None writes each result next to its input."""
    suffix: str = ""
    """Added to each file name before its extension."""
    format: str | None = None
    """File extension of the results, without the dot; None keeps the input's if it is writable."""

    def __post_init__(self) -> None:
        if self.format is not None and f".{self.format}" not in writable():
            raise OptionError(f"`format` must be one of {_writable()}, got {self.format!r}")
        if os.sep in self.suffix or "/" in self.suffix:
            raise OptionError(f"`suffix` must not contain a path separator, got {self.suffix!r}")

    @classmethod
    def from_args(
        cls, path: Path | None, suffix: str | None, format_: str | None, scale: float | None
    ) -> Output:
        """Create an output from the arguments of a command or of :func:`restore_folder`.

        Args:
            path: same as :attr:`path`.
            suffix: None is empty with a ``path``, else ``_restored``, or e.g. ``_x2`` with a scale.
            format_: a file extension, with or without the dot, in any case.
            scale: the requested scale; None is the model's.

        Raises:
            OptionError: the format cannot be written, or the suffix has a path separator.
        """
        if suffix is None and path is None:
            suffix = "_restored" if scale is None else f"_x{scale:g}"
        plain = None if format_ is None else format_.lower().lstrip(".")
        return cls(path=path, suffix=suffix or "", format=plain)

    @property
    def is_file(self) -> bool:
        """Whether the output is a single file.

        Raises:
            OptionError: the file's format cannot be written.
        """
        if self.path is None or os.path.isdir(self.path):
            return False
        ending = self.path.suffix.lower()
        if ending in suffixes() and ending not in writable():
            raise OptionError(
                f"the extension of `dst` must be one of {_writable()}, got {self.path.name!r}"
            )
        return ending in writable()

    def of(self, source: Path, root: Path) -> Path:
        """Return the path of an input's result; not for an output that is a single file.

        Args:
            source: the input.
            root: folder whose structure is kept in the output.
        """
        ending = f".{self.format}" if self.format else source.suffix
        if ending.lower() not in writable():
            ending = ".png"
        name = f"{source.stem}{self.suffix}{ending}"
        if self.path is None:
            return source.with_name(name)
        return self.path / source.relative_to(root).parent / name


def _writable() -> str:
    return ", ".join(sorted(item[1:] for item in writable()))


@dataclass(frozen=True)
class Job:
    """One image to restore."""

    source: Path
    target: Path
    error: str = ""
    """Why it cannot be restored, if that is known before any work starts; else empty."""
    root: Path | None = None
    """Folder of results, which has the journal; None for single files outside such a folder."""
    explicit: bool = False
    """Whether the user passed this file itself, not a folder or glob that contains it."""
    number: int = 0
    """Position in the order of results, set by the scheduler."""

    @property
    def name(self) -> str:
        """The result's name in the journal: its path relative to :attr:`root`, with slashes."""
        return self.target.relative_to(self.root or "").as_posix()


def discover(inputs: Sequence[str], output: Output, *, watching: bool = False) -> list[Job]:
    """Return a job for every input image, without duplicates, in order.

    Images in a folder or glob that are results of other images there are left out.

    Args:
        inputs: files, folders and globs.
        output: where results are written.
        watching: ignore single files, and accept empty or temporarily missing folders.

    Raises:
        OptionError: a folder or glob contains no image, or several would go to one output file.
    """
    found: dict[str, tuple[Path, Path | None]] = {}
    for text in inputs:
        for path, root in _expand(text, output.path, watching):
            found.setdefault(realpath(path), (path, root))
    file = output.path if output.is_file else None
    if file is not None and len(found) > 1:
        raise OptionError(f"{len(found)} images need a folder as `dst`, got the file {file}")
    made = [_job(path, root, output, file) for path, root in found.values()]
    return list(_without_collisions(_without_results(made, output)))


def is_collection(text: str) -> bool:
    """Whether an input is an existing folder or a glob, which can be watched."""
    path = Path(text).expanduser()
    return os.path.isdir(path) or (not os.path.exists(path) and glob.has_magic(text))


def _job(path: Path, root: Path | None, output: Output, file: Path | None) -> Job:
    """Return the job of an image in the folder ``root``, or of a single file if that is None."""
    if file is None:
        target = output.of(path, root or path.parent)
        return Job(path, target, root=output.path or root, explicit=root is None)
    named, asked = file.suffix.lower()[1:], output.format
    if asked is not None and _SAME.get(named, named) != _SAME.get(asked, asked):
        raise OptionError(f"`format` must match the extension of {file.name}, got {asked!r}")
    return Job(path, file, explicit=root is None)


def _expand(text: str, output: Path | None, watching: bool) -> Iterator[tuple[Path, Path | None]]:
    """Yield the images of a folder or glob with their root folder, or a single file with None."""
    path = Path(text).expanduser()
    if not is_collection(text):
        if not watching:  # a missing file becomes a failed result later
            yield path, None
        return
    if os.path.isdir(path):
        root, where, paths = path, f"in the folder {path}", _pictures(path)
    else:
        root, where = _plain_part(path), f"among the files that match {text}"
        matches = sorted(map(Path, glob.glob(os.fspath(path), recursive=True)))  # noqa: PTH207
        if not matches and not watching:
            raise OptionError(f"no file matches {text}")
        paths = [item for item in matches if item.suffix.lower() in suffixes() and item.is_file()]
    inside = [item for item in paths if not _within(item, output, root)]
    if not inside and not watching:
        raise OptionError(f"no images {where}; supported are {', '.join(suffixes())}")
    yield from ((item, root) for item in inside)


def _plain_part(pattern: Path) -> Path:
    """Return the folder before the first wildcard of a glob."""
    return Path(*takewhile(lambda part: not glob.has_magic(part), pattern.parts[:-1]))


def _pictures(folder: Path) -> list[Path]:
    """List the images in a folder and its subfolders by extension, except hidden ones."""
    known = set(suffixes())
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in known
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _within(path: Path, output: Path | None, root: Path) -> bool:
    """Whether an image is a result: it is in an output folder that is inside the input folder."""
    if output is None or output.resolve() == root.resolve():
        return False
    return output.resolve() in path.resolve().parents


def _without_results(made: Sequence[Job], output: Output) -> Iterator[Job]:
    """Leave out results of earlier runs among the inputs, unless the user passed them."""
    targets = {realpath(job.target) for job in made if realpath(job.target) != realpath(job.source)}
    names = {realpath(job.source.with_suffix("")) for job in made}
    for job in made:
        result = realpath(job.source) in targets
        if output.path is None:  # it may be from a run with another scale
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
            error = "the result would overwrite the input: use another `dst` or `suffix`"
            yield replace(job, error=error)
        elif first != job.source:
            yield replace(
                job,
                error=f"the result would have the same name as that of {first}: rename one of the "
                "inputs, or use a different `dst` for each",
            )
        else:
            yield job

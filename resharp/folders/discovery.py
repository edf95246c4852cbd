"""Expansion of files, folders and globs into a list of jobs: (input file, output file)."""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, takewhile
from os.path import realpath
from pathlib import Path
from stat import S_ISREG

from resharp.checks import check_text, shown
from resharp.errors import OptionError
from resharp.images import suffixes, writable
from resharp.outputs import InputFiles, name_in, parse_output
from resharp.paths import expanded, path_text

logger = logging.getLogger(__name__)

UNREADABLE = (
    *(".heic", ".heif", ".jxl", ".jp2", ".j2k", ".jpx", ".jxr", ".psd", ".svg", ".tga", ".dds"),
    *(".exr", ".hdr", ".pnm", ".pbm", ".pgm", ".ppm", ".pfm", ".pam", ".qoi", ".ico", ".pcx"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2"),
)
"""Extensions of image formats that resharp cannot read; a warning counts such files."""
_SAME = {"jpeg": "jpg", "tif": "tiff"}
IsResult = Callable[["Job"], bool]
"""Returns whether the input of a job is itself a result, according to the journal."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where results are written, and how they are named."""

    path: Path | None = None
    """A file or a folder; None writes each result next to its input."""
    is_file: bool = False
    """Whether ``path`` is a file."""
    suffix: str = ""
    """Added to each file name before its extension."""
    format: str | None = None
    """File extension of the results, without the dot; None keeps the input's if it is writable."""

    def __post_init__(self) -> None:
        check_text("suffix", self.suffix)
        if self.format is not None and f".{self.format}" not in writable():
            raise OptionError(f"`format` must be one of {_writable()}, got {shown(self.format)}")
        if os.sep in self.suffix or "/" in self.suffix:
            raise OptionError(
                f"`suffix` must not contain a path separator, got {shown(self.suffix)}"
            )
        if self.is_file and self.path is not None and self.format is not None:
            named, asked = self.path.suffix.lower()[1:], self.format
            if _SAME.get(named, named) != _SAME.get(asked, asked):
                text = f"`format` must match the extension of {self.path.name}, got {shown(asked)}"
                raise OptionError(text)

    @classmethod
    def from_args(
        cls,
        dst: str | os.PathLike[str] | None,
        suffix: str | None,
        format_: str | None,
        scale: float | None,
    ) -> Output:
        """Create an output from the arguments of a command or of :func:`restore_folder`.

        Args:
            dst: a file with the extension of a format that can be written, or a folder; None writes
                next to the inputs.
            suffix: None is empty with a ``dst``, else ``_restored``, or e.g. ``_x2`` with a scale.
            format_: a file extension, with or without the dot, in any case.
            scale: the requested scale; None is the model's.

        Raises:
            OptionError: the format or the extension of ``dst`` cannot be written, ``dst`` is empty,
                or the suffix has a path separator.
        """
        if suffix is None and dst is None:
            suffix = "_restored" if scale is None else f"_x{scale:g}"
        plain = None if format_ is None else check_text("format", format_).lower().lstrip(".")
        if dst is None:
            return cls(suffix=suffix or "", format=plain)
        named = parse_output(dst, writable())
        return cls(path=named.path, is_file=named.is_file, suffix=suffix or "", format=plain)

    def of(self, source: Path, root: Path, *, distinct: int = 0) -> Path:
        """Return the path of an input's result; not for an output that is a single file.

        Args:
            source: the input.
            root: folder whose structure is kept in the output.
            distinct: how often the input's extension is kept in the name, for inputs that differ
                only in that.
        """
        ending = f".{self.format}" if self.format else source.suffix
        if ending.lower() not in writable():
            ending = ".png"
        name = f"{source.stem}{source.suffix * distinct}{self.suffix}{ending}"
        if self.path is None:
            return source.with_name(name)
        # Parts of a glob behind its first wildcard may lead upwards, but not out of the folder.
        inner = Path(os.path.normpath(source.relative_to(root).parent))
        return self.path.joinpath(*(part for part in inner.parts if part != "..")) / name


def _writable() -> str:
    return ", ".join(sorted(item[1:] for item in writable()))


@dataclass(frozen=True)
class Job:
    """One image to restore."""

    source: Path
    target: Path
    root: Path
    """Folder of results, to which the journal belongs."""
    base: Path
    """Folder of inputs whose structure is kept in the folder of results."""
    error: str = ""
    """Why it cannot be restored, if that is known before any work starts; else empty."""
    explicit: bool = False
    """Whether the user passed this file itself, not a folder or glob that contains it."""
    typed: bool = False
    """Whether the user typed the name of the result, instead of leaving it to this module."""
    lone: bool = False
    """Whether it is a single file without a folder of results, where a journal would be litter."""
    number: int = 0
    """Position in the order of results, set by the scheduler."""

    @property
    def name(self) -> str:
        """The result's name in the journal: its path relative to :attr:`root`, with slashes."""
        return name_in(self.target, self.root)


def discover(
    inputs: Sequence[str],
    output: Output,
    *,
    watching: bool = False,
    is_result: IsResult = lambda job: False,
) -> list[Job]:
    """Return a job for every input image, without duplicates, in order.

    Args:
        inputs: files, folders and globs.
        output: where results are written.
        watching: ignore single files, and accept empty or temporarily missing folders.
        is_result: inputs in folders and globs for which it is true are left out.

    Raises:
        OptionError: an input is empty, a folder or glob contains no image, or several would go to
            one output file.
    """
    found: dict[str, Job] = {}
    for text in inputs:
        for path, base in _expand(text, watching):
            found.setdefault(realpath(path), _job(path, base, output))
    made = [job for job in found.values() if job.explicit or not is_result(job)]
    if output.is_file and len(made) > 1:
        raise OptionError(f"{len(made)} images need a folder as `dst`, got the file {output.path}")
    named = list(_distinct(made, output))
    taken = InputFiles(job.source for job in made)
    return [_refused(job, taken, first) for job, first in zip(named, _firsts(named), strict=True)]


def is_collection(text: str) -> bool:
    """Whether an input is an existing folder or a glob, which can be watched."""
    path = expanded(text)
    return os.path.isdir(path) or (not os.path.exists(path) and glob.has_magic(text))


def _job(path: Path, base: Path | None, output: Output) -> Job:
    """Return the job of an image in the folder ``base``, or of a single file if that is None."""
    explicit, base = base is None, base or path.parent
    if not output.is_file or output.path is None:
        target = output.of(path, base)
        root = output.path or (target.parent if explicit else base)
        lone = explicit and output.path is None
        return Job(path, target, root=root, base=base, explicit=explicit, lone=lone)
    root = output.path.parent
    return Job(path, output.path, root=root, base=base, explicit=explicit, typed=True, lone=True)


def _expand(text: str, watching: bool) -> Iterator[tuple[Path, Path | None]]:
    """Yield the images of a folder or glob with their root folder, or a single file with None."""
    path = expanded(path_text(text, "an input"))
    if not is_collection(text):
        if not watching:  # a missing file becomes a failed result later
            yield path, None
        return
    left_out: list[str] = []
    if os.path.isdir(path):
        root, where = path, f"in the folder {path}"
        folders = _folders(path, left_out, realpath(path))
        found = [Path(top, name) for top, names in folders for name in names if name[0] != "."]
    else:
        root, where = _plain_part(path), f"among the files that match {text}"
        found = list(map(Path, _matches(os.fspath(path), left_out, realpath(root))))
        if not found and not watching:
            raise OptionError(f"no file matches {text}")
    known, others = suffixes(), set(UNREADABLE)
    files = sorted(item for item in found if item.suffix.lower() in {*known, *others})
    paths = [item for item in files if item.suffix.lower() in known and _is_file(item)]
    left_out += _unreadable([item for item in files if item.suffix.lower() in others], where)
    for note in () if watching else dict.fromkeys(left_out):  # it would be repeated at every check
        logger.warning("%s", note)
    if not paths and not watching:
        raise OptionError(f"no images {where}; supported are {', '.join(known)}")
    yield from ((item, root) for item in paths)


def _is_file(path: Path) -> bool:
    try:
        return S_ISREG(path.stat().st_mode)
    except PermissionError:  # of its folder; reading the image reports it
        return True
    except OSError:
        return False


def _unreadable(files: Sequence[Path], where: str) -> Iterator[str]:
    """Yield a note for each format of images that are left out."""
    counts = Counter(item.suffix.lower() for item in files if _is_file(item))
    for suffix, number in sorted(counts.items()):
        many, them = ("1 file is", "it") if number == 1 else (f"{number} files are", "them")
        yield f"{many} left out {where}: resharp cannot read {suffix}, convert {them} first"


def _plain_part(pattern: Path) -> Path:
    """Return the folder before the first wildcard of a glob."""
    return Path(*takewhile(lambda part: not glob.has_magic(part), pattern.parts[:-1]))


def _matches(pattern: str, left_out: list[str], inside: str) -> set[str]:
    """Return the paths that match a glob, in which ``**`` follows no link to a folder.

    Python's own follows them, without an end where two lead to a folder above them.
    """
    parts = Path(pattern).parts
    if "**" not in parts:
        return set(glob.glob(pattern))  # noqa: PTH207 - a hidden name only where it is asked for
    place = parts.index("**")
    before, behind = parts[:place], parts[place + 1 :]
    if "**" in behind[:1]:  # the same as one, but slower
        return _matches(os.path.join("", *before, *behind), left_out, inside)  # noqa: PTH118
    found: set[str] = set()
    for base in glob.glob(os.path.join("", *before)) if before else [os.curdir]:  # noqa: PTH118, PTH207
        for top, names in _folders(Path(base), left_out, inside) if os.path.isdir(base) else ():
            start = top if before else os.path.relpath(top)
            if behind:
                inner = os.path.join(glob.escape("" if start == "." else start), *behind)  # noqa: PTH118
                found |= _matches(inner, left_out, inside)
            else:
                found |= {os.path.join(start, name) for name in names if name[0] != "."}  # noqa: PTH118
    return found


def _folders(folder: Path, left_out: list[str], inside: str) -> Iterator[tuple[str, list[str]]]:
    """Yield a folder and its subfolders, except hidden ones, each with the names of its files.

    Links to folders are not followed, which would not end where one leads to a folder above it.
    Why folders are left out is added to ``left_out``, except links to a place in ``inside``,
    whose files are found under their own names.
    """

    def unreadable(error: OSError) -> None:
        left_out.append(f"cannot read the folder {error.filename}: {error.strerror}")

    for top, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for link in filter(os.path.islink, (os.path.join(top, name) for name in folders)):  # noqa: PTH118
            if not os.path.join(realpath(link), "").startswith(os.path.join(inside, "")):  # noqa: PTH118
                left_out.append(f"{link} is a link to a folder, which is not followed: name it too")
        yield top, files


def _distinct(made: Sequence[Job], output: Output) -> Iterator[Job]:
    """Give results of one name different ones, if their inputs differ in their extension.

    The name goes to the input that has it already (``cat.png`` of ``cat.png``, not of ``cat.gif``),
    or else to the first one; the other results keep the input's extension: ``cat.gif.png``. Where
    that is the name of another result, they have it once more.
    """
    if output.is_file:
        yield from made
        return
    owners: dict[str, Job] = {}
    for job in made:
        key = realpath(job.target)
        if key not in owners or (_keeps_ending(job) and not _keeps_ending(owners[key])):
            owners[key] = job
    for job in made:
        owner = owners[realpath(job.target)]
        if owner is job or owner.source.suffix == job.source.suffix:
            yield job
        else:
            names = (output.of(job.source, job.base, distinct=many) for many in count(1))
            target = next(name for name in names if realpath(name) not in owners)
            owners[realpath(target)] = job
            yield replace(job, target=target)


def _keeps_ending(job: Job) -> bool:
    return job.source.suffix.lower() == job.target.suffix.lower()


def _firsts(made: Iterable[Job]) -> list[Path]:
    """Return, for each job, the input of the first job with the same target."""
    taken: dict[str, Path] = {}
    return [taken.setdefault(realpath(job.target), job.source) for job in made]


def _refused(job: Job, inputs: InputFiles, first: Path) -> Job:
    """Return the job with an error if its result would overwrite an input or another result."""
    error = inputs.refusal(job.target)
    if error:
        error += " or `suffix`"
    elif first != job.source:
        error = (
            f"the result would have the same name as that of {first}: rename one of the inputs, or "
            "use a different `dst` for each"
        )
    return replace(job, error=error) if error else job

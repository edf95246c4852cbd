"""The store of bundles that export writes and the runtime reads.

Layout: ``<folder>/<name>/manifest.json`` and, beside it, files whose names carry a piece of their
hash. The manifest is the commit point: new files are moved in under new names, then the manifest is
replaced in one step, then files that neither it nor the manifest before it names are removed. A
reader sees the old bundle or the new one, a runtime that has the old one open keeps its files, and
a killed writer leaves at most a folder ``.draft-*`` that the next writer sweeps.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path

from resharp.engines.bundle import MANIFEST, Bundle
from resharp.engines.locking import locked
from resharp.engines.manifest import File, Manifest
from resharp.errors import BundleError, NotExportedError, OptionError, OutputError
from resharp.fsutil import commit_file, sha256_of

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_OWNED = (".onnx", ".safetensors")  # files of a bundle that a new manifest may orphan


def check_name(name: str) -> str:
    """Return ``name`` if a bundle may be called so.

    Raises:
        OptionError: it holds anything but a-z, 0-9, ``.``, ``_``, ``-``.
    """
    if not _NAME.fullmatch(name):
        raise OptionError(
            f"{name!r} cannot name a model: use lower case letters, digits, '-', '_' and '.'"
        )
    return name


def variant_name(name: str, denoise: float | None) -> str:
    """Name of the bundle of a model at one denoise strength; 1 and None are the model itself.

    Raises:
        OptionError: the strength is not in 0..1.
    """
    if denoise is None:
        return name
    asked: object = denoise
    if not (isinstance(asked, Real) and 0 <= asked <= 1):  # type: ignore[operator]
        raise OptionError(f"denoise {denoise!r} is not in 0..1")
    denoise = named_strength(denoise)
    return name if denoise == 1 else f"{name}-dn{denoise:g}"


def named_strength(denoise: float) -> float:
    """The strength as a name has it, so that 0.1 + 0.2 and 0.3 are one."""
    return float(f"{denoise:.4g}")


def describe_file(path: Path) -> File:
    """Name, hash and size of a file, for a manifest."""
    return File(name=path.name, sha256=sha256_of(path), size=path.stat().st_size)


def named(path: Path, stem: str) -> File:
    """Rename a file so that its name carries a piece of its hash, and describe it."""
    file = describe_file(path)
    name = f"{stem}-{file.sha256[:12]}{path.suffix}"
    os.replace(path, path.with_name(name))
    return replace(file, name=name)


@dataclass(frozen=True)
class BundleDraft:
    """A bundle being written; nothing of it is seen until :meth:`commit`."""

    folder: Path
    """Put the files here."""
    target: Path
    """Where they will go."""

    def commit(self, manifest: Manifest) -> Bundle:
        """Move the files that ``manifest`` names into the store, then the manifest itself.

        Raises:
            OutputError: the disk refused; the old bundle, if any, is as it was.
        """
        keep = {file.name for file in (*manifest.files(), *_files_of(self.target))}
        try:
            for file in manifest.files():
                commit_file(self.folder / file.name, self.target / file.name)
            (self.folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
            commit_file(self.folder / MANIFEST, self.target / MANIFEST)
        except OSError as error:
            raise OutputError(f"cannot write the bundle {self.target}: {error}") from error
        _sweep(self.target, keep)
        return Bundle.open(self.target)


class Store:
    """The bundles of one folder.

    Args:
        folder: need not exist yet; it is made by the first writer.
        cure: what to do about a damaged bundle; empty: export it again.
    """

    def __init__(self, folder: Path, cure: str = "") -> None:
        self.folder, self._cure = folder, cure

    def names(self) -> tuple[str, ...]:
        """Names of all bundles, sorted."""
        if not self.folder.is_dir():
            return ()
        found = (p.parent.name for p in self.folder.glob(f"*/{MANIFEST}"))
        return tuple(sorted(name for name in found if _NAME.fullmatch(name)))

    def find(self, name: str) -> Bundle:
        """Open the bundle of that name.

        Raises:
            NotExportedError: there is none.
            BundleError: it is damaged.
        """
        folder = self.folder / check_name(name)
        try:
            return Bundle.open(folder, self._cure)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotExportedError(
                f"no bundle {name!r} in {self.folder}: resharp export {name}"
            ) from error

    def __contains__(self, name: str) -> bool:
        """Whether there is a bundle of that name, whole or not."""
        return os.path.isfile(self.folder / name / MANIFEST)

    @contextlib.contextmanager
    def writing(
        self, name: str, *, timeout: float = -1, on_wait: Callable[[], object] | None = None
    ) -> Iterator[BundleDraft]:
        """Hold the bundle's lock and give a folder to write into.

        Leaving without :meth:`BundleDraft.commit` changes nothing.

        Args:
            name: of the bundle.
            timeout: seconds to wait for another writer; negative waits for ever.
            on_wait: called once if another process holds the lock.

        Raises:
            StoreBusyError: another process still held the lock after ``timeout``.
            OutputError: the store's folder cannot be written.
        """
        check_name(name)
        with locked(self.folder, name, timeout, on_wait):
            for stale in self.folder.glob(f".draft-{name}~*"):  # ours alone: we hold the lock
                shutil.rmtree(stale, ignore_errors=True)
            try:
                folder = Path(tempfile.mkdtemp(prefix=f".draft-{name}~", dir=self.folder))
            except OSError as error:
                raise OutputError(f"cannot write in {self.folder}: {error}") from error
            try:
                yield BundleDraft(folder, self.folder / name)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def remove(self, name: str, *, timeout: float = -1) -> None:
        """Delete a bundle, its engines too.

        Raises:
            NotExportedError: there is none.
        """
        if check_name(name) not in self:
            raise NotExportedError(f"no bundle {name!r} in {self.folder}, so nothing to remove")
        with locked(self.folder, name, timeout):
            (self.folder / name / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(self.folder / name)

    def bundles(self) -> tuple[tuple[Bundle, ...], tuple[str, ...]]:
        """All bundles that open, and one line for each that does not."""
        whole, damaged = [], []
        for name in self.names():
            try:
                whole.append(self.find(name))
            except (BundleError, NotExportedError) as error:
                damaged.append(str(error))
        return tuple(whole), tuple(damaged)


def _files_of(folder: Path) -> tuple[File, ...]:
    """Files of the bundle that is about to be replaced: a runtime may have it open."""
    try:
        return Bundle.open(folder).manifest.files()
    except (OSError, BundleError):
        return ()


def _sweep(folder: Path, keep: set[str]) -> None:
    """Remove graphs and weights of older generations."""
    for path in folder.iterdir():
        if path.is_file() and path.suffix in _OWNED and path.name not in keep:
            path.unlink(missing_ok=True)

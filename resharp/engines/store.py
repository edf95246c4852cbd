"""Store of bundles, written by export and read by the runtime.

Layout: ``<folder>/<name>/manifest.json`` and, next to it, files whose names contain part of their
hash. The manifest is the commit point: new files are moved in under new names, then the manifest is
replaced in one step, then files that neither it nor the previous manifest lists are removed. A
reader sees the old bundle or the new one, a runtime that has the old one open keeps its files, and
a killed writer leaves at most a folder ``.draft-*``, which the next writer removes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from resharp.checks import check_number, shown
from resharp.engines.bundle import MANIFEST, Bundle
from resharp.engines.locking import locked
from resharp.engines.manifest import NAME, File, Manifest
from resharp.errors import BundleError, NotExportedError, OptionError, OutputError
from resharp.fsutil import commit_file, sha256_of

_NAME = re.compile(NAME)
_OWNED = (".onnx", ".safetensors")  # bundle files that a new manifest may orphan


def check_name(name: str) -> str:
    """Return ``name`` if it is a valid bundle name.

    Raises:
        OptionError: it contains anything but a-z, 0-9, ``.``, ``_``, ``-``.
    """
    if not _NAME.fullmatch(name):
        raise OptionError(
            f"invalid model name {shown(name)}: use lowercase letters, digits, '-', '_' and '.'"
        )
    return name


def variant_name(name: str, denoise: float | None) -> str:
    """Return the bundle name of a model at a denoise strength; 1 and None give ``name``.

    Raises:
        OptionError: the strength is not in 0..1.
    """
    if denoise is None:
        return name
    denoise = named_strength(check_number("denoise", denoise, 0, 1))
    return name if denoise == 1 else f"{name}-dn{denoise:g}"


def named_strength(denoise: float) -> float:
    """Round a strength to the digits of bundle names, so that 0.1 + 0.2 equals 0.3."""
    return float(f"{denoise:.4g}")


def describe_file(path: Path) -> File:
    """Return the name, hash and size of a file, for a manifest."""
    return File(name=path.name, sha256=sha256_of(path), size=path.stat().st_size)


def named(path: Path, stem: str) -> File:
    """Rename a file so that its name contains part of its hash, and describe it."""
    file = describe_file(path)
    name = f"{stem}-{file.sha256[:12]}{path.suffix}"
    os.replace(path, path.with_name(name))
    return replace(file, name=name)


@dataclass(frozen=True)
class BundleDraft:
    """A bundle being written, which is not visible until :meth:`commit`."""

    folder: Path
    """Folder to write the files to."""
    target: Path
    """Folder that :meth:`commit` moves them to."""

    def commit(self, manifest: Manifest) -> Bundle:
        """Move the files that ``manifest`` lists into the store, then the manifest itself.

        Raises:
            OutputError: a file operation failed; an existing bundle is left unchanged.
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
        folder: folder of the store; the first writer creates it if needed.
        cure: advice shown for a damaged bundle; empty: export it again.
    """

    def __init__(self, folder: Path, cure: str = "") -> None:
        self.folder, self._cure = folder, cure

    def names(self) -> tuple[str, ...]:
        """Return the names of all bundles, sorted.

        Raises:
            BundleError: the folder exists and cannot be read.
        """
        try:
            found = [path.name for path in self.folder.iterdir()]
        except FileNotFoundError:
            return ()
        except OSError as error:
            text = f"cannot read the store {self.folder}: {error.strerror or error}"
            raise BundleError(
                f"{text}. Choose another one with `store` or RESHARP_HOME."
            ) from error
        return tuple(sorted(name for name in found if _NAME.fullmatch(name) and name in self))

    def find(self, name: str) -> Bundle:
        """Open a bundle by name.

        Raises:
            NotExportedError: there is no such bundle.
            BundleError: the bundle is damaged.
        """
        folder = self.folder / check_name(name)
        try:
            return Bundle.open(folder, self._cure)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotExportedError(
                f"no bundle {shown(name)} in {self.folder}: run 'resharp export {name}'"
            ) from error

    def __contains__(self, name: str) -> bool:
        """Return whether there is a bundle of that name, complete or not."""
        return os.path.isfile(self.folder / name / MANIFEST)

    @contextlib.contextmanager
    def writing(
        self, name: str, *, timeout: float = -1, on_wait: Callable[[], object] | None = None
    ) -> Iterator[BundleDraft]:
        """Hold the bundle's lock and yield a draft with a folder to write to.

        Leaving the block without :meth:`BundleDraft.commit` changes nothing.

        Args:
            name: name of the bundle.
            timeout: seconds to wait for another writer; negative waits without limit.
            on_wait: called once if another process holds the lock.

        Raises:
            StoreBusyError: another process still held the lock after ``timeout``.
            OutputError: the store's folder cannot be written.
        """
        check_name(name)
        with locked(self.folder, name, timeout, on_wait):
            for stale in self.folder.glob(f".draft-{name}~*"):  # stale: we hold the lock
                shutil.rmtree(stale, ignore_errors=True)
            try:
                folder = Path(tempfile.mkdtemp(prefix=f".draft-{name}~", dir=self.folder))
            except OSError as error:
                raise OutputError(f"cannot write to {self.folder}: {error}") from error
            try:
                yield BundleDraft(folder, self.folder / name)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def remove(self, name: str, *, timeout: float = -1) -> None:
        """Delete a bundle and its engines.

        Raises:
            NotExportedError: there is no such bundle.
            OutputError: it cannot be deleted.
        """
        if check_name(name) not in self:
            raise NotExportedError(f"no bundle {shown(name)} in {self.folder}: nothing to remove")
        with locked(self.folder, name, timeout):
            try:
                (self.folder / name / MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(self.folder / name)
            except OSError as error:
                raise OutputError(f"cannot delete {self.folder / name}: {error}") from error

    def bundles(self) -> tuple[tuple[Bundle, ...], tuple[str, ...]]:
        """Return all bundles that can be opened, and one line per bundle that cannot."""
        whole, damaged = [], []
        for name in self.names():
            try:
                whole.append(self.find(name))
            except (BundleError, NotExportedError) as error:
                damaged.append(str(error))
        return tuple(whole), tuple(damaged)


def _files_of(folder: Path) -> tuple[File, ...]:
    """Return the files of the bundle about to be replaced, which a runtime may have open."""
    try:
        return Bundle.open(folder).manifest.files()
    except (OSError, BundleError):
        return ()


def _sweep(folder: Path, keep: set[str]) -> None:
    """Remove graphs and weights of older exports."""
    for path in folder.iterdir():
        if path.is_file() and path.suffix in _OWNED and path.name not in keep:
            path.unlink(missing_ok=True)

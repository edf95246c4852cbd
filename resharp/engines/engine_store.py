"""The folder of a bundle's engines: lookup, atomic writes, and parity records."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from resharp.checks import record
from resharp.engines.engine import Engine, Environment, ParityResult, is_of, mismatch, parse_engine
from resharp.engines.locking import locked
from resharp.engines.manifest import File, Manifest
from resharp.errors import BundleError, DamagedError, OutputError
from resharp.fsutil import PART, commit_file, flush, sha256_of, write_whole
from resharp.reading import open_regular, read_bounded, read_json

SUFFIX = ".engine"
_PARITY = ".parity.json"
_DRAFT = ".draft-"
PROOF = 2
"""Version of the parity check; raising it makes engines with older records be checked again."""
_FORGOTTEN = 24 * 3600.0
"""Age in seconds from which a draft counts as abandoned."""
_COMMITS = "commits"
"""Name of the lock for operations that concern all engines of the folder."""
PRECISIONS = ("fp16", "mixed", "fp32")
"""From fastest to most accurate. ``bf16`` is only built on request."""


@dataclass(frozen=True)
class Lookup:
    """Result of a lookup."""

    engines: tuple[Engine, ...]
    """Engines that fit, best first: by precision, then largest tile."""
    reasons: tuple[str, ...]
    """One line per engine that does not fit or cannot be read."""


class EngineStore:
    """The engines of one bundle.

    Args:
        folder: folder of the engines; it does not need to exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def engines(self) -> tuple[tuple[Engine, ...], tuple[str, ...]]:
        """Return the engines with a readable sidecar, and one line per engine without."""
        whole, bad = [], []
        try:
            paths = self._files()
        except BundleError as error:
            return (), (str(error),)
        for path in paths:
            try:
                whole.append(self._read(path))
            except BundleError as error:
                bad.append(str(error))
        return tuple(whole), tuple(bad)

    def lookup(self, manifest: Manifest, here: Environment, dtype: str) -> Lookup:
        """Find engines of one dtype that fit this bundle and environment, without hashing files.

        Args:
            manifest: manifest of the bundle.
            here: GPU, driver and TensorRT of this machine.
            dtype: ``uint8`` or ``float32``.
        """
        whole, bad = self.engines()
        fitting, reasons = [], list(bad)
        for engine in whole:
            if engine.spec.dtype != dtype:
                continue
            reason = mismatch(engine.spec, manifest, here)
            if reason is None:
                fitting.append(engine)
            else:
                reasons.append(f"{engine.key[:12]} ({engine.spec.precision}): {reason}")
        fitting.sort(key=lambda one: (precision_rank(one), -one.spec.profile.tile))
        return Lookup(tuple(fitting), tuple(reasons))

    def find(self, key: str) -> Engine | None:
        """Return the intact engine with that key; None if there is none."""
        path = self.folder / f"{key}{SUFFIX}"
        try:
            engine = self._read(path)
            self.verify(engine)
        except BundleError:
            return None
        return engine

    def read(self, engine: Engine) -> bytes:
        """Return the engine's bytes after verifying both of its files.

        Raises:
            DamagedError: a file is missing, truncated or changed.
            BundleError: a file cannot be read.
        """
        self._verify_file(engine, engine.reference)
        return self._verify_file(engine, engine.file)

    def verify(self, engine: Engine) -> None:
        """Hash the engine and its reference.

        Raises:
            DamagedError: a file is missing, truncated or changed.
            BundleError: a file cannot be read.
        """
        self.read(engine)

    def path(self, file: File) -> Path:
        """Return the path of one of an engine's files."""
        return self.folder / file.name

    @contextlib.contextmanager
    def lock_for_build(
        self, key: str, on_wait: Callable[[], object] | None = None
    ) -> Iterator[EngineDraft]:
        """Hold the key's lock and yield a draft; without a commit nothing is left behind.

        Raises:
            OutputError: the folder cannot be written.
        """
        with locked(self.folder, key[:24], on_wait=on_wait):
            _sweep(self.folder.glob(f"{_DRAFT}{key[:24]}~*"))  # stale: we hold the lock
            draft = EngineDraft(self, key)
            try:
                yield draft
            finally:
                draft.discard()

    def remove(self, engine: Engine) -> None:
        """Delete an engine, sidecar first; its reference stays while another engine uses it.

        Raises:
            OutputError: the folder cannot be written.
        """
        with locked(self.folder, _COMMITS), _writing(self.folder):
            self._unlink(engine.key)
            self._sweep_references()

    def clear(self) -> int:
        """Delete all engines, including damaged ones, with all their files; return the count.

        Raises:
            BundleError: the folder cannot be read.
            OutputError: the folder cannot be written.
        """
        if not self._files():
            return 0
        with locked(self.folder, _COMMITS), _writing(self.folder):
            keys = [path.stem for path in self._files()]
            for key in keys:
                self._unlink(key)
            self._sweep_references()
        return len(keys)

    def prune(self, manifest: Manifest) -> tuple[str, ...]:
        """Delete engines that no machine can use: damaged ones, and those of an older export.

        Engines that merely cannot be read now, or that a newer resharp built, are kept.

        Returns:
            One line per deleted engine.

        Raises:
            BundleError: the folder cannot be read.
            OutputError: the folder cannot be written.
        """
        gone = []
        old = time.time() - _FORGOTTEN
        with _writing(self.folder):
            left = (*self.folder.glob(f"{_DRAFT}*"), *self.folder.glob(f".*{PART}"))
            _sweep(path for path in left if _age(path) < old)
        for path in self._files():
            with locked(self.folder, path.stem[:24]), _writing(self.folder):
                try:
                    engine = self._read(path)
                    self.verify(engine)
                except DamagedError as error:
                    self._unlink(path.stem)
                    gone.append(f"{path.stem[:12]}: {error}")
                    continue
                except BundleError:
                    continue
                if not is_of(engine.spec, manifest):
                    self.remove(engine)
                    gone.append(f"{engine.key[:12]}: built from an older export of the model")
        if gone:
            with locked(self.folder, _COMMITS), _writing(self.folder):
                self._sweep_references()
        return tuple(gone)

    def parity(self, engine: Engine, here: Environment) -> ParityResult | None:
        """Return the result recorded at the engine's first run on this GPU and driver, if any."""
        stored: Any = self._records(engine).get(_place(here))
        try:
            same = stored["engine"] == engine.file.sha256  # the same bytes, not only the key
            found = record(ParityResult, stored)
            known = same and stored["proof"] == PROOF and found.psnr >= 0
        except (TypeError, KeyError, ValueError):  # no record, or a damaged one
            return None
        return found if known else None

    def record(self, engine: Engine, here: Environment, result: ParityResult) -> bool:
        """Record the result of the first run; return False if the folder cannot be written."""
        own = {**asdict(result), "engine": engine.file.sha256, "proof": PROOF}
        records = self._records(engine) | {_place(here): own}
        try:
            write_whole(self._parity(engine), json.dumps(records, indent=2).encode() + b"\n")
        except OutputError:
            return False
        return True

    def _sweep_references(self) -> None:
        """Delete reference images that no engine uses, unless a sidecar cannot be read."""
        engines, bad = self.engines()
        if bad:
            return
        needed = {engine.reference.name for engine in engines}
        _sweep(p for p in self.folder.glob("reference-*.npz") if p.name not in needed)

    def _unlink(self, key: str) -> None:
        for suffix in (".json", _PARITY, SUFFIX):
            (self.folder / f"{key}{suffix}").unlink(missing_ok=True)
        for cache in self.folder.glob(f"{key}.cache-*"):
            cache.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        """Return the engine files, sorted; raise BundleError if the folder cannot be read."""
        try:
            found = sorted(self.folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise BundleError(f"cannot read {self.folder}: {error.strerror or error}") from error
        return [path for path in found if path.suffix == SUFFIX and path.name[0] != "."]

    def _read(self, path: Path) -> Engine:
        sidecar = path.with_suffix(".json")
        try:
            engine = parse_engine(read_bounded(sidecar).decode("utf-8"), str(sidecar))
        except FileNotFoundError as error:
            raise DamagedError(f"{path} has no sidecar: build it again") from error
        except OSError as error:
            raise BundleError(f"{sidecar} cannot be read ({error})") from error
        except UnicodeDecodeError as error:
            raise DamagedError(f"{sidecar} is damaged ({error}): build it again") from error
        if engine.file.name != path.name or engine.key != path.stem:
            raise DamagedError(f"{sidecar} belongs to another engine: build it again")
        return engine

    def _verify_file(self, engine: Engine, file: File) -> bytes:
        path = self.path(file)
        cure = f"run 'export-engines {engine.model}' to build it again"
        try:
            with open_regular(path) as stream:
                size = os.fstat(stream.fileno()).st_size
                if size != file.size:
                    raise DamagedError(
                        f"{path} is damaged: expected {file.size} bytes, got {size}; {cure}"
                    )
                data = stream.read()
        except FileNotFoundError as error:
            raise DamagedError(f"{path} is missing; {cure}") from error
        except OSError as error:
            raise BundleError(f"{path} cannot be read ({error}); {cure}") from error
        if sha256_of(data) != file.sha256:
            raise DamagedError(f"{path} is damaged: its SHA-256 differs from its sidecar; {cure}")
        return data

    def _records(self, engine: Engine) -> dict[str, Any]:
        try:
            found = read_json(self._parity(engine))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _parity(self, engine: Engine) -> Path:
        return self.folder / f"{engine.key}{_PARITY}"


class EngineDraft:
    """Engine that is being written under temporary names."""

    def __init__(self, engine_store: EngineStore, key: str) -> None:
        self._store, self._stem = engine_store, f"{_DRAFT}{key[:24]}~{uuid4().hex}"

    def scratch(self) -> Path:
        """Return a folder for the build, on the store's disk, that is removed with the draft.

        Raises:
            OutputError: the folder cannot be created.
        """
        folder = self._store.folder / f"{self._stem}.scratch"
        with _writing(self._store.folder):
            folder.mkdir(exist_ok=True)
        return folder

    def commit(self, engine: Engine, data: Any, reference: bytes) -> Engine:
        """Write reference, engine and sidecar, in this order: the sidecar makes it visible.

        Raises:
            OutputError: a file operation failed. An existing engine is unchanged, unless a rename
                failed: then there is no engine with that key.
        """
        engine_store = self._store
        sidecar = engine_store.folder / f"{engine.key}.json"
        with locked(engine_store.folder, _COMMITS), _writing(engine_store.folder):
            # Everything is on disk before any file of an older engine is touched.
            bytes_part = self._staged("part", data)
            sidecar_part = self._staged("json.part", engine.to_json().encode())
            commit_file(self._staged("whole.part", reference), engine_store.path(engine.reference))
            # The old sidecar must never describe the new bytes, even if we are killed in between.
            sidecar.unlink(missing_ok=True)
            (engine_store.folder / f"{engine.key}{_PARITY}").unlink(missing_ok=True)
            os.replace(bytes_part, engine_store.path(engine.file))
            commit_file(sidecar_part, sidecar)
            engine_store._sweep_references()
        return engine

    def _staged(self, suffix: str, data: Any) -> Path:
        """Write bytes to disk in the destination folder; :meth:`discard` removes them."""
        path = self._store.folder / f"{self._stem}.{suffix}"
        path.write_bytes(data)
        flush(path)
        return path

    def discard(self) -> None:
        """Remove the files left by a failed write."""
        _sweep(self._store.folder.glob(f"{self._stem}*"))


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # its writer just finished
        return math.inf


def _sweep(paths: Iterable[Path]) -> None:
    for path in list(paths):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error}") from error


def precision_rank(engine: Engine) -> int:
    """Return the rank of an engine's precision in :data:`PRECISIONS`; others rank last."""
    return (*PRECISIONS, engine.spec.precision).index(engine.spec.precision)


def _place(here: Environment) -> str:
    return f"{here.gpu} | {here.capability} | CUDA {here.driver} | {here.variant} {here.version}"

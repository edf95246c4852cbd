"""A bundle: one folder of the store with a manifest, graphs and weights.

The manifest includes the fastest settings per device, as measured by ``export-engines`` with
``tune``. The package's own bundles are read-only, so their tunings are stored in a file next to
their engines in the user's store and are added to the manifest when the bundle is found.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from resharp.checks import LONGEST, record
from resharp.engines.engine_store import EngineStore
from resharp.engines.locking import locked
from resharp.engines.manifest import File, Manifest, Tuning, parse
from resharp.errors import BundleError
from resharp.fsutil import sha256_of, write_whole
from resharp.reading import read_bounded, read_json

MANIFEST = "manifest.json"
ENGINES = "engines"
TUNINGS = "tunings.json"
"""Name of the file, next to the engines, with the tunings of a read-only bundle."""


@dataclass(frozen=True)
class Bundle:
    """A complete bundle on disk."""

    folder: Path
    """Folder of the bundle."""
    manifest: Manifest
    """Parsed manifest."""
    cure: str = ""
    """Advice shown if the bundle is damaged; empty: export it again."""
    engine_store_folder: Path | None = None
    """Folder of its engines; None: inside ``folder``. Set for read-only bundles."""

    @classmethod
    def open(cls, folder: Path, cure: str = "") -> Bundle:
        """Read the manifest of ``folder`` and check that every file exists with the right size.

        Raises:
            FileNotFoundError: the folder has no manifest, so it is not a bundle.
            BundleError: the manifest or a file is damaged or cannot be read.
        """
        path = folder / MANIFEST
        bundle = cls(folder, read_manifest(path), cure)
        for file in bundle.manifest.files():
            bundle._check_size(file)
        return bundle

    def path(self, file: File) -> Path:
        """Return the path of one of the bundle's files."""
        return self.folder / file.name

    @property
    def engine_store(self) -> EngineStore:
        """Store of the bundle's TensorRT engines."""
        return EngineStore(self.engine_store_folder or self.folder / ENGINES)

    def verify(self) -> None:
        """Hash every file and compare it with the manifest.

        Raises:
            BundleError: a file is missing or differs from the export.
        """
        for file in self.manifest.files():
            self._check_size(file)
            try:
                found = sha256_of(self.path(file))
            except OSError as error:
                raise BundleError(f"cannot read {self.path(file)}: {error.strerror}") from error
            if found != file.sha256:
                raise BundleError(
                    f"{self.path(file)} is damaged: expected SHA-256 {file.sha256[:16]}..., got "
                    f"{found[:16]}... {self._cure()}"
                )

    def _check_size(self, file: File) -> None:
        path = self.path(file)
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            found = None
        except OSError as error:  # no permission, or links in a circle
            raise BundleError(f"cannot read {path}: {error.strerror}") from error
        if found is None or not stat.S_ISREG(found.st_mode):
            raise BundleError(f"{path} is missing. {self._cure()}")
        size = found.st_size
        if size != file.size:
            raise BundleError(
                f"{path} is damaged: expected {file.size} bytes, got {size}. {self._cure()}"
            )

    def _cure(self) -> str:
        return (
            self.cure
            or f"Run 'resharp export {self.manifest.name}' with `force` to export it again."
        )


def read_manifest(path: Path) -> Manifest:
    """Read and parse the manifest of a bundle.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
        BundleError: it is damaged, or cannot be read.
    """
    try:
        text = read_bounded(path).decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} is damaged ({error}): export the model again") from error
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}") from error
    return parse(text, str(path))


def save_tuning(bundle: Bundle, tuning: Tuning) -> Bundle:
    """Save a tuning, replacing the one for the same backend and device.

    Returns:
        The bundle with the new tuning.

    Raises:
        OutputError: the store cannot be written.
        BundleError: the model was exported again meanwhile, or the manifest is damaged.
    """
    if bundle.engine_store_folder is not None:
        return _keep_beside(bundle, tuning)
    with locked(bundle.folder.parent, bundle.folder.name):
        path = bundle.folder / MANIFEST
        try:
            manifest = read_manifest(path)
        except OSError as error:
            raise BundleError(f"{path} was removed during the measurement") from error
        if manifest.graphs != bundle.manifest.graphs:
            raise BundleError(f"{path} was exported again during the measurement: tune again")
        manifest = _with(manifest, tuning)
        write_whole(path, manifest.to_json().encode())
    return replace(bundle, manifest=manifest)


def load_tuning(bundle: Bundle) -> Bundle:
    """Return the bundle with its tunings from the user's store, if they match its graphs.

    An unreadable file is not an error: the bundle is then returned as it is.
    """
    try:
        found = _read(_beside(bundle), bundle.manifest)
    except BundleError:
        return bundle
    return replace(bundle, manifest=replace(bundle.manifest, tunings=found))


def _keep_beside(bundle: Bundle, tuning: Tuning) -> Bundle:
    path = _beside(bundle)
    with locked(path.parent.parent, path.parent.name):
        try:
            found = _read(path, bundle.manifest)
        except BundleError:
            found = ()
        manifest = _with(replace(bundle.manifest, tunings=found), tuning)
        items = [asdict(one) for one in manifest.tunings]
        data = {"graphs": _graphs(manifest), "tunings": items}
        write_whole(path, json.dumps(data, indent=2).encode() + b"\n", parents=True)
    return replace(bundle, manifest=manifest)


def _beside(bundle: Bundle) -> Path:
    return (bundle.engine_store_folder or bundle.folder / ENGINES).parent / TUNINGS


def _read(path: Path, manifest: Manifest) -> tuple[Tuning, ...]:
    try:
        data = read_json(path)
        if data["graphs"] != _graphs(manifest):
            return ()
        return tuple(record(Tuning, item) for item in data["tunings"][:LONGEST])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} is damaged ({error}): tune again") from error


def _graphs(manifest: Manifest) -> Mapping[str, str]:
    return {dtype: file.sha256 for dtype, file in manifest.graphs.items()}


def _with(manifest: Manifest, tuning: Tuning) -> Manifest:
    key = (tuning.backend, tuning.device)
    others = (one for one in manifest.tunings if (one.backend, one.device) != key)
    return replace(manifest, tunings=(*others, tuning))

"""A bundle: one folder of the store with a manifest, graphs and weights.

Its manifest holds what ``export-engines --tune`` measured to be fastest on each device. The
package's own bundles cannot be written, so their tunings are in a file of the user's store, beside
their engines, and join the manifest when the bundle is found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from resharp.engines.engine_store import EngineStore
from resharp.engines.locking import locked
from resharp.engines.manifest import File, Manifest, Tuning, known_fields, parse
from resharp.errors import BundleError
from resharp.fsutil import sha256_of, write_whole

MANIFEST = "manifest.json"
ENGINES = "engines"
TUNINGS = "tunings.json"
"""Beside the engines of a bundle that cannot be written itself."""


@dataclass(frozen=True)
class Bundle:
    """A whole bundle on disk."""

    folder: Path
    """Where it is."""
    manifest: Manifest
    """What it holds."""
    cure: str = ""
    """What to do if it is damaged; empty: export it again."""
    engine_store_folder: Path | None = None
    """Where its engines are; None: in its own folder. The package's own cannot be written to."""

    @classmethod
    def open(cls, folder: Path, cure: str = "") -> Bundle:
        """Read the manifest of ``folder`` and see that every file is there in its size.

        Raises:
            FileNotFoundError: the folder has no manifest, so it is no bundle.
            BundleError: the manifest or a file is damaged.
        """
        path = folder / MANIFEST
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise BundleError(f"{path} is damaged ({error}): export the model again") from error
        bundle = cls(folder, parse(text, str(path)), cure)
        for file in bundle.manifest.files():
            bundle._check_size(file)
        return bundle

    def path(self, file: File) -> Path:
        """Where one of its files is."""
        return self.folder / file.name

    @property
    def engine_store(self) -> EngineStore:
        """Its TensorRT engines."""
        return EngineStore(self.engine_store_folder or self.folder / ENGINES)

    def verify(self) -> None:
        """Hash every file and compare with the manifest.

        Raises:
            BundleError: a file is missing or its bytes are not those of the export.
        """
        for file in self.manifest.files():
            self._check_size(file)
            found = sha256_of(self.path(file))
            if found != file.sha256:
                raise BundleError(
                    f"{self.path(file)} is damaged: its SHA-256 is {found[:16]}..., the manifest "
                    f"says {file.sha256[:16]}... {self._cure()}"
                )

    def _check_size(self, file: File) -> None:
        path = self.path(file)
        if not path.is_file():
            raise BundleError(f"{path} is missing. {self._cure()}")
        size = path.stat().st_size
        if size != file.size:
            raise BundleError(
                f"{path} is damaged: {size} bytes, the manifest says {file.size}. {self._cure()}"
            )

    def _cure(self) -> str:
        return self.cure or f"Make it anew: resharp export {self.manifest.name} --force"


def save_tuning(bundle: Bundle, tuning: Tuning) -> Bundle:
    """Write a tuning, in place of the one for the same backend and device.

    Returns:
        The bundle with it.

    Raises:
        OutputError: the store cannot be written.
        BundleError: the model was exported anew meanwhile, or what is there is damaged.
    """
    if bundle.engine_store_folder is not None:
        return _keep_beside(bundle, tuning)
    with locked(bundle.folder.parent, bundle.folder.name):
        path = bundle.folder / MANIFEST
        manifest = parse(path.read_text(encoding="utf-8"), str(path))
        if manifest.graphs != bundle.manifest.graphs:
            raise BundleError(f"{path} was exported anew while this was measured: tune it again")
        manifest = _with(manifest, tuning)
        write_whole(path, manifest.to_json().encode())
    return replace(bundle, manifest=manifest)


def load_tuning(bundle: Bundle) -> Bundle:
    """The bundle with the tunings that are kept in the user's store, if they are for its graph.

    A file that cannot be read is no reason not to restore: nothing is tuned then.
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
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["graphs"] != _graphs(manifest):
            return ()
        return tuple(Tuning(**known_fields(Tuning, item)) for item in data["tunings"])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path} is damaged ({error}): tune again") from error


def _graphs(manifest: Manifest) -> Mapping[str, str]:
    return {dtype: file.sha256 for dtype, file in manifest.graphs.items()}


def _with(manifest: Manifest, tuning: Tuning) -> Manifest:
    key = (tuning.backend, tuning.device)
    others = (one for one in manifest.tunings if (one.backend, one.device) != key)
    return replace(manifest, tunings=(*others, tuning))

"""A bundle: one folder of the store with a manifest, graphs and weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from resharp.engines.engine_store import EngineStore
from resharp.engines.manifest import File, Manifest, parse
from resharp.errors import BundleError
from resharp.fsutil import sha256_of

MANIFEST = "manifest.json"
ENGINES = "engines"


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

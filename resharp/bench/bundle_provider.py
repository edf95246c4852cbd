"""The models of a run, from the store or exported on the fly, and their engines."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from resharp.bench.cases import Case
from resharp.bench.random_models import make_random_model
from resharp.engines import ENGINES, Bundle
from resharp.errors import BackendError
from resharp.gpu import tensorrt as trt
from resharp.runtime.bundle_lookup import resolve
from resharp.types import Log


class BundleProvider:
    """Cache of the bundles and engines of a run.

    Args:
        scratch: folder for new bundles and engines; the user's store is only read.
        stand_ins: networks with random weights, by name.
        store: folder of the user's store.
        log: called with a line before each export or build.
    """

    def __init__(
        self,
        scratch: Path,
        stand_ins: Mapping[str, Mapping[str, Any]],
        store: Path | None,
        log: Log,
    ) -> None:
        self._scratch, self._stand_ins = scratch, stand_ins
        self._store, self._log = store, log
        self._found: dict[str, Bundle] = {}
        self._with_engines: dict[tuple[str, str], Bundle | str] = {}

    def find(self, name: str) -> Bundle:
        """Return the bundle of a model.

        Raises:
            UnknownModelError, NotExportedError, BundleError: raised by :func:`resolve`.
            MissingExtraError: a stand-in needs the extra ``export``.
        """
        if name not in self._found:
            if name in self._stand_ins:
                self._log(f"{name}: exporting a network with random weights")
                found = make_random_model(name, self._stand_ins[name], self._scratch)
            else:
                found = resolve(name, store=self._store)
            found.verify()
            self._found[name] = found
        return self._found[name]

    def with_engines(self, bundle: Bundle, case: Case, cases: Sequence[Case]) -> Bundle:
        """Return the bundle with the engines of one variant only, if the case needs engines.

        The user's engines of that variant are used. If there are none, one is built for the
        largest tile and batch of the run.

        Raises:
            MissingExtraError: this variant of TensorRT is not installed.
            BackendError: there are no engines and none can be built.
        """
        if case.subject not in trt.VARIANTS:
            return bundle
        trt.load(case.subject)
        key = (case.model, case.subject)
        if key not in self._with_engines:
            same = [c for c in cases if (c.model, c.subject) == key]
            try:
                self._with_engines[key] = self._copy_with_engines(bundle, case.subject, same)
            except (BackendError, OSError) as error:
                self._with_engines[key] = str(error)
        found = self._with_engines[key]
        if isinstance(found, str):
            raise BackendError(found)
        return found

    def _copy_with_engines(self, bundle: Bundle, variant: str, cases: Sequence[Case]) -> Bundle:
        store, name = self._scratch / "engines" / variant, bundle.manifest.name
        shutil.copytree(bundle.folder, store / name, ignore=shutil.ignore_patterns(ENGINES))
        own, copy = bundle.engine_store.folder, store / name / ENGINES
        if own.is_dir():
            shutil.copytree(own, copy)
        found = replace(bundle, engine_store_folder=copy)
        for engine in found.engine_store.engines()[0]:
            if engine.spec.variant != variant:
                found.engine_store.remove(engine)
        if not found.engine_store.engines()[0]:
            self._log(f"{name}: building the {variant} engine")
            _build(name, variant, store, cases)
        return found


def _build(name: str, variant: str, store: Path, cases: Sequence[Case]) -> None:
    """Build an engine for the first GPU in a separate process, so that its CUDA context is freed.

    Raises:
        BackendError: the build failed; the message ends with the last line of its output.
    """
    batch = max(case.batch or 1 for case in cases)
    command = [sys.executable, "-m", "resharp", "export-engines", name, "--offline"]
    command += ["--dtype", "uint8", "--variant", variant, "--store", str(store)]
    command += ["--batch", str(batch)]
    tiles = [case.tile for case in cases if isinstance(case.tile, int)]
    if tiles:
        command += ["--tile", str(max(tiles))]
    done = subprocess.run([*command, "--gpu", "0"], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise BackendError(f"building the {variant} engine failed: {lines[-1]}")

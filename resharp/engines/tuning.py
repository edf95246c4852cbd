"""What ``export-engines --tune`` measured to be fastest on a device, and where that is kept.

A tuning is part of the manifest. The package's own bundles cannot be written, so theirs are in a
file of the user's store, beside their engines, and join the manifest when the bundle is found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from resharp.engines.bundle import ENGINES, MANIFEST, Bundle
from resharp.engines.locking import locked
from resharp.engines.manifest import Manifest, Tuning, known_fields, parse
from resharp.errors import BundleError
from resharp.fsutil import write_whole

TUNINGS = "tunings.json"
"""Beside the engines of a bundle that cannot be written itself."""


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

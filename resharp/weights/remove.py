"""Removes checkpoints from the folder of checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

from resharp.paths import weights_folder
from resharp.weights.files import writing
from resharp.weights.local import LOCAL, resolve
from resharp.weights.state import recorded


def remove(name: str, folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Delete the checkpoint of a model, downloaded or imported.

    Args:
        name: name of the model; for an imported one its description is deleted too.
        folder: folder of checkpoints; None is the default.

    Returns:
        The file that was deleted; None if there was none.

    Raises:
        UnknownModelError: no model has that name.
        OutputError: the file cannot be deleted.
    """
    place = weights_folder(folder)
    entry = resolve(name, place)
    path, imported = place / entry.file, entry.file.startswith(f"{LOCAL}/")
    if not os.path.exists(path) and not imported:
        return None
    with writing(place, f"{LOCAL}-{entry.name}" if imported else entry.file):
        if imported:  # first, so that the name never points at nothing
            (place / LOCAL / f"{entry.name}.json").unlink(missing_ok=True)
        found = os.path.exists(path)
        path.unlink(missing_ok=True)
        recorded(entry, place).unlink(missing_ok=True)
    return path if found else None

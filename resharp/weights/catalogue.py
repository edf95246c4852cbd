"""The official checkpoints of ``catalogue.json`` and their lookup by name."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

from resharp.checks import shown
from resharp.errors import UnknownModelError
from resharp.weights.entry import BUILTIN, ModelEntry

SCHEMA = 1
SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors", ".onnx")


class Catalogue(Mapping[str, ModelEntry]):
    """Entries by name, in the order of the file; each is parsed on first access.

    Args:
        data: the catalogue's JSON.

    Raises:
        ValueError: the schema is wrong, a name or file occurs twice, or a blend is unknown.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        if data.get("schema") != SCHEMA:
            raise ValueError(f"catalogue: schema must be {SCHEMA}, got {shown(data.get('schema'))}")
        rows = data["entries"]
        self._rows = {row["name"]: row for row in rows}
        self._entries: dict[str, ModelEntry] = {}
        if len(self._rows) != len(rows) or len({row["file"] for row in rows}) != len(rows):
            raise ValueError("catalogue: a name or a file occurs twice")
        for row in rows:
            other = (row.get("blend") or {}).get("with", row["name"])
            if other not in self._rows:
                raise ValueError(f"catalogue: {row['name']} blends with unknown {other}")

    def __getitem__(self, name: str) -> ModelEntry:
        if name not in self._entries:
            self._entries[name] = ModelEntry.from_json(self._rows[name])
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def spelled(self, name: str) -> ModelEntry | None:
        """Return the entry that :func:`find` returns for ``name``, or None if there is none.

        Raises:
            ValueError: a spelling could refer to two entries.
        """
        meant = name if name in self._rows else self._spellings.get(_squash(name))
        return None if meant is None else self[meant]

    @cached_property
    def _spellings(self) -> dict[str, str]:
        spellings: dict[str, str] = {}
        for name, row in self._rows.items():
            for text in (name, row["file"], *row.get("aliases", ())):
                if spellings.setdefault(_squash(text), name) != name:
                    raise ValueError(f"catalogue: {text} could refer to {name} or another entry")
        return spellings


@cache
def catalogue() -> Catalogue:
    """Return all official checkpoints by name.

    Raises:
        ValueError: the file in the package is invalid.
    """
    text = files("resharp.weights").joinpath("catalogue.json").read_text(encoding="utf-8")
    return Catalogue(json.loads(text))


def find(name: str) -> ModelEntry:
    """Return the official checkpoint called ``name``.

    Case, ``_``, ``-`` and ``.`` are ignored; the official file name, e.g.
    ``RealESRGAN_x4plus.pth``, and its stem are also accepted.

    Raises:
        UnknownModelError: the name is unknown; the message suggests similar names.
    """
    entry = lookup(name)
    if entry is None:
        raise unknown(name, catalogue())
    return entry


def lookup(name: str) -> ModelEntry | None:
    """Return the official checkpoint called ``name`` as :func:`find` does, or None."""
    # The built-in model is not in the catalogue, and most callers ask for it.
    return None if name == BUILTIN else catalogue().spelled(name)


def unknown(name: str, names: Iterable[str]) -> UnknownModelError:
    """Return the error for an unknown ``name``, with suggestions from ``names``."""
    close = nearest(name, names)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return UnknownModelError(
        f"no model is called {shown(name)}{hint} ('resharp models list' shows all)"
    )


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Return up to three of ``names`` that are similar to ``name``, most similar first."""
    return difflib.get_close_matches(kebab(name), list(names), n=3, cutoff=0.5)


def kebab(text: str) -> str:
    """Convert ``text`` to kebab-case without a checkpoint's suffix; the result may be empty.

    ``"4x_Ultra Sharp.pth"`` becomes ``"4x-ultra-sharp"``.
    """
    text = text.strip().lower()
    for suffix in SUFFIXES:
        text = text.removesuffix(suffix)
    text = re.sub(r"[^a-z0-9.]+", "-", text)
    return re.sub(r"[-.]*-[-.]*|\.{2,}", "-", text).strip("-.")


def _squash(text: str) -> str:
    return re.sub(r"[-.]", "", kebab(text))

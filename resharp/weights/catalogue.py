"""The official checkpoints, read from ``catalogue.json``, and how to find one by its name."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

from resharp.errors import UnknownModelError
from resharp.weights.entry import BUILTIN, ModelEntry

SCHEMA = 1
SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors", ".onnx")


class Catalogue(Mapping[str, ModelEntry]):
    """Entries by name, in the order of the file; each is read when it is first asked for.

    Args:
        data: the catalogue's JSON.

    Raises:
        ValueError: another schema, a name or a file that occurs twice, or a blend with nobody.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        if data.get("schema") != SCHEMA:
            raise ValueError(f"catalogue: schema {data.get('schema')!r}, expected {SCHEMA}")
        rows = data["entries"]
        self._rows = {row["name"]: row for row in rows}
        self._entries: dict[str, ModelEntry] = {}
        if len(self._rows) != len(rows) or len({row["file"] for row in rows}) != len(rows):
            raise ValueError("catalogue: a name or a file occurs twice")
        for row in rows:
            other = (row.get("blend") or {}).get("with", row["name"])
            if other not in self._rows:
                raise ValueError(f"catalogue: {row['name']} blends with the unknown {other}")

    def __getitem__(self, name: str) -> ModelEntry:
        if name not in self._entries:
            self._entries[name] = ModelEntry.from_json(self._rows[name])
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def spelled(self, name: str) -> ModelEntry | None:
        """The entry that ``name`` means, as :func:`find` reads it; None where there is none.

        Raises:
            ValueError: a spelling could mean two entries.
        """
        meant = name if name in self._rows else self._spellings.get(_squash(name))
        return None if meant is None else self[meant]

    @cached_property
    def _spellings(self) -> dict[str, str]:
        spellings: dict[str, str] = {}
        for name, row in self._rows.items():
            for text in (name, row["file"], *row.get("aliases", ())):
                if spellings.setdefault(_squash(text), name) != name:
                    raise ValueError(f"catalogue: {text} could be {name} or another")
        return spellings


@cache
def catalogue() -> Catalogue:
    """Every official checkpoint by its name.

    Raises:
        ValueError: the file that came with the package is not valid.
    """
    text = files("resharp.weights").joinpath("catalogue.json").read_text(encoding="utf-8")
    return Catalogue(json.loads(text))


def find(name: str) -> ModelEntry:
    """The official checkpoint called ``name``.

    Upper and lower case, ``_``, ``-`` and ``.`` do not matter; the official file name and its stem
    are accepted too: ``RealESRGAN_x4plus.pth``.

    Raises:
        UnknownModelError: there is none; the message has the nearest names.
    """
    entry = lookup(name)
    if entry is None:
        raise unknown(name, catalogue())
    return entry


def lookup(name: str) -> ModelEntry | None:
    """Like :func:`find`, but None where there is none."""
    # The built-in model is none of them, and is what most callers ask for.
    return None if name == BUILTIN else catalogue().spelled(name)


def unknown(name: str, names: Iterable[str]) -> UnknownModelError:
    """The error for ``name`` where only ``names`` exist."""
    close = nearest(name, names)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return UnknownModelError(f"no model is called {name!r}{hint} ('resharp weights list' has all)")


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """At most three of ``names`` that look like ``name``, the most similar one first."""
    return difflib.get_close_matches(kebab(name), list(names), n=3, cutoff=0.5)


def kebab(text: str) -> str:
    """``text`` as a name in kebab-case, without the suffix of a checkpoint; may be empty.

    ``"4x_Ultra Sharp.pth"`` gives ``"4x-ultra-sharp"``.
    """
    text = text.strip().lower()
    for suffix in SUFFIXES:
        text = text.removesuffix(suffix)
    text = re.sub(r"[^a-z0-9.]+", "-", text)
    return re.sub(r"[-.]*-[-.]*|\.{2,}", "-", text).strip("-.")


def _squash(text: str) -> str:
    return re.sub(r"[-.]", "", kebab(text))

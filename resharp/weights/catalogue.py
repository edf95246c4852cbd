"""The official checkpoints, read from ``catalogue.json``, and how to find one by its name."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from resharp.errors import UnknownModelError
from resharp.weights.entry import ModelEntry

SCHEMA = 1
SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors", ".onnx")


@cache
def catalogue() -> Mapping[str, ModelEntry]:
    """Every official checkpoint by its name, in the order of the file.

    Raises:
        ValueError: the file that came with the package is not valid.
    """
    text = files("resharp.weights").joinpath("catalogue.json").read_text(encoding="utf-8")
    return parse(json.loads(text))


def parse(data: Mapping[str, Any]) -> Mapping[str, ModelEntry]:
    """Validate the catalogue's JSON.

    Raises:
        ValueError: another schema, a bad entry, or two entries that would be mistaken for another.
    """
    if data.get("schema") != SCHEMA:
        raise ValueError(f"catalogue: schema {data.get('schema')!r}, expected {SCHEMA}")
    entries = [ModelEntry.from_json(row) for row in data["entries"]]
    found = {entry.name: entry for entry in entries}
    if len(found) != len(entries) or len({entry.file for entry in entries}) != len(entries):
        raise ValueError("catalogue: a name or a file occurs twice")
    _spellings(entries)
    for entry in entries:
        if entry.blend is not None and entry.blend not in found:
            raise ValueError(f"catalogue: {entry.name} blends with the unknown {entry.blend}")
    return MappingProxyType(found)


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
    key = _by_spelling().get(_squash(name))
    return None if key is None else catalogue()[key]


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


@cache
def _by_spelling() -> Mapping[str, str]:
    return _spellings(catalogue().values())


def _spellings(entries: Iterable[ModelEntry]) -> dict[str, str]:
    spellings: dict[str, str] = {}
    for entry in entries:
        for text in (entry.name, entry.stem, *entry.aliases):
            if spellings.setdefault(_squash(text), entry.name) != entry.name:
                raise ValueError(f"catalogue: {text} could be {entry.name} or another")
    return spellings

"""What keeps the package readable at a glance: names that mean one thing, rooms of a size."""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.test_imports import MAY_IMPORT, MODULES, PACKAGE, imports, room

SHARED_NAMES = {
    "run": "the entry point of a room",
    "report": "what became of a room's work",
    "backend": "the class of a backend that is a folder",
    "lane": "one stream with its buffers, in torch's way and in TensorRT's",
}
"""Names that modules of several rooms may have, and what each means everywhere."""
NAMED_FOR_OTHERS = {"cli", "compat"}
"""Rooms whose modules are named for what they stand for: commands, and Real-ESRGAN's modules."""
LARGEST_SHARE = 0.15


def names_of_modules() -> dict[str, set[str]]:
    """Rooms in which a module name stands."""
    found = defaultdict(set)
    for path in MODULES:
        if not path.stem.startswith("__") and room(path) not in NAMED_FOR_OTHERS:
            found[path.stem].add("/".join(path.relative_to(PACKAGE).parts[:-1]))
    return found


def test_a_module_name_stands_once() -> None:
    twice = {name: rooms for name, rooms in names_of_modules().items() if len(rooms) > 1}
    assert {name for name in twice if name not in SHARED_NAMES} == set(), twice


def test_the_list_of_shared_module_names_is_no_longer_than_needed() -> None:
    twice = {name for name, rooms in names_of_modules().items() if len(rooms) > 1}
    assert set(SHARED_NAMES) <= twice


def test_a_public_class_name_stands_once() -> None:
    found = defaultdict(list)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(str(path.relative_to(PACKAGE)))
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


def test_rooms_stand_on_floors() -> None:
    """The rules of :mod:`tests.test_imports` have no cycle, and neither do the imports."""
    TopologicalSorter(MAY_IMPORT).prepare()
    seen: dict[str, set[str]] = defaultdict(set)
    for path in MODULES:
        for name in imports(path):
            _, _, rest = name.partition("resharp.")
            other = rest.partition(".")[0]
            if other in MAY_IMPORT and other != room(path) and room(path) != "__init__":
                seen[room(path)].add(other)
    TopologicalSorter(seen).prepare()


@pytest.mark.parametrize("inside", ["", "runtime", "runtime/backends", "export", "video"])
def test_no_modules_import_each_other_in_a_circle(inside: str) -> None:
    """At import time; functions may import what imports their module. A part that is imported from
    its package (``from resharp import models``) is an arrow to that part alone."""
    modules = [p for p in MODULES if not inside or PACKAGE / inside in p.parents]
    names = {dotted(path) for path in modules} - {"resharp"}  # which only names what is public
    graph = {}
    for path in modules:
        found = list(imports(path, top_only=True))
        parts = {name for name in found if name in names}
        for package in tuple(parts):
            taken = {name for name in found if name.rpartition(".")[0] == package}
            if taken and taken <= names:
                parts.remove(package)
        graph[dotted(path)] = parts - {dotted(path)}
    TopologicalSorter(graph).prepare()


def dotted(path: Path) -> str:
    """The name by which a module is imported."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def test_no_room_outgrows_the_house() -> None:
    lines: dict[str, int] = defaultdict(int)
    for path in MODULES:
        lines[room(path)] += len(path.read_text(encoding="utf-8").splitlines())
    largest = max(lines, key=lambda name: lines[name])
    assert lines[largest] <= LARGEST_SHARE * sum(lines.values()), (largest, lines[largest])

"""The names of TensorRT that our code uses exist, in the bindings of each variant."""

from __future__ import annotations

import ast
import importlib
import json
from pathlib import Path

import pytest

import resharp
from tests.gpu.trt import bindings
from tests.gpu.trt.surface import ONLY, names

PACKAGE = Path(resharp.__file__).parent
PATTERNS = ("gpu/tensorrt.py", "export/engine/*.py", "runtime/backends/tensorrt/*.py")
"""Where code that speaks to TensorRT is."""
MODULES = sorted(path for pattern in PATTERNS for path in PACKAGE.glob(pattern))

LOOK = """
import json, sys
from tests.gpu.trt.surface import absent
print(json.dumps([trt.__version__, absent(trt, json.loads(sys.argv[1]))]))
"""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the stubs of all tests here."""
    return tmp_path_factory.mktemp("bindings")


def look(variant: str, wanted: list[str], scratch: Path) -> tuple[str, list[str]]:
    """The version of the bindings, and which of the names they lack."""
    version, lacking = json.loads(bindings.run(variant, LOOK, scratch, json.dumps(wanted)))
    return version, lacking


@pytest.mark.parametrize("variant", bindings.VARIANTS)
def test_every_name_exists(variant: str, scratch: Path) -> None:
    version, lacking = look(variant, sorted(names(variant)), scratch)
    assert lacking == []
    assert version == bindings.CLASSIC.get(variant, version)


@pytest.mark.parametrize("variant", bindings.VARIANTS)
def test_a_made_up_name_is_found_out(variant: str, scratch: Path) -> None:
    made_up = ["DataType.FLOAT17", "IBuilder", "Builder.build_engine_quickly"]
    _, lacking = look(variant, ["Builder", *made_up], scratch)
    assert lacking == sorted(made_up)


@pytest.mark.parametrize("variant", sorted(bindings.CLASSIC))
def test_what_is_said_to_be_of_rtx_alone_is(variant: str, scratch: Path) -> None:
    alone = sorted(names("rtx") - names(variant))
    _, lacking = look(variant, alone, scratch)
    assert lacking == alone


def test_the_variants_are_the_tables() -> None:
    assert set(ONLY) == set(bindings.VARIANTS)


def test_a_missing_wheel_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.prefix", "nowhere")
    said = bindings.missing("11")
    assert said is not None
    assert "pip install --no-deps --target nowhere" in said
    assert said.endswith("tensorrt-cu13-bindings==11.4.0.106")


class Uses(ast.NodeVisitor):
    """Collects the dotted names that a module takes from the name or attribute ``trt``.

    Also from plain aliases (``severity = trt.ILogger.Severity``), and ``hasattr(trt, "Name")``.
    What is called on instances escapes this: a test below, and ``spec_mock.py``, are for that.
    """

    def __init__(self) -> None:
        self.found: set[str] = set()
        self.aliases = {"trt": "", "_trt": ""}
        self.ours: set[str] = set()

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        ours = any((a.name, a.asname) == ("tensorrt", "trt") for a in node.names)
        if node.module == "resharp.gpu" and ours:
            self.ours |= set(vars(importlib.import_module("resharp.gpu.tensorrt")))

    def visit_Assign(self, node: ast.Assign) -> None:
        path = self.path(node.value)
        for target in node.targets:
            if path and isinstance(target, ast.Name):
                self.aliases[target.id] = path
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        path = self.path(node)
        if not path:
            self.generic_visit(node)
        elif path.partition(".")[0] not in self.ours:
            self.found.add(path)

    def visit_Call(self, node: ast.Call) -> None:
        match node:
            case ast.Call(
                func=ast.Name(id="hasattr" | "getattr"),
                args=[thing, ast.Constant(value=str(name)), *_],
            ):
                path = self.path(thing)
                if path is not None:
                    self.found.add(f"{path}.{name}".lstrip("."))
        self.generic_visit(node)

    def path(self, node: ast.expr) -> str | None:
        """Dotted name below the module; empty for the module, None for what is not of it."""
        if isinstance(node, ast.Name):
            return self.aliases.get(node.id)
        if not isinstance(node, ast.Attribute):
            return None
        above = self.path(node.value)
        if above is not None:
            return f"{above}.{node.attr}".lstrip(".")
        return "" if node.attr in ("trt", "_trt") else None


def uses(source: str) -> set[str]:
    """Names of TensorRT in a module's source, up to what is Python's own: ``__members__``."""
    visitor = Uses()
    visitor.visit(ast.parse(source))
    return {name.partition("__")[0].rstrip(".") for name in visitor.found} - {""}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_table_has_every_name_that_we_use(path: Path) -> None:
    known = frozenset().union(*map(names, bindings.VARIANTS))
    used = uses(path.read_text(encoding="utf-8"))
    assert used <= known, f"not in tests/gpu/trt/surface.py: {sorted(used - known)}"


MEMBERS = """
import inspect, json
classes = [c for _, c in inspect.getmembers(trt, inspect.isclass)]
print(json.dumps(sorted({m for c in classes for m in vars(c) if "_" in m.strip("_")})))
"""


@pytest.mark.parametrize("variant", bindings.VARIANTS)
def test_the_table_has_what_we_call_on_instances(variant: str, scratch: Path) -> None:
    """By name alone: those with an underscore inside are TensorRT's own, the rest are anyone's."""
    theirs = set(json.loads(bindings.run(variant, MEMBERS, scratch)))
    known = {name.rpartition(".")[2] for other in bindings.VARIANTS for name in names(other)}
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert used & theirs <= known, f"{path.name}: not in tests/gpu/trt/surface.py"


def test_there_is_code_to_look_at() -> None:
    found = set().union(*(uses(path.read_text(encoding="utf-8")) for path in MODULES))
    assert "ILogger" in found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("config.set(trt.BuilderFlag.FP16)", {"BuilderFlag.FP16"}),
        ("trt.Builder(trt.Logger()).create()", {"Builder", "Logger"}),
        ("kind = trt.DataType\nx = kind.FLOAT", {"DataType", "DataType.FLOAT"}),
        ("class A(trt.ILogger): pass", {"ILogger"}),
        ("self._trt.Runtime(self.log)", {"Runtime"}),
        ("dict(trt.EngineValidity.__members__), trt.__version__", {"EngineValidity"}),
        ("if hasattr(trt, 'ComputeCapability'): pass", {"ComputeCapability"}),
        ("from resharp.gpu import tensorrt as trt\ntrt.load(trt.RTX)", set()),
        ("other.Builder()", set()),
    ],
)
def test_a_use_is_seen(source: str, expected: set[str]) -> None:
    assert uses(source) == expected

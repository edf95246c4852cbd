"""Who may import whom, and what a bare environment can import."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import resharp
from resharp.errors import MissingExtraError
from resharp.optional import require

PACKAGE = Path(resharp.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
SHARED = {
    "checks",
    "drawing",
    "errors",
    "fsutil",
    "joining",
    "memory",
    "optional",
    "outputs",
    "paths",
    "reading",
    "types",
}
SHARED |= {"__init__", "opencv"}

MAY_IMPORT = {
    "gpu": set(),
    "weights": set(),
    "models": set(),
    "images": set(),
    "engines": {"gpu"},
    "export": {"models", "weights", "engines", "gpu"},
    "runtime": {"engines", "weights", "gpu"},
    "faces": {"engines", "weights", "runtime"},
    "pipeline": {"engines", "gpu", "runtime", "faces"},
    "folders": {"gpu", "images", "pipeline"},
    "video": {"engines", "gpu", "images", "pipeline"},
    "training": {"models", "weights", "engines", "export", "runtime", "images"},
    "compat": {"weights", "models", "engines", "export", "runtime", "gpu", "images", "faces"},
    "cluster": {"images", "pipeline", "folders", "video"},
    "bench": {"models", "engines", "export", "runtime", "gpu", "images"},
    "deploy": {"engines", "export", "gpu", "runtime", "weights"},
    "cli": {
        *("weights", "models", "engines", "export", "runtime", "gpu", "images", "faces", "video"),
        *("pipeline", "folders", "training", "compat", "cluster", "bench", "deploy"),
    },
}
"""Rooms that a room may import besides itself; DESIGN's rule, and training's place beside cli."""

HEAVY = {"torch", "onnx", "onnxruntime", "onnxscript", "safetensors", "tensorrt", "pycuda", "cuda"}
HEAVY |= {"av", "ray", "matplotlib", "jinja2", "pynvml", "psutil", "openvino", "ncnn", "pnnx"}
LATE = {"filelock", "platformdirs", "pooch", "tqdm", "PIL"}
"""Small packages of the base that are imported only inside functions."""
ALLOWED = {
    "models": {"torch", "safetensors"},
    "export": {"torch", "onnx", "onnxruntime"},
    "training": {"torch"},
}
"""Heavy packages that a room's modules may import; elsewhere they go through ``require``."""
IN_FUNCTIONS = {"bench": {"torch"}}
"""Heavy packages that a room may import inside functions, after ``require``."""
BACKEND_LIBRARY = {"torch": {"torch"}, "onnx": {"onnxruntime"}}
"""By file, or folder, of runtime/backends."""


TOP = {"deploy"}
"""Modules beside the rooms that stand above export and runtime."""


def room(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imports(path: Path, *, top_only: bool = False) -> Iterator[str]:
    """Dotted names that a module imports, type checking aside."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in _walk(tree, top_only):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _walk(node: ast.AST, top_only: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if top_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield child
        yield from _walk(child, top_only)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_import_only_what_they_may(path: Path) -> None:
    mine = room(path)
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top != "resharp" or not rest:
            continue
        other = rest.partition(".")[0]
        if mine in SHARED - {"__init__"}:
            assert other in SHARED, f"{path} imports {name}"
        elif mine in MAY_IMPORT and other in MAY_IMPORT and other != mine:
            torch_backend = path.parent == PACKAGE / "runtime" / "backends" / "torch"
            assert other in MAY_IMPORT[mine] or (torch_backend and other == "models"), (
                f"{path} imports {name}"
            )


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_packages_stay_in_their_rooms(path: Path) -> None:
    allowed = ALLOWED.get(room(path), set())
    inside = path.relative_to(PACKAGE).parts
    if inside[:2] == ("runtime", "backends"):
        allowed = BACKEND_LIBRARY.get(inside[2].removesuffix(".py"), set())
    found = {name.partition(".")[0] for name in imports(path)} & HEAVY
    assert found <= allowed | IN_FUNCTIONS.get(room(path), set())
    if room(path) not in ALLOWED:
        late = {name.partition(".")[0] for name in imports(path, top_only=True)}
        assert not late & (HEAVY | LATE)


def test_opencv_is_imported_where_its_environment_is_checked() -> None:
    assert [path.name for path in MODULES if "cv2" in imports(path)] == ["opencv.py"]


def test_every_room_has_its_rule() -> None:
    rooms = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()}
    assert rooms == set(MAY_IMPORT) - TOP


BARE = """
import importlib, importlib.abc, json, sys

class Bare(importlib.abc.MetaPathFinder):
    allowed = set(sys.stdlib_module_names) | {"numpy", "cv2", "click", "resharp", "colorama"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.allowed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, Bare())
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
print(len(json.loads(sys.argv[1])))
"""


def base_modules() -> list[str]:
    """Every module but those of the rooms that need torch, and their scripts."""
    names = []
    for path in MODULES:
        if room(path) in ALLOWED or path.name == "__main__.py":
            continue
        dotted = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        names.append(dotted.removesuffix(".__init__"))
    return names


def test_the_base_imports_with_nothing_but_numpy_opencv_and_click() -> None:
    names = base_modules()
    assert len(names) > 30
    done = subprocess.run(
        [sys.executable, "-c", BARE, json.dumps(names)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(names)


def test_a_missing_package_names_the_extra() -> None:
    script = BARE.partition("for name in")[0] + (
        "import numpy\n"
        "from resharp import Upscaler\n"
        "from resharp.errors import BackendError\n"
        "try:\n"
        "    Upscaler()\n"
        "except BackendError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "pip install 'resharp[cpu]'" in done.stdout, done.stderr
    assert "pip install 'resharp[torch]'" in done.stdout


IMPORTED = """
import json, sys
import numpy, cv2
before = set(sys.modules)
import resharp.opencv
assert 'resharp.runtime' not in sys.modules
from resharp import Upscaler
from resharp.optional import require
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_import_is_light() -> None:
    """Its time is that of numpy and OpenCV: ``python -m benchmarks.imports`` measures it."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True
    )
    names = json.loads(done.stdout)
    rooms = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    assert rooms <= {"resharp", "numpy", "cv2"}
    assert len([name for name in names if name.startswith("resharp")]) <= 40
    assert len(names) <= 120


LEAN = """
import sys
import resharp.runtime
print(*sorted(name for name in sys.modules if name.startswith("resharp.")))
"""


def test_the_runtime_loads_nothing_that_a_service_does_not_need() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARE.partition("for name in")[0] + LEAN],
        capture_output=True,
        text=True,
        check=True,
    )
    rooms = {name.split(".")[1] for name in done.stdout.split()}
    assert {"runtime", "engines", "gpu"} <= rooms
    assert not rooms & {"images", "video", "folders", "faces", "pipeline", "export", "models"}


def test_public_names() -> None:
    assert sorted(resharp.__all__) == [
        "Ensemble",
        "FaceRestorer",
        "Loader",
        "Progress",
        "ResharpError",
        "RestoreConfig",
        "Settings",
        "Upscaler",
        "VideoOptions",
        "__version__",
        "build_engines",
        "export_model",
        "model_info",
        "restore_folder",
        "restore_video",
    ]
    assert all(hasattr(resharp, name) for name in resharp.__all__)


def test_what_is_loaded_is_not_imported_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.10 takes a lock for it, on which a generator that is closed meanwhile may wait."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is imported again")

    monkeypatch.setattr("importlib.import_module", refuse)
    assert require("json", feature="x", extra="") is json
    monkeypatch.setitem(sys.modules, "json", None)
    with pytest.raises(MissingExtraError, match="json is imported again"):
        require("json", feature="x", extra="")

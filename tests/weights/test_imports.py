"""The room costs nothing until it is used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import resharp.weights

SCRIPT = """
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT} or name == "resharp.models":
            raise ModuleNotFoundError(f"no {name} here", name=name)

sys.meta_path.insert(0, Absent())
import resharp.weights
for module in pkgutil.iter_modules(resharp.weights.__path__, "resharp.weights."):
    importlib.import_module(module.name)
import resharp.cli.models
from resharp.weights import catalogue, resolve, verify
assert len(catalogue()) == 39
assert verify(["yunet"], sys.argv[1])[0].state == "missing"
try:
    resharp.weights.fetch(resolve("yunet", sys.argv[1]), sys.argv[1], timeout=0.1)
except Exception as error:
    print(error)
"""
ROOT = Path(resharp.weights.__file__).parents[2]
ABSENT = {"filelock", "pooch", "tqdm", "platformdirs", "requests", "urllib3", "torch", "onnx"}


def test_bare_import(tmp_path: Path) -> None:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("{ABSENT}", repr(ABSENT)), str(tmp_path / "w")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "needs the package filelock" in done.stdout


def test_public_names() -> None:
    assert sorted(resharp.weights.__all__) == resharp.weights.__all__
    for name in resharp.weights.__all__:
        assert hasattr(resharp.weights, name)

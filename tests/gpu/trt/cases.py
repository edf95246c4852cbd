"""Our code, driven by functions that run beside the real bindings.

A *case* is a function of a test module, marked with :func:`on`. It runs in the process of
``bindings.py``, against a module of ``spec_mock.py`` that is its own, and asserts. All cases of a
module and flavour share one process, since starting that takes longer than they do.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

from tests.fakes.spec_mock import spec_module
from tests.gpu.trt import bindings


@dataclass(frozen=True)
class Stand:
    """What a case is given."""

    real: Any
    """The bindings' own module."""
    trt: Any
    """Its stand-in."""
    flavour: str
    """One of ``bindings.FLAVOURS``."""
    folder: Path
    """An empty one."""

    @property
    def package(self) -> str:
        """The flavour by our name."""
        return "tensorrt_rtx" if self.flavour == bindings.RTX else "tensorrt"


Case = Callable[[Stand], None]


def on(*flavours: str) -> Callable[[Case], Case]:
    """Mark a case as one of these flavours."""

    def mark(case: Case) -> Case:
        case.__dict__["flavours"] = flavours
        return case

    return mark


def table(module: str) -> list[Any]:
    """Flavour and name of every case of a module, for ``parametrize``."""
    found = _cases(sys.modules[module]).items()
    return [pytest.param(f, name, id=f"{name}-{f}") for name, c in found for f in c.flavours]


@functools.cache
def outcomes(module: str, flavour: str, scratch: Path) -> dict[str, str]:
    """Run the cases of a module on a flavour: name -> what went wrong, empty if nothing did."""
    script = f"from tests.gpu.trt.cases import main\nprint(main({module!r}, trt, {flavour!r}))"
    said = bindings.run(flavour, script, scratch)
    return dict(json.loads(said.splitlines()[-1]))


def main(module: str, real: ModuleType, flavour: str) -> str:
    """Run the cases, in the process beside the bindings; give the outcomes as JSON."""
    found = {}
    for name, case in _cases(importlib.import_module(module)).items():
        if flavour in case.flavours:
            found[name] = _outcome(case, real, flavour)
    return json.dumps(found)


def _cases(module: ModuleType) -> dict[str, Any]:
    functions = {name: f for name, f in vars(module).items() if isinstance(f, FunctionType)}
    return {name: f for name, f in functions.items() if hasattr(f, "flavours")}


def _outcome(case: Case, real: ModuleType, flavour: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        name = "tensorrt_rtx" if flavour == bindings.RTX else "tensorrt"
        try:
            case(Stand(real, spec_module(real, name), flavour, Path(folder)))
        except BaseException:  # a KeyboardInterrupt is what a cancelled build raises
            return traceback.format_exc()
    return ""

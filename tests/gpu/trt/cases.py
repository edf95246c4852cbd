"""Our code, driven by functions that run next to the real bindings.

A *case* is a function of a test module, marked with :func:`on`. It runs in the process of
``bindings.py``, against a module of ``spec_mock.py`` that is its own, and asserts. All cases of a
module and variant share one process, since starting that takes longer than they do.
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
    variant: str
    """One of ``bindings.VARIANTS``."""
    folder: Path
    """An empty one."""

    @property
    def package(self) -> str:
        """The variant by our name."""
        return "tensorrt_rtx" if self.variant == bindings.RTX else "tensorrt"


Case = Callable[[Stand], None]


def on(*variants: str) -> Callable[[Case], Case]:
    """Mark a case as one of these variants."""

    def mark(case: Case) -> Case:
        case.__dict__["variants"] = variants
        return case

    return mark


def table(module: str) -> list[Any]:
    """Variant and name of every case of a module, for ``parametrize``."""
    found = _cases(sys.modules[module]).items()
    return [pytest.param(f, name, id=f"{name}-{f}") for name, c in found for f in c.variants]


@functools.cache
def outcomes(module: str, variant: str, scratch: Path) -> dict[str, str]:
    """Run the cases of a module on a variant: name -> what went wrong, empty if nothing did."""
    script = f"from tests.gpu.trt.cases import main\nprint(main({module!r}, trt, {variant!r}))"
    said = bindings.run(variant, script, scratch)
    return dict(json.loads(said.splitlines()[-1]))


def main(module: str, real: ModuleType, variant: str) -> str:
    """Run the cases, in the process with the bindings; return the outcomes as JSON."""
    found = {}
    for name, case in _cases(importlib.import_module(module)).items():
        if variant in case.variants:
            found[name] = _outcome(case, real, variant)
    return json.dumps(found)


def _cases(module: ModuleType) -> dict[str, Any]:
    functions = {name: f for name, f in vars(module).items() if isinstance(f, FunctionType)}
    return {name: f for name, f in functions.items() if hasattr(f, "variants")}


def _outcome(case: Case, real: ModuleType, variant: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        name = "tensorrt_rtx" if variant == bindings.RTX else "tensorrt"
        try:
            case(Stand(real, spec_module(real, name), variant, Path(folder)))
        except BaseException:  # a KeyboardInterrupt is what a cancelled build raises
            return traceback.format_exc()
    return ""

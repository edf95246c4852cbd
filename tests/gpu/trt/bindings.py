"""Run a script with the real Python bindings of a TensorRT, on a machine that has no TensorRT.

NVIDIA's index has the classic bindings as ordinary wheels, but not the libraries behind them. The
bindings import where three shared libraries of the right names define nine functions, so stubs that
the system's C compiler makes are enough to ask which names exist. Nothing can be built or run:
every function returns NULL. TensorRT-RTX has its libraries in wheels and needs no stubs.

Each script runs in a process of its own: two bindings in one process would share symbols, and a
mistake around a NULL ends a process.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLASSIC = {"10": "10.16.1.11", "11": "11.4.0.106"}
"""Variant -> version of ``tensorrt-cu13-bindings``, as the Makefile installs them."""
RTX = "rtx"
VARIANTS = (*CLASSIC, RTX)

STUBS = {
    "libnvinfer": (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getPluginRegistry",
        "getBuilderPluginRegistry",
    ),
    "libnvonnxparser": (
        "createNvOnnxParser_INTERNAL",
        "createNvOnnxParserRefitter_INTERNAL",
        "getNvOnnxParserVersion",
    ),
    "libnvinfer_plugin": ("initLibNvInferPlugins",),
}
"""Library -> the functions that the bindings leave undefined."""


def folder(variant: str) -> Path:
    """Where the unpacked wheel of a classic variant is, if it is."""
    return Path(sys.prefix) / "tensorrt-bindings" / CLASSIC[variant]


def missing(variant: str) -> str | None:
    """Why a variant's bindings cannot be imported here, and what installs them; None if they can.

    The import itself is left to :func:`run`: a broken one shall fail, not skip.
    """
    if variant == RTX:
        if importlib.util.find_spec("tensorrt_rtx_bindings"):
            return None
        wheels = "tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings"
        return f"no TensorRT-RTX bindings: pip install -c constraints.txt {wheels}"
    if not (folder(variant) / "tensorrt_bindings").is_dir():
        return (
            f"no TensorRT {variant} bindings: pip install --no-deps --target {folder(variant)} "
            f"tensorrt-cu13-bindings=={CLASSIC[variant]}"
        )
    if _compiler() is None:
        return "no C compiler for the stub libraries: install gcc or clang"
    return None


def run(variant: str, script: str, scratch: Path, *arguments: str) -> str:
    """Run ``script``, in which ``trt`` is the bindings' module; give what it printed.

    Args:
        variant: one of ``VARIANTS``; the test is skipped where it is :func:`missing`.
        script: Python source; this repository is importable in it.
        scratch: folder for the stub libraries; they are made once for each.
        arguments: the script's ``sys.argv[1:]``.

    Raises:
        AssertionError: the script failed; the message is what it said.
    """
    reason = missing(variant)
    if reason is not None:
        pytest.skip(reason)
    paths, module = [ROOT], "tensorrt_rtx_bindings"
    environment = dict(os.environ)
    if variant != RTX:
        paths, module = [folder(variant), ROOT], "tensorrt_bindings"
        environment["LD_LIBRARY_PATH"] = str(stub_libraries(variant, scratch))
        # Libraries of a real TensorRT next to us would be loaded first, maybe of another version.
        script = f"import sys\nsys.modules['tensorrt_libs'] = None\n{_import(module)}{script}"
    else:
        script = _import(module) + script
    environment["PYTHONPATH"] = os.pathsep.join(map(str, paths))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=scratch,
    )
    assert done.returncode == 0, f"rc {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def stub_libraries(variant: str, scratch: Path) -> Path:
    """Folder of the stub libraries for a classic variant, made if it is not there."""
    into = scratch / f"stubs-{variant}"
    into.mkdir(exist_ok=True)
    compiler = _compiler()
    assert compiler is not None
    for name, functions in STUBS.items():
        library = into / f"{name}.so.{variant}"
        if library.exists():
            continue
        source = into / f"{name}.c"
        source.write_text("".join(f"void *{f}(void) {{ return 0; }}\n" for f in functions))
        # The soname is what the bindings ask for.
        flags = ["-shared", "-fPIC", f"-Wl,-soname,{library.name}"]
        subprocess.run([compiler, *flags, "-o", str(library), str(source)], check=True)
    return into


def _compiler() -> str | None:
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def _import(module: str) -> str:
    return f"import {module} as trt\n"

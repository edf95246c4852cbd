"""The way of one picture: how many files of the package it takes, and how deep the network is.

A file counts if one of its functions runs, in any thread, once the modules are imported; bodies of
modules and classes, lambdas and comprehensions do not count by themselves. The depth is the number
of the package's functions between a thread's start and onnxruntime's ``run``, generators that are
waited on included.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import resharp
from resharp.drawing import draw
from resharp.images import Metadata, write

COUNT = """
import inspect, json, os, sys, threading
import cv2, numpy, onnxruntime
import resharp, resharp.cli.upscale, resharp.runtime.backends.onnx

ROOT = os.path.dirname(resharp.__file__) + os.sep
files, depths = {}, []

def ours(code):
    named = not code.co_name.startswith("<") and code.co_flags & inspect.CO_NEWLOCALS
    return named and code.co_flags & inspect.CO_OPTIMIZED and code.co_filename.startswith(ROOT)

def hook(frame, event, argument):
    if event != "call":
        return
    code = frame.f_code
    if ours(code):
        files.setdefault(code.co_filename[len(ROOT):], set()).add(code.co_name)
    elif code.co_name == "run" and "onnxruntime" in code.co_filename:
        names = []
        while frame := frame.f_back:
            if ours(frame.f_code):
                names.append(f"{frame.f_code.co_filename[len(ROOT):]}:{frame.f_code.co_name}")
        depths.append(names)

def command():
    from resharp.cli import main
    options = ["--backend", "onnx", "--device", sys.argv[2]]
    main(["upscale", "one.jpg", "-o", "out/", *options], standalone_mode=False)

def embedded():
    with resharp.Upscaler(backend="onnx", device=sys.argv[2]) as upscaler:
        upscaler(image)

image = cv2.imread("one.jpg")
threading.setprofile(hook)
sys.setprofile(hook)
{"command": command, "embedded": embedded}[sys.argv[1]]()
sys.setprofile(None)
threading.setprofile(None)
print(json.dumps([sorted(files), max(depths, key=len)]))
"""


# A TIFF block with one tag: orientation 6, a quarter turn.
EXIF = Metadata(
    exif=struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 274, 3, 1, 6, 0, 0),
)


def _counted(
    way: str, device: str, folder: Path, metadata: Metadata | None = None
) -> tuple[list[str], list[str]]:
    write(folder / "one.jpg", draw(48, 64), metadata=metadata or Metadata())
    root = Path(resharp.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", COUNT, way, device],
        cwd=folder,
        env={"PYTHONPATH": str(root), "RESHARP_HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files, deepest = json.loads(done.stdout.splitlines()[-1])
    return files, deepest


@pytest.mark.parametrize("metadata", [None, EXIF], ids=["plain", "exif"])
@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_the_command(device: str, metadata: Metadata | None, tmp_path: Path) -> None:
    files, deepest = _counted("command", device, tmp_path, metadata)
    assert (tmp_path / "out" / "one.jpg").exists()
    assert len(files) <= (39 if metadata is None else 41), files
    assert len(deepest) <= 8, deepest


def test_an_embedded_upscaler(tmp_path: Path) -> None:
    files, deepest = _counted("embedded", "cpu", tmp_path)
    assert len(files) <= 17, files
    assert len(deepest) <= 5, deepest
    assert not any(name.startswith(("folders", "pipeline", "cli", "weights")) for name in files)

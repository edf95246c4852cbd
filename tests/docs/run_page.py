"""``python -m tests.docs.run_page PAGE``: run the blocks of a page, in order, in this folder."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import traceback
from typing import Any
from unittest import mock

import numpy as np
from click.testing import CliRunner

from resharp.cli import main as command
from resharp.faces import Face
from tests.docs.blocks import PYTHON, Block, blocks, commands, resharp_arguments

PLAIN = ("mkdir", "ls")
"""Other commands that blocks may use."""


class OneFace:
    """In place of YuNet, whose file is a download: one face in the center of each image."""

    def __init__(self, weights_dir: Any = None) -> None:
        pass

    def __call__(self, image: Any) -> tuple[Face, ...]:
        """Find it."""
        offsets = np.array([[-6, -6], [6, -6], [0, 0], [-5, 6], [5, 6]], np.float64)
        center = np.array([image.shape[1] / 2, image.shape[0] / 2])
        return (Face(landmarks=center + offsets, score=0.95),)


def run_python(block: Block, names: dict[str, Any]) -> None:
    """Run a block of Python; names stay for the page's next one."""
    code = compile("\n" * block.line + block.text, block.page, "exec")
    exec(code, names)


def run_shell(block: Block) -> None:
    """Run the commands of a block.

    Raises:
        AssertionError: one failed, or is not one that can run here.
    """
    for words in commands(block.text):
        line = " ".join(words)
        arguments = resharp_arguments(words)
        if arguments is None:
            assert words[0] in PLAIN, f"`{line}` cannot run here: mark the block as not run"
            subprocess.run(words, check=True)
            continue
        pairs = [word.partition("=") for word in words if re.match(r"[A-Z_]+=", word)]
        with changed({name: value for name, _, value in pairs}):
            done = CliRunner().invoke(command, arguments, prog_name="resharp")
        error = done.exception
        trace = (
            "".join(traceback.format_exception(error))
            if error and not isinstance(error, SystemExit)
            else ""
        )
        sys.stdout.write(f"$ {line}\n{done.output}\n")
        assert done.exit_code == 0, f"`{line}` ended with {done.exit_code}\n{trace}"


@contextlib.contextmanager
def changed(values: dict[str, str]) -> Any:
    """Set environment variables for a while."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def main() -> int:
    """Run the page; the first block that fails is named, with its trace."""
    mock.patch("resharp.faces.face_restorer.YuNet", OneFace).start()
    names: dict[str, Any] = {"__name__": "__page__"}
    for block in blocks(sys.argv[1]):
        if block.reason is not None:
            continue
        try:
            if block.language == PYTHON:
                run_python(block, names)
            else:
                run_shell(block)
        except BaseException:
            traceback.print_exc()
            sys.stderr.write(f"failed: the block at {block.place}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
